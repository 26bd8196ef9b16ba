// Runs one layer a given number of times, for a tool that counts instructions:
//
//   kernel_cost ISA FORMAT M N K CALLS        kernel_cost neon_dotprod int8 48 3072 768 1
//
// Two runs that differ by one call differ by exactly the instructions of that call. Prints the compiler; an address on the
// stack, below which lies what belongs to the functions that main calls; and the multiply-adds that a call needs.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "edgekern/edgekern.h"

namespace {

void require(ek_status status, const char* what) {
  if (status == EK_OK) return;
  fprintf(stderr, "kernel_cost: %s: %s\n", what, ek_status_message(status));
  exit(1);
}

struct Free {
  void operator()(void* p) const { free(p); }
};

// A form of the matrix, and of which blocks of weights one in `one_in` is kept whole: what the form is for.
struct Format {
  const char* name;
  bool int4;  // of groups of 128 with zero points; or int8
  int form;
  int64_t block_rows, block_columns;
  uint32_t one_in;
};
constexpr Format kFormats[] = {{"int8", false, EK_INT8_DENSE, 1, 1, 1},
                               {"int8_blocks_1x4", false, EK_INT8_BLOCKS_1, 1, 4, 10},
                               {"int8_blocks_4x4", false, EK_INT8_BLOCKS_4, 4, 4, 10},
                               {"int8_bitmap", false, EK_INT8_BITMAP, 1, 1, 2},
                               {"int4", true, EK_INT4_DENSE, 1, 1, 1},
                               {"int4_bitmap", true, EK_INT4_BITMAP, 1, 1, 2}};

const Format* find_format(const char* name) {
  for (const Format& format : kFormats)
    if (strcmp(format.name, name) == 0) return &format;
  return nullptr;
}

std::vector<int8_t> weights_of(const Format& format, int64_t n, int64_t k, std::mt19937& random) {
  std::vector<int8_t> weights(n * k);
  for (int64_t row = 0; row < n; row += format.block_rows)
    for (int64_t column = 0; column < k; column += format.block_columns) {
      if (random() % format.one_in != 0) continue;
      for (int64_t i = row; i < std::min(row + format.block_rows, n); ++i)
        for (int64_t j = column; j < std::min(column + format.block_columns, k); ++j)
          weights[i * k + j] = static_cast<int8_t>(random() % 127 + 1);
    }
  return weights;
}

// A layer: packed weights, and a call of it.
struct Layer {
  const ek_isa* isa;
  int64_t m, n, k;
  std::vector<float> lhs, y;
  std::unique_ptr<void, Free> packed;
  size_t size = 0;
  std::vector<char> workspace;

  void reserve(size_t packed_size, size_t workspace_size) {
    size = packed_size;
    packed.reset(aligned_alloc(64, (size + 63) / 64 * 64));
    workspace.resize(workspace_size);
  }

  void pack_int8(const Format& format, const std::vector<int8_t>& weights) {
    auto form = static_cast<ek_int8_form>(format.form);
    std::vector<float> scale(n, 0.01f);
    reserve(ek_int8_packed_size(isa, form, n, k, weights.data(), k, nullptr), ek_int8_workspace_size(isa, form, m, k));
    require(ek_int8_pack(isa, form, n, k, weights.data(), k, scale.data(), nullptr, packed.get(), size, nullptr), "pack");
  }
  void pack_int4(const Format& format, const std::vector<int8_t>& weights) {
    constexpr int64_t kGroup = 128;
    constexpr int kZero = 7;
    auto form = static_cast<ek_int4_form>(format.form);
    int64_t row = (k + 1) / 2, groups = (k + kGroup - 1) / kGroup;
    std::vector<uint8_t> w(n * row), zero(n * groups, kZero);
    std::vector<uint16_t> scale(n * groups, 0x211f);  // 0.01 as f16
    for (int64_t i = 0; i < n * k; ++i) {
      int nibble = weights[i] == 0 ? kZero : (kZero + 1 + weights[i] % 15) % 16;
      w[i / k * row + i % k / 2] |= static_cast<uint8_t>(nibble << 4 * (i % k % 2));
    }
    reserve(ek_int4_packed_size(isa, form, n, k, kGroup, w.data(), row, zero.data(), nullptr),
            ek_int4_workspace_size(isa, m, k));
    require(
        ek_int4_pack(isa, form, n, k, kGroup, w.data(), row, scale.data(), zero.data(), nullptr, packed.get(), size, nullptr),
        "pack");
  }
  void call(const Format& format) {
    auto linear = format.int4 ? ek_int4_linear : ek_int8_linear;
    require(linear(isa, packed.get(), size, m, lhs.data(), EK_F32, k, y.data(), n, EK_NONE, workspace.data(), workspace.size(),
                   nullptr),
            "linear");
  }
};

void run(const ek_isa* isa, const Format& format, int64_t m, int64_t n, int64_t k, int calls) {
  std::mt19937 random(1);
  std::vector<int8_t> weights = weights_of(format, n, k, random);
  Layer layer{isa, m, n, k, std::vector<float>(m * k), std::vector<float>(m * n), nullptr, 0, {}};
  for (float& x : layer.lhs) x = static_cast<float>(random() % 2001) / 1000 - 1;
  if (format.int4)
    layer.pack_int4(format, weights);
  else
    layer.pack_int8(format, weights);
  for (int i = 0; i < calls; ++i) layer.call(format);
  int64_t kept = n * k - std::count(weights.begin(), weights.end(), 0);
  printf("macs %" PRId64 "\n", m * kept);
}

}  // namespace

int main(int argc, char** argv) {
  const Format* format = argc == 7 ? find_format(argv[2]) : nullptr;
  if (format == nullptr) {
    fprintf(stderr, "usage: kernel_cost ISA FORMAT M N K CALLS, FORMAT being one of:");
    for (const Format& known : kFormats) fprintf(stderr, " %s", known.name);
    fprintf(stderr, "\n");
    return 2;
  }
  const ek_isa* isa = ek_isa_find(argv[1]);
  if (isa == nullptr) {
    fprintf(stderr, "kernel_cost: no ISA %s in this build\n", argv[1]);
    return 2;
  }
  int64_t sizes[4];
  for (int i = 0; i < 4; ++i) {
    sizes[i] = atoll(argv[3 + i]);
    if (sizes[i] > 0) continue;
    fprintf(stderr, "kernel_cost: M, N, K and CALLS: expected a positive number, got %s\n", argv[3 + i]);
    return 2;
  }
  printf("compiler %s\nstack %p\n", __VERSION__, __builtin_frame_address(0));
  run(isa, *format, sizes[0], sizes[1], sizes[2], static_cast<int>(sizes[3]));
  return 0;
}

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
#include <functional>
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

// A packed matrix and how to run it: from lhs [m][k] to y [m][n], with its workspace.
struct Layer {
  std::unique_ptr<void, Free> packed;
  size_t size, workspace_size;
  std::function<ek_status(const Layer& layer, const float* lhs, float* y, void* workspace)> run;

  explicit Layer(size_t size_) : packed(aligned_alloc(64, (size_ + 63) / 64 * 64)), size(size_) {}
};

struct Problem {
  const ek_isa* isa;
  int64_t m, n, k;
  std::vector<int8_t> weights;
};

template <ek_int8_form kForm>
Layer int8_layer(const Problem& p) {
  std::vector<float> scale(p.n, 0.01f);
  Layer layer(ek_int8_packed_size(p.isa, kForm, p.n, p.k, p.weights.data(), p.k, nullptr));
  require(ek_int8_pack(p.isa, kForm, p.n, p.k, p.weights.data(), p.k, scale.data(), nullptr, layer.packed.get(), layer.size,
                       nullptr),
          "pack");
  layer.workspace_size = ek_int8_workspace_size(p.isa, kForm, p.m, p.k);
  layer.run = [&p](const Layer& from, const float* lhs, float* y, void* workspace) {
    return ek_int8_linear(p.isa, from.packed.get(), from.size, p.m, lhs, EK_F32, p.k, y, p.n, EK_NONE, workspace,
                          from.workspace_size, nullptr);
  };
  return layer;
}

// Of groups of 128 with zero points, whose own zero is not the middle.
template <ek_int4_form kForm>
Layer int4_layer(const Problem& p) {
  constexpr int64_t kGroup = 128;
  constexpr int kZero = 7;
  int64_t row = (p.k + 1) / 2, groups = (p.k + kGroup - 1) / kGroup;
  std::vector<uint8_t> w(p.n * row), zero(p.n * groups, kZero);
  std::vector<uint16_t> scale(p.n * groups, 0x211f);  // 0.01 as f16
  for (int64_t i = 0; i < p.n * p.k; ++i) {
    int nibble = p.weights[i] == 0 ? kZero : (kZero + 1 + p.weights[i] % 15) % 16;
    w[i / p.k * row + i % p.k / 2] |= static_cast<uint8_t>(nibble << 4 * (i % p.k % 2));
  }
  Layer layer(ek_int4_packed_size(p.isa, kForm, p.n, p.k, kGroup, w.data(), row, zero.data(), nullptr));
  require(ek_int4_pack(p.isa, kForm, p.n, p.k, kGroup, w.data(), row, scale.data(), zero.data(), nullptr, layer.packed.get(),
                       layer.size, nullptr),
          "pack");
  layer.workspace_size = ek_int4_workspace_size(p.isa, p.m, p.k);
  layer.run = [&p](const Layer& from, const float* lhs, float* y, void* workspace) {
    return ek_int4_linear(p.isa, from.packed.get(), from.size, p.m, lhs, EK_F32, p.k, y, p.n, EK_NONE, workspace,
                          from.workspace_size, nullptr);
  };
  return layer;
}

template <int64_t kChannels, auto kPackedSize, auto kPack, auto kWorkspaceSize, auto kLinear>
Layer float_layer(const Problem& p) {
  std::vector<float> weights(p.weights.begin(), p.weights.end());
  Layer layer(kPackedSize(kChannels, p.n, p.k, weights.data(), EK_F32, p.k, nullptr));
  require(kPack(kChannels, p.n, p.k, weights.data(), EK_F32, p.k, nullptr, layer.packed.get(), layer.size, nullptr), "pack");
  layer.workspace_size = kWorkspaceSize(p.isa, kChannels, p.m, p.k);
  layer.run = [&p](const Layer& from, const float* lhs, float* y, void* workspace) {
    return kLinear(p.isa, from.packed.get(), from.size, p.m, lhs, EK_F32, p.k, y, p.n, EK_NONE, workspace, from.workspace_size,
                   nullptr);
  };
  return layer;
}

template <int64_t kChannels>
constexpr auto kF32Layer = float_layer<kChannels, ek_f32_packed_size, ek_f32_pack, ek_f32_workspace_size, ek_f32_linear>;
template <int64_t kChannels>
constexpr auto kF16Layer = float_layer<kChannels, ek_f16_packed_size, ek_f16_pack, ek_f16_workspace_size, ek_f16_linear>;

// How a matrix is packed, and of which blocks of weights one in `one_in` is kept whole: what the format is for.
struct Format {
  const char* name;
  Layer (*pack)(const Problem& problem);
  int64_t block_rows, block_columns;
  uint32_t one_in;
};
constexpr Format kFormats[] = {{"int8", int8_layer<EK_INT8_DENSE>, 1, 1, 1},
                               {"int8_blocks_1x4", int8_layer<EK_INT8_BLOCKS_1>, 1, 4, 10},
                               {"int8_blocks_4x4", int8_layer<EK_INT8_BLOCKS_4>, 4, 4, 10},
                               {"int8_bitmap", int8_layer<EK_INT8_BITMAP>, 1, 1, 2},
                               {"int4", int4_layer<EK_INT4_DENSE>, 1, 1, 1},
                               {"int4_bitmap", int4_layer<EK_INT4_BITMAP>, 1, 1, 2},
                               {"f32_1x4", kF32Layer<1>, 1, 4, 10},
                               {"f32_4x4", kF32Layer<4>, 4, 4, 10},
                               {"f16_1x4", kF16Layer<1>, 1, 4, 10},
                               {"f16_4x4", kF16Layer<4>, 4, 4, 10}};

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

void run(const ek_isa* isa, const Format& format, int64_t m, int64_t n, int64_t k, int calls) {
  std::mt19937 random(1);
  Problem problem{isa, m, n, k, weights_of(format, n, k, random)};
  std::vector<float> lhs(m * k), y(m * n);
  for (float& x : lhs) x = static_cast<float>(random() % 2001) / 1000 - 1;
  Layer layer = format.pack(problem);
  std::vector<char> workspace(layer.workspace_size);
  for (int i = 0; i < calls; ++i) require(layer.run(layer, lhs.data(), y.data(), workspace.data()), "linear");
  int64_t kept = n * k - std::count(problem.weights.begin(), problem.weights.end(), 0);
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

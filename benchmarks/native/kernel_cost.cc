// Runs one layer a given number of times, for a tool that counts instructions:
//
//   kernel_cost ISA FORMAT M N K CALLS        kernel_cost neon_dotprod int8 48 3072 768 1
//
// Two runs that differ by one call differ by exactly the instructions of that call. Prints the compiler, and an address
// on the stack: what lies below it belongs to the functions that main calls.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

void run_int8(const ek_isa* isa, int64_t m, int64_t n, int64_t k, int calls) {
  std::mt19937 random(1);
  std::vector<int8_t> weights(n * k);
  for (int8_t& w : weights) w = static_cast<int8_t>(random());
  std::vector<float> scale(n, 0.01f), lhs(m * k), y(m * n);
  for (float& x : lhs) x = static_cast<float>(random() % 2001) / 1000 - 1;

  size_t size = ek_int8_packed_size(isa, EK_INT8_DENSE, n, k, nullptr, 0, nullptr);
  std::unique_ptr<void, Free> packed(aligned_alloc(64, (size + 63) / 64 * 64));
  require(ek_int8_pack(isa, EK_INT8_DENSE, n, k, weights.data(), k, scale.data(), nullptr, packed.get(), size, nullptr),
          "pack");
  std::vector<char> workspace(ek_int8_workspace_size(isa, EK_INT8_DENSE, m, k));
  for (int i = 0; i < calls; ++i)
    require(ek_int8_linear(isa, packed.get(), size, m, lhs.data(), EK_F32, k, y.data(), n, EK_NONE, workspace.data(),
                           workspace.size(), nullptr),
            "linear");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7 || strcmp(argv[2], "int8") != 0) {
    fprintf(stderr, "usage: kernel_cost ISA int8 M N K CALLS\n");
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
  run_int8(isa, sizes[0], sizes[1], sizes[2], static_cast<int>(sizes[3]));
  return 0;
}

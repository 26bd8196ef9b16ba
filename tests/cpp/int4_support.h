// int4 weights for tests, packed, and the layer over them.
#pragma once

#include <math.h>

#include "base/half.h"
#include "formats/int4/reference.h"
#include "support.h"

namespace edgekern::test {

inline constexpr ek_int4_form kInt4Forms[] = {EK_INT4_DENSE, EK_INT4_BITMAP, EK_INT4_BITMAP_2};

// Random weights, of which about `density` are not zero.
struct Int4Weights : int4::reference::Weights {
  std::vector<float> bias;

  Int4Weights(int64_t n_, int64_t k_, int64_t group_size_, double density, bool symmetric, uint32_t seed = 1)
      : Weights{n_, k_, group_size_, {}, {}, {}} {
    Random random(seed);
    w.resize(n * row_bytes());
    bias = random.normals(n);
    for (float v : random.uniforms(n * groups())) scale.push_back(f32_to_f16(0.002f + 0.02f * v));
    if (!symmetric) zero = random.integers<uint8_t>(n * groups(), 0, 15);
    std::vector<float> chance = random.uniforms(n * k);
    std::vector<int> values = random.integers<int>(n * k, 0, 15);
    for (int64_t i = 0; i < n * k; ++i)
      put(i / k, i % k, chance[i] < density ? values[i] : symmetric ? 8 : zero[group_at(i / k, i % k)]);
  }
  void put(int64_t row, int64_t column, int value) {
    uint8_t& byte = w[row * row_bytes() + column / 2];
    byte = static_cast<uint8_t>(column % 2 == 0 ? (byte & 0xf0) | value : (byte & 0x0f) | value << 4);
  }
  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
  const uint8_t* zero_or_null() const { return zero.empty() ? nullptr : zero.data(); }
};

class Int4Packed {
 public:
  Int4Packed(const ek_isa* isa, ek_int4_form form, const Int4Weights& rhs, const ek_parallel* parallel = nullptr)
      : size(ek_int4_packed_size(isa, form, rhs.n, rhs.k, rhs.group_size, rhs.w.data(), rhs.row_bytes(), rhs.zero_or_null(),
                                 parallel)),
        storage_(size + 64, '\x5a') {  // packing writes every byte
    REQUIRE(size > 0);
    data = storage_.data() + (64 - reinterpret_cast<uintptr_t>(storage_.data()) % 64) % 64;
    REQUIRE(ek_int4_pack(isa, form, rhs.n, rhs.k, rhs.group_size, rhs.w.data(), rhs.row_bytes(), rhs.scale.data(),
                         rhs.zero_or_null(), rhs.bias_or_null(), data, size, parallel) == EK_OK);
  }
  Int4Packed(const Int4Packed&) = delete;

  size_t size;
  char* data;

 private:
  std::vector<char> storage_;
};

inline std::vector<float> int4_linear(const ek_isa* isa, const Int4Packed& packed, int64_t m, const std::vector<float>& x,
                                      ek_activation activation = EK_NONE, const ek_parallel* parallel = nullptr) {
  ek_int4_shape shape;
  REQUIRE(ek_int4_describe(packed.data, packed.size, &shape) == EK_OK);
  std::vector<float> y(m * shape.n);
  std::vector<char> scratch(ek_int4_workspace_size(isa, m, shape.k));
  ek_status status = ek_int4_linear(isa, packed.data, packed.size, m, x.data(), EK_F32, shape.k, y.data(), shape.n, activation,
                                    scratch.data(), scratch.size(), parallel);
  REQUIRE_MESSAGE(status == EK_OK, ek_status_message(status));
  return y;
}

}  // namespace edgekern::test

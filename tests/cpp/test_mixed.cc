// int8 and int4 weights by activations that stay floats: within the bound of edgekern.h on every ISA, tails, dtypes, threads.
#include <doctest/doctest.h>
#include <math.h>

#include <algorithm>

#include "base/half.h"
#include "formats/activation_reference.h"
#include "int4_support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

// A packed layer of either format, and the weights it stands for.
struct Layer {
  int64_t n, k;
  const void* packed;
  size_t size;
  decltype(&ek_int8_float_linear) run;
  decltype(&ek_int8_float_workspace_size) workspace;
  std::vector<double> weights;  // [n][k]
  std::vector<float> bias;      // empty: none

  ek_status call(const ek_isa* isa, int64_t m, const void* x, ek_dtype dtype, int64_t ld_x, void* y, int64_t ld_y,
                 ek_activation activation = EK_NONE, const ek_parallel* parallel = nullptr) const {
    std::vector<char> scratch(workspace(isa, m, k));
    return run(isa, packed, size, m, x, dtype, ld_x, y, ld_y, activation, scratch.data(), scratch.size(), parallel);
  }
  std::vector<float> linear(const ek_isa* isa, int64_t m, const std::vector<float>& x, ek_activation activation = EK_NONE,
                            const ek_parallel* parallel = nullptr) const {
    std::vector<float> y(m * n);
    ek_status status = call(isa, m, x.data(), EK_F32, k, y.data(), n, activation, parallel);
    REQUIRE_MESSAGE(status == EK_OK, ek_status_message(status));
    return y;
  }
};

Layer layer_of(const ek_isa* isa, const Matrix& rhs) {
  Layer layer{rhs.n, rhs.k,   rhs.packed(isa), rhs.packed_size(isa), ek_int8_float_linear, ek_int8_float_workspace_size,
              {},    rhs.bias};
  for (int64_t i = 0; i < rhs.n * rhs.k; ++i) layer.weights.push_back(double{rhs.scale[i / rhs.k]} * rhs.w[i]);
  return layer;
}

Layer layer_of(const Int4Weights& rhs, const Int4Packed& packed) {
  Layer layer{rhs.n, rhs.k, packed.data, packed.size, ek_int4_float_linear, ek_int4_float_workspace_size, {}, rhs.bias};
  for (int64_t i = 0; i < rhs.n * rhs.k; ++i) layer.weights.push_back(rhs.value(i / rhs.k, i % rhs.k));
  return layer;
}

// y of one output, and what edgekern.h allows it to be off by before activation.
struct Wanted {
  double y, error;
};
Wanted wanted_of(const Layer& layer, const float* x, int64_t n, ek_activation activation) {
  double sum = 0, magnitude = 0, bias = layer.bias.empty() ? 0.0 : layer.bias[n];
  for (int64_t l = 0; l < layer.k; ++l) {
    sum += x[l] * layer.weights[n * layer.k + l];
    magnitude += fabs(x[l] * layer.weights[n * layer.k + l]);
  }
  return {edgekern::reference::activate(sum + bias, activation),
          static_cast<double>(layer.k + 4) * ldexp(1, -23) * (magnitude + fabs(bias))};
}

void check_layer(const ek_isa* isa, const Layer& layer, int64_t m, ek_activation activation = EK_NONE) {
  std::vector<float> x = Random(static_cast<uint32_t>(m)).normals(m * layer.k, 0.3f);
  std::vector<float> got = layer.linear(isa, m, x, activation);
  int wrong = 0;
  for (int64_t i = 0; i < m * layer.n; ++i) {
    Wanted wanted = wanted_of(layer, x.data() + i / layer.n * layer.k, i % layer.n, activation);
    wrong += close(got[i], wanted.y, wanted.error, activation) ? 0 : 1;
  }
  CHECK_MESSAGE(wrong == 0, ek_isa_name(isa), " m=", m, " n=", layer.n, " k=", layer.k);
}

void check(const Matrix& rhs, int64_t m, ek_activation activation = EK_NONE) {
  for (const ek_isa* isa : tested_isas()) check_layer(isa, layer_of(isa, rhs), m, activation);
}
void check(const Int4Weights& rhs, int64_t m, ek_activation activation = EK_NONE) {
  for (const ek_isa* isa : tested_isas()) {
    Int4Packed packed(isa, EK_INT4_DENSE, rhs);
    check_layer(isa, layer_of(rhs, packed), m, activation);
  }
}

}  // namespace

TEST_CASE("mixed: every row tail") {
  for (int64_t m = 1; m <= 26; ++m) {
    check(Matrix::random(50, 67, static_cast<uint32_t>(m), m % 2 == 0), m);
    check(Int4Weights(50, 67, 32, 0.7, m % 2 == 0), m);
  }
}

TEST_CASE("mixed: every column tail") {
  for (int64_t n = 1; n <= 66; ++n) {
    check(Matrix::random(n, 40, static_cast<uint32_t>(n)), n % 3 == 0 ? 13 : 1);
    check(Int4Weights(n, 40, 32, 0.7, n % 2 == 0), n % 3 == 0 ? 13 : 1);
  }
}

TEST_CASE("mixed: every depth tail, and groups that are not full") {
  for (int64_t k = 0; k <= 400; k += k < 40 ? 1 : 23)
    for (int64_t m : {1, 3, 7}) {
      check(Matrix::random(19, k, static_cast<uint32_t>(k)), m);
      for (bool symmetric : {true, false}) check(Int4Weights(19, k, int64_t{32} << k % 3, 0.7, symmetric), m);
    }
}

TEST_CASE("mixed: several pieces and blocks of rows, activations") {
  check(Matrix::random(70, 700, 3), 205);
  for (bool symmetric : {true, false}) check(Int4Weights(70, 700, 64, 1.0, symmetric), 205);
  for (ek_activation activation : {EK_RELU, EK_GELU, EK_GELU_TANH, EK_SILU, EK_RELU6, EK_HARDSWISH})
    for (int64_t m : {2, 30}) {
      check(Matrix::random(33, 90, 4), m, activation);
      check(Int4Weights(33, 90, 32, 1.0, false), m, activation);
    }
}

TEST_CASE("mixed: every weight and zero point is itself") {
  // x is one at one k and zero elsewhere: no sum is rounded, and y is scale * weight.
  std::vector<int8_t> all;
  for (int64_t i = 0; i < 40 * 24; ++i) all.push_back(static_cast<int8_t>(i * 7 % 256 - 128));
  Matrix bytes(40, 24, all, false);
  for (int zero = -1; zero < 16; ++zero) {
    Int4Weights nibbles(40, 40, 32, 1.0, zero < 0);
    nibbles.bias.clear();
    std::fill(nibbles.zero.begin(), nibbles.zero.end(), static_cast<uint8_t>(zero));
    for (int64_t i = 0; i < 40 * 40; ++i) nibbles.put(i / 40, i % 40, static_cast<int>((i + i / 40) % 16));
    for (const ek_isa* isa : tested_isas()) {
      Int4Packed packed(isa, EK_INT4_DENSE, nibbles);
      for (const Layer& layer : {layer_of(isa, bytes), layer_of(nibbles, packed)}) {
        std::vector<float> x(layer.k * layer.k);
        for (int64_t i = 0; i < layer.k; ++i) x[i * layer.k + i] = 1;
        std::vector<float> many = layer.linear(isa, layer.k, x);
        int wrong = 0;
        for (int64_t i = 0; i < layer.k; ++i) {
          std::vector<float> row(x.begin() + i * layer.k, x.begin() + (i + 1) * layer.k), one = layer.linear(isa, 1, row);
          for (int64_t n = 0; n < layer.n; ++n) {
            float value = static_cast<float>(layer.weights[n * layer.k + i]);
            wrong += (one[n] == value && many[i * layer.n + n] == value) ? 0 : 1;
          }
        }
        CHECK_MESSAGE(wrong == 0, ek_isa_name(isa), " zero ", zero);
      }
    }
  }
}

TEST_CASE("mixed: NaN and Inf reach all outputs of their row, and no other") {
  constexpr int64_t n = 33, k = 100;
  Matrix bytes = Matrix::random(n, k, 5);
  Int4Weights nibbles(n, k, 32, 0.9, true);
  for (const ek_isa* isa : tested_isas()) {
    Int4Packed packed(isa, EK_INT4_DENSE, nibbles);
    for (const Layer& layer : {layer_of(isa, bytes), layer_of(nibbles, packed)})
      for (int64_t m : {3, 9}) {
        std::vector<float> x = Random(4).normals(m * k), clean = layer.linear(isa, m, x);
        x[2 * k + 17] = NAN;
        std::vector<float> y = layer.linear(isa, m, x);
        for (int64_t i = 0; i < m * n; ++i) CHECK((i / n == 2 ? isnan(y[i]) : y[i] == clean[i]));
      }
  }
}

TEST_CASE("mixed: f16 and bf16 in and out, strided, and no read or write beyond") {
  constexpr int64_t n = 21, ld_y = 33;
  for (int64_t k : {50, 64})
    for (int64_t m : {1, 3, 11})
      for (ek_dtype dtype : {EK_F16, EK_BF16, EK_F32}) {
        const int64_t ld_x = k + 14, item = dtype == EK_F32 ? 4 : 2;
        auto to_bits = [&](float v) -> uint32_t {
          return dtype == EK_F32 ? f32_to_bits(v) : dtype == EK_F16 ? f32_to_f16(v) : f32_to_bf16(v);
        };
        auto to_float = [&](uint32_t v) {
          return dtype == EK_F32   ? bits_to_f32(v)
                 : dtype == EK_F16 ? f16_to_f32(static_cast<uint16_t>(v))
                                   : bf16_to_f32(static_cast<uint16_t>(v));
        };
        int64_t in = (m - 1) * ld_x + k, out = (m - 1) * ld_y + n;
        std::vector<float> x;
        Guarded given(in * item), y(out * item);
        std::vector<float> normals = Random(6).normals(in);
        for (int64_t i = 0; i < in; ++i) {
          uint32_t bits = to_bits(normals[i]);
          memcpy(given.as<char>() + i * item, &bits, item);
          if (i % ld_x < k) x.push_back(to_float(bits));
        }
        Matrix bytes = Matrix::random(n, k, 3);
        Int4Weights nibbles(n, k, 32, 0.9, false);
        for (const ek_isa* isa : tested_isas()) {
          Int4Packed packed(isa, EK_INT4_DENSE, nibbles);
          for (const Layer& layer : {layer_of(isa, bytes), layer_of(nibbles, packed)}) {
            memset(y.as<char>(), 0x77, out * item);
            size_t scratch_size = layer.workspace(isa, m, k);
            Guarded scratch(scratch_size), weights(layer.packed, layer.size);
            REQUIRE(layer.run(isa, weights.as<char>(), layer.size, m, given.as<char>(), dtype, ld_x, y.as<char>(), ld_y,
                              EK_SILU, scratch.as<char>(), scratch_size, nullptr) == EK_OK);
            int wrong = 0;
            for (int64_t i = 0; i < out; ++i) {
              uint32_t bits = 0;
              memcpy(&bits, y.as<char>() + i * item, item);
              if (i % ld_y >= n) {
                wrong += bits != (item == 4 ? 0x77777777u : 0x7777u);
                continue;
              }
              Wanted wanted = wanted_of(layer, x.data() + i / ld_y * k, i % ld_y, EK_SILU);
              double rounding = (dtype == EK_F32 ? 0 : dtype == EK_F16 ? 5e-4 : 4e-3) * fabs(wanted.y);
              wrong += !close(to_float(bits), wanted.y, wanted.error + rounding, EK_SILU);
            }
            CHECK_MESSAGE(wrong == 0, ek_isa_name(isa), " dtype ", int{dtype}, " m=", m, " k=", k);
          }
        }
      }
}

TEST_CASE("mixed: the number of threads changes no bit") {
  Matrix bytes = Matrix::random(200, 300, 3);
  Int4Weights nibbles(200, 300, 64, 0.9, false);
  Pool pool(3);
  ek_parallel parallel = pool.parallel();
  for (const ek_isa* isa : tested_isas()) {
    Int4Packed packed(isa, EK_INT4_DENSE, nibbles);
    for (const Layer& layer : {layer_of(isa, bytes), layer_of(nibbles, packed)})
      for (int64_t m : {1, 3, 7, 13, 40}) {
        std::vector<float> x = Random(8).normals(m * layer.k);
        CHECK((layer.linear(isa, m, x) == layer.linear(isa, m, x, EK_NONE, &parallel)));
      }
  }
}

TEST_CASE("mixed: bad arguments are refused, and nothing is written") {
  constexpr int64_t n = 20, k = 40;
  Matrix bytes = Matrix::random(n, k, 3);
  Int4Weights nibbles(n, k, 32, 0.5, true);
  for (const ek_isa* isa : tested_isas()) {
    Int4Packed packed(isa, EK_INT4_DENSE, nibbles), bitmap(isa, EK_INT4_BITMAP, nibbles);
    for (const Layer& layer : {layer_of(isa, bytes), layer_of(nibbles, packed)}) {
      std::vector<float> x(2 * k), y(2 * n, -7.0f);
      CHECK(layer.call(isa, -1, x.data(), EK_F32, k, y.data(), n) == EK_ERROR_SHAPE);
      CHECK(layer.call(isa, 2, nullptr, EK_F32, k, y.data(), n) == EK_ERROR_NULL_POINTER);
      CHECK(layer.call(isa, 2, x.data(), static_cast<ek_dtype>(3), k, y.data(), n) == EK_ERROR_DTYPE);
      CHECK(layer.call(isa, 2, x.data(), EK_F32, k - 1, y.data(), n) == EK_ERROR_STRIDE);
      CHECK(layer.call(isa, 2, x.data(), EK_F32, k, y.data(), n - 1) == EK_ERROR_STRIDE);
      CHECK(layer.call(isa, 2, x.data(), EK_F32, k, y.data(), n, static_cast<ek_activation>(9)) == EK_ERROR_ACTIVATION);
      CHECK(layer.run(isa, layer.packed, layer.size, 2, x.data(), EK_F32, k, y.data(), n, EK_NONE, x.data(), 64, nullptr) ==
            EK_ERROR_WORKSPACE);
      CHECK(layer.run(isa, layer.packed, 100, 2, x.data(), EK_F32, k, y.data(), n, EK_NONE, x.data(), 64, nullptr) ==
            EK_ERROR_PACKED);
      for (float v : y) CHECK(v == -7.0f);
      CHECK(layer.call(isa, 0, nullptr, EK_F32, k, nullptr, n) == EK_OK);
      CHECK(layer.workspace(isa, -1, k) == 0);
    }
    std::vector<float> x(k), y(n);
    std::vector<char> scratch(ek_int8_float_workspace_size(isa, 1, k));
    CHECK(ek_int8_float_linear(isa, bytes.packed(isa, EK_INT8_BITMAP), bytes.packed_size(isa, EK_INT8_BITMAP), 1, x.data(),
                               EK_F32, k, y.data(), n, EK_NONE, scratch.data(), scratch.size(), nullptr) == EK_ERROR_FORM);
    CHECK(ek_int4_float_linear(isa, bitmap.data, bitmap.size, 1, x.data(), EK_F32, k, y.data(), n, EK_NONE, scratch.data(),
                               scratch.size(), nullptr) == EK_ERROR_FORM);
  }
}

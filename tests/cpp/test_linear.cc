// The whole layer: the reference's integers, finished in float.
#include <doctest/doctest.h>
#include <math.h>

#include "base/half.h"
#include "formats/int8/layout.h"
#include "formats/int8/reference.h"
#include "support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

std::vector<float> linear(const ek_isa* isa, const Matrix& rhs, int64_t m, const std::vector<float>& x,
                          ek_activation activation = EK_NONE, ek_int8_form form = EK_INT8_DENSE) {
  std::vector<float> y(m * rhs.n);
  std::vector<char> scratch = workspace(isa, m, rhs.k, form);
  ek_status status = ek_int8_linear(isa, rhs.packed(isa, form), rhs.packed_size(isa, form), m, x.data(), EK_F32, rhs.k,
                                    y.data(), rhs.n, activation, scratch.data(), scratch.size(), nullptr);
  REQUIRE_MESSAGE(status == EK_OK, ek_status_message(status));
  return y;
}

std::vector<double> wanted_linear(const Matrix& rhs, int64_t m, const std::vector<float>& x, ek_activation activation) {
  return int8::reference::linear(m, rhs.n, rhs.k, int8::reference::quantize_lhs(m, rhs.k, x.data(), rhs.k), rhs.w.data(),
                                 rhs.scale.data(), rhs.bias_or_null(), activation);
}

// Float rounding of the epilogue: the sum's own last bits (it may cancel against the bias) and the activation's.
bool close(double got, double wanted, double tolerance) { return fabs(got - wanted) <= tolerance * (1 + fabs(wanted)); }

void check(const Matrix& rhs, int64_t m, const std::vector<float>& x, ek_activation activation) {
  std::vector<double> wanted = wanted_linear(rhs, m, x, activation);
  for (const ek_isa* isa : tested_isas()) {
    std::vector<float> got = linear(isa, rhs, m, x, activation);
    int wrong = 0;
    for (size_t i = 0; i < got.size(); ++i) wrong += close(got[i], wanted[i], 3e-6) ? 0 : 1;
    CHECK_MESSAGE(wrong == 0, ek_isa_name(isa), " m=", m, " n=", rhs.n, " k=", rhs.k, " activation=", activation);
    // The other forms finish the same integers in the same float operations. Those of blocks cannot hold a deeper channel.
    for (ek_int8_form form : kForms)
      if (rhs.k <= EK_INT8_MAX_K_EXACT || int8::in_panels(form)) CHECK(linear(isa, rhs, m, x, activation, form) == got);
  }
}

}  // namespace

TEST_CASE("linear: shapes, with and without bias") {
  for (int64_t m : {1, 3, 4, 5, 6, 7, 13})
    for (int64_t n : {1, 15, 16, 17, 65})
      for (int64_t k : {1, 5, 64, 100})
        for (bool bias : {false, true}) {
          uint32_t seed = static_cast<uint32_t>(m + n * 100 + k);
          check(Matrix::random(n, k, seed, bias), m, Random(seed).normals(m * k), EK_NONE);
        }
}

TEST_CASE("linear: activations") {
  Matrix rhs = Matrix::random(50, 40, 1);
  for (float& scale : rhs.scale) scale *= 0.05f;  // so that the results spread around the activations' bends
  Matrix spread(50, 40, rhs.w, true, 1);
  std::vector<float> x = Random(2).normals(9 * 40);
  for (ek_activation activation : {EK_RELU, EK_GELU, EK_GELU_TANH, EK_SILU}) check(spread, 9, x, activation);
}

TEST_CASE("linear: activations over their whole range, through an identity layer") {
  // One weight of 127 at scale 1 / 127 makes y = x + bias; the bias then sweeps the range.
  std::vector<float> points;
  for (float v = -100; v <= 100; v += 0.37f) points.push_back(v);
  int64_t n = static_cast<int64_t>(points.size());
  Matrix rhs(n, 1, std::vector<int8_t>(n, 0));
  rhs.bias = points;
  for (ek_activation activation : {EK_NONE, EK_RELU, EK_GELU, EK_GELU_TANH, EK_SILU}) check(rhs, 1, {1.0f}, activation);
}

TEST_CASE("linear: a row with NaN or Inf is NaN throughout, and alone") {
  Matrix rhs = Matrix::random(35, 48, 3);
  for (float bad : {NAN, INFINITY, -INFINITY})
    for (ek_activation activation : {EK_NONE, EK_RELU, EK_GELU, EK_GELU_TANH, EK_SILU})
      for (const ek_isa* isa : tested_isas()) {
        std::vector<float> x = Random(4).normals(5 * 48);
        std::vector<float> clean = linear(isa, rhs, 5, x, activation);
        x[2 * 48 + 47] = bad;
        std::vector<float> y = linear(isa, rhs, 5, x, activation);
        for (int64_t i = 0; i < 5 * 35; ++i) CHECK((i / 35 == 2 ? isnan(y[i]) : y[i] == clean[i]));
      }
}

TEST_CASE("linear: a zero row gives the bias, exactly") {
  Matrix rhs = Matrix::random(20, 30, 5);
  for (const ek_isa* isa : tested_isas()) {
    std::vector<float> y = linear(isa, rhs, 1, std::vector<float>(30, 0.0f));
    CHECK(y == rhs.bias);
  }
}

TEST_CASE("linear: no rows, no columns, no depth") {
  for (const ek_isa* isa : tested_isas()) {
    CHECK(linear(isa, Matrix::random(5, 6, 1), 0, {}).empty());
    CHECK(linear(isa, Matrix::random(0, 6, 1), 2, std::vector<float>(12)).empty());
    Matrix shallow = Matrix::random(5, 0, 1);
    std::vector<float> y = linear(isa, shallow, 2, {});
    for (int64_t i = 0; i < 10; ++i) CHECK(y[i] == shallow.bias[i % 5]);
  }
}

TEST_CASE("linear: deeper than one int32 can hold") {
  constexpr int64_t k = EK_INT8_MAX_K_EXACT + 132, n = 3, m = 2;
  check(Matrix::random(n, k, 9), m, Random(9).normals(m * k), EK_NONE);
  Matrix heavy(n, 2 * k, std::vector<int8_t>(n * 2 * k, -128));  // the plain sum is below -2^31
  check(heavy, m, std::vector<float>(m * 2 * k, 5.0f), EK_NONE);
  Matrix sparse = Matrix::sparse(n, k, 0.1, 9);
  check(sparse, 5, Random(9).normals(5 * k), EK_NONE);  // more rows than the bitmap forms expand in registers
}

TEST_CASE("linear: more rows than one slab holds") {
  // Cheap, for emulators run this too: rows that come again, out of step with any slab; and a form of each way to cut rows.
  constexpr int64_t m = 480, n = 2, k = 9000, distinct = 37;
  Matrix rhs = Matrix::random(n, k, 10);
  std::vector<float> x = Random(10).normals(distinct * k);
  std::vector<double> wanted = wanted_linear(rhs, distinct, x, EK_NONE);
  x.resize(m * k);
  for (int64_t i = distinct * k; i < m * k; ++i) x[i] = x[i - distinct * k];
  for (const ek_isa* isa : tested_isas())
    for (ek_int8_form form : {EK_INT8_DENSE, EK_INT8_BLOCKS_1, EK_INT8_BLOCKS_8}) {
      std::vector<float> got = linear(isa, rhs, m, x, EK_NONE, form);
      int wrong = 0;
      for (int64_t i = 0; i < m * n; ++i) wrong += close(got[i], wanted[i % (distinct * n)], 3e-6) ? 0 : 1;
      CHECK_MESSAGE(wrong == 0, ek_isa_name(isa), " form ", int{form});
    }
}

TEST_CASE("linear: f16 and bf16 in and out, strided") {
  constexpr int64_t m = 6, n = 21, k = 50, ld_x = 64, ld_y = 33;
  Matrix rhs = Matrix::random(n, k, 6);
  std::vector<float> values = Random(6).normals(m * ld_x);
  for (ek_dtype dtype : {EK_F16, EK_BF16}) {
    std::vector<uint16_t> half(m * ld_x);
    std::vector<float> x;
    for (int64_t i = 0; i < m * ld_x; ++i) {
      half[i] = dtype == EK_F16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
      if (i % ld_x < k) x.push_back(dtype == EK_F16 ? f16_to_f32(half[i]) : bf16_to_f32(half[i]));
    }
    std::vector<double> wanted = wanted_linear(rhs, m, x, EK_SILU);
    for (const ek_isa* isa : tested_isas()) {
      std::vector<uint16_t> y(m * ld_y, 0x1234);
      std::vector<char> scratch = workspace(isa, m, k);
      REQUIRE(ek_int8_linear(isa, rhs.packed(isa), rhs.packed_size(isa), m, half.data(), dtype, ld_x, y.data(), ld_y, EK_SILU,
                             scratch.data(), scratch.size(), nullptr) == EK_OK);
      int wrong = 0;
      for (int64_t i = 0; i < m * ld_y; ++i) {
        int64_t row = i / ld_y, column = i % ld_y;
        if (column >= n) {
          wrong += y[i] != 0x1234;
        } else {
          float got = dtype == EK_F16 ? f16_to_f32(y[i]) : bf16_to_f32(y[i]);
          wrong += close(got, wanted[row * n + column], dtype == EK_F16 ? 1e-3 : 8e-3) ? 0 : 1;
        }
      }
      CHECK_MESSAGE(wrong == 0, ek_isa_name(isa));
    }
  }
}

// Activations to u8 and weights to s8: the reference's integers on every ISA.
#include <doctest/doctest.h>
#include <float.h>
#include <math.h>

#include "base/half.h"
#include "formats/int8/reference.h"
#include "support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

// `lhs` holds, as dtype, the values that x holds as floats.
void check(int64_t m, int64_t k, const std::vector<float>& x, const void* lhs, ek_dtype dtype) {
  int8::reference::Quantized wanted = int8::reference::quantize_lhs(m, k, x.data(), k);
  for (const ek_isa* isa : tested_isas()) {
    std::vector<uint8_t> q(m * k);
    std::vector<float> scale(m);
    std::vector<int32_t> zero_point(m);
    REQUIRE(ek_int8_quantize_lhs(isa, m, k, lhs, dtype, k, nullptr, q.data(), k, scale.data(), zero_point.data(), nullptr) ==
            EK_OK);
    CHECK_MESSAGE(q == wanted.q, ek_isa_name(isa), " m=", m, " k=", k);
    CHECK(zero_point == wanted.zero_point);
    for (int64_t i = 0; i < m; ++i) CHECK((scale[i] == wanted.scale[i] || (isnan(scale[i]) && isnan(wanted.scale[i]))));
  }
}

void check(int64_t m, int64_t k, const std::vector<float>& x) { check(m, k, x, x.data(), EK_F32); }

}  // namespace

TEST_CASE("quantize_lhs: every depth tail") {
  for (int64_t k = 1; k <= 140; ++k) check(3, k, Random(static_cast<uint32_t>(k)).normals(3 * k));
}

TEST_CASE("quantize_lhs: rows that sit at the ends of the range") {
  constexpr int64_t k = 37;
  auto row = [](auto&& fill) {
    std::vector<float> x(k);
    for (int64_t i = 0; i < k; ++i) x[i] = fill(i);
    return x;
  };
  check(1, k, row([](int64_t) { return 0.0f; }));
  check(1, k, row([](int64_t) { return 3.0f; }));                            // all positive: zero point 0
  check(1, k, row([](int64_t) { return -3.0f; }));                           // all negative: zero point 255
  check(1, k, row([](int64_t i) { return i == 5 ? 1e6f : 1e-3f; }));         // one outlier
  check(1, k, row([](int64_t i) { return i % 2 ? FLT_MAX : -FLT_MAX; }));    // high - low overflows
  check(1, k, row([](int64_t i) { return i == 0 ? FLT_MIN : 0.0f; }));       // too small for 1 / scale
  check(1, k, row([](int64_t) { return 1e-42f; }));                          // subnormal
  check(1, k, row([](int64_t i) { return static_cast<float>(i) - 0.5f; }));  // ties
  for (float bad : {NAN, INFINITY, -INFINITY})
    for (int64_t where : {int64_t{0}, int64_t{31}, k - 1}) check(1, k, row([&](int64_t i) { return i == where ? bad : 1.0f; }));
}

TEST_CASE("quantize_lhs: f16 and bf16 rows quantise as their f32 values") {
  constexpr int64_t m = 4, k = 77;
  std::vector<float> values = Random(5).normals(m * k, 0.3f, 2);
  for (ek_dtype dtype : {EK_F16, EK_BF16}) {
    std::vector<uint16_t> half(m * k);
    std::vector<float> x(m * k);
    for (int64_t i = 0; i < m * k; ++i) {
      half[i] = dtype == EK_F16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
      x[i] = dtype == EK_F16 ? f16_to_f32(half[i]) : bf16_to_f32(half[i]);
    }
    check(m, k, x, half.data(), dtype);
  }
}

TEST_CASE("quantize_rhs: symmetric, largest weight at 127, zero rows at scale 1") {
  constexpr int64_t n = 4, k = 50;
  std::vector<float> w = Random(3).normals(n * k);
  for (int64_t i = 0; i < k; ++i) w[2 * k + i] = 0.0f;
  std::vector<int8_t> q(n * k);
  std::vector<float> scale(n);
  REQUIRE(ek_int8_quantize_rhs(n, k, w.data(), EK_F32, k, q.data(), k, scale.data(), nullptr) == EK_OK);
  for (int64_t row = 0; row < n; ++row) {
    float largest = 0;
    int most = 0;
    for (int64_t i = 0; i < k; ++i) {
      largest = fmaxf(largest, fabsf(w[row * k + i]));
      most = most < abs(q[row * k + i]) ? abs(q[row * k + i]) : most;
      CHECK(fabsf(w[row * k + i] - q[row * k + i] * scale[row]) <= 0.5001f * scale[row]);
    }
    CHECK(scale[row] == (row == 2 ? 1.0f : largest / 127.0f));
    CHECK(most == (row == 2 ? 0 : 127));
  }
  w[k + 7] = NAN;
  CHECK(ek_int8_quantize_rhs(n, k, w.data(), EK_F32, k, q.data(), k, scale.data(), nullptr) == EK_ERROR_VALUE);
  w[k + 7] = -INFINITY;
  CHECK(ek_int8_quantize_rhs(n, k, w.data(), EK_F32, k, q.data(), k, scale.data(), nullptr) == EK_ERROR_VALUE);
}

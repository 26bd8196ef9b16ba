// Activations rounded by a range that was found beforehand: the reference's integers, on every ISA and in every form.
#include <doctest/doctest.h>
#include <float.h>
#include <math.h>

#include "base/half.h"
#include "formats/int8/reference.h"
#include "support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

// About half of what lies around zero saturates, on both sides.
constexpr ek_int8_range kRange{0.0078125f, 100};  // -0.78 to 1.21

// `lhs` holds, as dtype, the values that x holds as floats.
void check_rows(int64_t m, int64_t k, const std::vector<float>& x, const void* lhs, ek_dtype dtype, ek_int8_range range) {
  int8::reference::Quantized wanted = int8::reference::quantize_lhs(m, k, x.data(), k, range);
  for (const ek_isa* isa : tested_isas()) {
    std::vector<uint8_t> q(m * k, 77);
    std::vector<float> scale(m);
    std::vector<int32_t> zero_point(m);
    REQUIRE(ek_int8_quantize_lhs(isa, m, k, lhs, dtype, k, &range, q.data(), k, scale.data(), zero_point.data(), nullptr) ==
            EK_OK);
    CHECK_MESSAGE(q == wanted.q, ek_isa_name(isa), " m=", m, " k=", k);
    CHECK(zero_point == wanted.zero_point);
    for (int64_t i = 0; i < m; ++i) CHECK((scale[i] == wanted.scale[i] || (isnan(scale[i]) && isnan(wanted.scale[i]))));
  }
}

void check_rows(int64_t m, int64_t k, const std::vector<float>& x, ek_int8_range range = kRange) {
  check_rows(m, k, x, x.data(), EK_F32, range);
}

// The packed matrix with a range, in memory of its own.
struct Ranged {
  Ranged(const ek_isa* isa, const Matrix& rhs, ek_int8_form form, const ek_int8_range* range)
      : size(rhs.packed_size(isa, form)), storage(size + 64) {
    data = storage.data() + (64 - reinterpret_cast<uintptr_t>(storage.data()) % 64) % 64;
    memcpy(data, rhs.packed(isa, form), size);
    REQUIRE(ek_int8_set_range(data, size, range) == EK_OK);
  }
  Ranged(const Ranged&) = delete;

  std::vector<float> linear(const ek_isa* isa, ek_int8_form form, int64_t m, int64_t n, int64_t k, const std::vector<float>& x,
                            const ek_parallel* parallel = nullptr) const {
    std::vector<float> y(m * n);
    std::vector<char> scratch = workspace(isa, m, k, form);
    ek_status status =
        ek_int8_linear(isa, data, size, m, x.data(), EK_F32, k, y.data(), n, EK_NONE, scratch.data(), scratch.size(), parallel);
    REQUIRE_MESSAGE(status == EK_OK, ek_status_message(status));
    return y;
  }

  size_t size;
  std::vector<char> storage;
  char* data;
};

// A layer whose results are exact in f32, so that they tell the integers: scales are powers of two, and there is no bias.
Matrix exact(int64_t n, int64_t k, double density, uint32_t seed) {
  Matrix rhs = Matrix::sparse(n, k, density, seed);
  for (int64_t i = 0; i < n; ++i) rhs.scale[i] = i % 2 == 0 ? 0.5f : 0.125f;
  rhs.bias.clear();
  return rhs;
}

void check_layer(const Matrix& rhs, int64_t m, const std::vector<float>& x, const ek_parallel* parallel = nullptr) {
  int8::reference::Quantized lhs = int8::reference::quantize_lhs(m, rhs.k, x.data(), rhs.k, kRange);
  std::vector<int64_t> acc = int8::reference::matmul(m, rhs.n, rhs.k, lhs.q.data(), lhs.zero_point.data(), rhs.w.data());
  std::vector<float> wanted(m * rhs.n);
  for (int64_t i = 0; i < m * rhs.n; ++i) {
    REQUIRE(acc[i] < 1 << 24);  // or a float would round it
    wanted[i] = static_cast<float>(acc[i]) * (lhs.scale[i / rhs.n] * rhs.scale[i % rhs.n]);
  }
  for (auto [isa, form] : isas_and_forms()) {
    std::vector<float> got = Ranged(isa, rhs, form, &kRange).linear(isa, form, m, rhs.n, rhs.k, x, parallel);
    int wrong = 0;
    for (int64_t i = 0; i < m * rhs.n; ++i) wrong += got[i] == wanted[i] || (isnan(got[i]) && isnan(wanted[i])) ? 0 : 1;
    CHECK_MESSAGE(wrong == 0, ek_isa_name(isa), " form ", int{form}, " m=", m, " n=", rhs.n, " k=", rhs.k);
  }
}

}  // namespace

TEST_CASE("range: every depth tail") {
  for (int64_t k = 1; k <= 140; ++k) check_rows(3, k, Random(static_cast<uint32_t>(k)).normals(3 * k));
}

TEST_CASE("range: what lies beyond it saturates, however far") {
  constexpr int64_t k = 67;
  for (float far : {1.5f, 4.0f, 300.0f, 3e7f, 2.5e9f, 1e20f, FLT_MAX}) {
    std::vector<float> x = Random(1).normals(2 * k);
    x[3] = far;
    x[k - 1] = -far;
    x[k + 40] = far;
    check_rows(2, k, x);
    for (ek_int8_range range : {ek_int8_range{1e-30f, 0}, ek_int8_range{1e30f, 255}, ek_int8_range{FLT_MIN * 0x1p26f, 7}})
      check_rows(2, k, x, range);
  }
  std::vector<float> ties(k);
  for (int64_t i = 0; i < k; ++i) ties[i] = (static_cast<float>(i) - 30.5f) * kRange.scale;
  check_rows(1, k, ties);
  for (int32_t zero_point : {0, 255}) check_rows(1, k, ties, {kRange.scale, zero_point});
}

TEST_CASE("range: f16 and bf16 rows round as their f32 values") {
  constexpr int64_t m = 4, k = 77;
  std::vector<float> values = Random(5).normals(m * k, 0.3f, 2);
  for (ek_dtype dtype : {EK_F16, EK_BF16}) {
    std::vector<uint16_t> half(m * k);
    std::vector<float> x(m * k);
    for (int64_t i = 0; i < m * k; ++i) {
      half[i] = dtype == EK_F16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
      x[i] = dtype == EK_F16 ? f16_to_f32(half[i]) : bf16_to_f32(half[i]);
    }
    check_rows(m, k, x, half.data(), dtype, kRange);
  }
}

TEST_CASE("range: rows with NaN or Inf") {
  constexpr int64_t k = 37;
  for (float bad : {NAN, INFINITY, -INFINITY})
    for (int64_t where : {int64_t{0}, int64_t{31}, k - 1}) {
      std::vector<float> x(3 * k, 1.0f);
      x[k + where] = bad;
      check_rows(3, k, x);
    }
}

TEST_CASE("range: layers of every form, exact") {
  Pool pool(3);
  const ek_parallel three = pool.parallel();
  for (int64_t m : {1, 3, 5, 17, 40, 130})
    for (int64_t n : {1, 33, 70})
      for (int64_t k : {1, 5, 64, 200}) {
        uint32_t seed = static_cast<uint32_t>(m + 100 * n + k);
        check_layer(exact(n, k, 0.5, seed), m, Random(seed).normals(m * k));
      }
  check_layer(exact(210, 300, 0.3, 4), 100, Random(4).normals(100 * 300), &three);
}

TEST_CASE("range: a row with NaN or Inf is NaN throughout, and alone, in every form") {
  for (float bad : {NAN, INFINITY, -INFINITY})
    for (int64_t where : {0, 47}) {
      std::vector<float> x = Random(4).normals(21 * 48);
      x[2 * 48 + where] = bad;
      x[20 * 48 + where] = bad;
      check_layer(exact(35, 48, 0.6, 3), 21, x);
    }
}

TEST_CASE("range: a row's own range, given, changes no bit") {
  constexpr int64_t k = 90, n = 40;
  Matrix rhs = Matrix::sparse(n, k, 0.6, 8);
  std::vector<float> x = Random(8).normals(k);
  int8::reference::Quantized lhs = int8::reference::quantize_lhs(1, k, x.data(), k);
  ek_int8_range own{lhs.scale[0], lhs.zero_point[0]};
  for (auto [isa, form] : isas_and_forms()) {
    std::vector<float> wanted = Ranged(isa, rhs, form, nullptr).linear(isa, form, 1, n, k, x);
    CHECK(Ranged(isa, rhs, form, &own).linear(isa, form, 1, n, k, x) == wanted);
  }
}

TEST_CASE("range: set, told, taken away, refused") {
  Matrix rhs = Matrix::random(5, 6, 1);
  for (ek_int8_form form : kForms) {
    Ranged packed(nullptr, rhs, form, &kRange);
    ek_int8_shape shape;
    for (ek_int8_range bad :
         {ek_int8_range{0.0f, 0}, ek_int8_range{-1.0f, 0}, ek_int8_range{NAN, 0}, ek_int8_range{INFINITY, 0},
          ek_int8_range{1e-31f, 0}, ek_int8_range{1e31f, 0}, ek_int8_range{1.0f, -1}, ek_int8_range{1.0f, 256}}) {
      CHECK(ek_int8_set_range(packed.data, packed.size, &bad) == EK_ERROR_VALUE);
      uint8_t q;
      float scale = 0.0f;
      int32_t zero_point;
      CHECK(ek_int8_quantize_lhs(nullptr, 1, 1, &scale, EK_F32, 1, &bad, &q, 1, &scale, &zero_point, nullptr) ==
            EK_ERROR_VALUE);
    }
    REQUIRE(ek_int8_describe(packed.data, packed.size, &shape) == EK_OK);
    CHECK(shape.has_range == 1);
    CHECK(shape.range.scale == kRange.scale);
    CHECK(shape.range.zero_point == kRange.zero_point);
    CHECK(ek_int8_set_range(packed.data, packed.size, nullptr) == EK_OK);
    REQUIRE(ek_int8_describe(packed.data, packed.size, &shape) == EK_OK);
    CHECK(shape.has_range == 0);
    CHECK(memcmp(packed.data, rhs.packed(nullptr, form), packed.size) == 0);
    CHECK(ek_int8_set_range(packed.data, 10, &kRange) == EK_ERROR_PACKED);
  }
  CHECK(ek_int8_set_range(nullptr, 64, &kRange) == EK_ERROR_NULL_POINTER);
}

TEST_CASE("range: layers of a call have one, or none") {
  constexpr int64_t m = 20, k = 50;
  const ek_int8_range other{kRange.scale, kRange.zero_point + 1};
  Matrix a = Matrix::random(33, k, 1), b = Matrix::random(7, k, 2);
  std::vector<float> x = Random(3).normals(m * k);
  for (const ek_isa* isa : tested_isas()) {
    std::vector<float> first(m * a.n), second(m * b.n);
    std::vector<char> scratch = workspace(isa, m, k);
    auto call = [&](const ek_int8_range* one, const ek_int8_range* two) {
      Ranged left(isa, a, EK_INT8_DENSE, one), right(isa, b, EK_INT8_DENSE, two);
      ek_part parts[] = {{left.data, left.size, first.data(), a.n}, {right.data, right.size, second.data(), b.n}};
      return ek_int8_linears(isa, parts, 2, m, x.data(), EK_F32, k, EK_NONE, scratch.data(), scratch.size(), nullptr);
    };
    CHECK(call(nullptr, &kRange) == EK_ERROR_PARTS);
    CHECK(call(&kRange, &other) == EK_ERROR_PARTS);
    REQUIRE(call(&kRange, &kRange) == EK_OK);
    CHECK(first == Ranged(isa, a, EK_INT8_DENSE, &kRange).linear(isa, EK_INT8_DENSE, m, a.n, k, x));
    CHECK(second == Ranged(isa, b, EK_INT8_DENSE, &kRange).linear(isa, EK_INT8_DENSE, m, b.n, k, x));
  }
}

TEST_CASE("range: deeper than one int32 can hold, and more rows than one slab holds") {
  constexpr int64_t k = EK_INT8_MAX_K_EXACT + 132, n = 3, distinct = 37, many = 480, shallow = 9000;
  for (bool rows : {false, true}) {
    const int64_t depth = rows ? shallow : k, m = rows ? many : 2;
    Matrix rhs = Matrix::random(n, depth, 9);
    std::vector<float> x = Random(9).normals((rows ? distinct : 2) * depth);
    x.resize(m * depth);
    for (int64_t i = distinct * depth; i < m * depth; ++i) x[i] = x[i - distinct * depth];
    int8::reference::Quantized lhs = int8::reference::quantize_lhs(rows ? distinct : 2, depth, x.data(), depth, kRange);
    std::vector<double> wanted = int8::reference::linear(rows ? distinct : 2, n, depth, lhs, rhs.w.data(), rhs.scale.data(),
                                                         rhs.bias_or_null(), EK_NONE);
    for (const ek_isa* isa : tested_isas()) {
      std::vector<float> got = Ranged(isa, rhs, EK_INT8_DENSE, &kRange).linear(isa, EK_INT8_DENSE, m, n, depth, x);
      int wrong = 0;
      for (int64_t i = 0; i < m * n; ++i) {
        double expected = wanted[i % (distinct * n)];
        wrong += fabs(got[i] - expected) <= 3e-6 * (1 + fabs(expected)) ? 0 : 1;
      }
      CHECK_MESSAGE(wrong == 0, ek_isa_name(isa), " k=", depth);
    }
  }
}

// The integers: every ISA gives the reference's sums, bit for bit.
#include <doctest/doctest.h>

#include "formats/int8/reference.h"
#include "support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

std::vector<int32_t> matmul(const ek_isa* isa, ek_int8_form form, const Matrix& rhs, int64_t m, const std::vector<uint8_t>& q,
                            const std::vector<int32_t>& zero_point, const ek_parallel* parallel = nullptr) {
  std::vector<int32_t> acc(m * rhs.n);
  std::vector<char> scratch = workspace(isa, m, rhs.k, form);
  ek_status status = ek_int8_matmul_s32(isa, rhs.packed(isa, form), rhs.packed_size(isa, form), m, q.data(), rhs.k,
                                        zero_point.data(), acc.data(), rhs.n, scratch.data(), scratch.size(), parallel);
  REQUIRE_MESSAGE(status == EK_OK, ek_status_message(status));
  return acc;
}

void check(const Matrix& rhs, int64_t m, const std::vector<uint8_t>& q, const std::vector<int32_t>& zero_point) {
  std::vector<int64_t> wanted = int8::reference::matmul(m, rhs.n, rhs.k, q.data(), zero_point.data(), rhs.w.data());
  for (auto [isa, form] : isas_and_forms()) {
    std::vector<int32_t> got = matmul(isa, form, rhs, m, q, zero_point);
    bool equal = std::equal(got.begin(), got.end(), wanted.begin(), wanted.end());
    CHECK_MESSAGE(equal, ek_isa_name(isa), " form ", int{form}, " m=", m, " n=", rhs.n, " k=", rhs.k);
  }
}

void check_random(const Matrix& rhs, int64_t m) {
  Random random(static_cast<uint32_t>(m * 1000003 + rhs.n * 1009 + rhs.k));
  check(rhs, m, random.integers<uint8_t>(m * rhs.k, 0, 255), random.integers<int32_t>(m, 0, 255));
}

Matrix matrix_of(int64_t n, int64_t k) { return Matrix::random(n, k, static_cast<uint32_t>(n * 1009 + k)); }

}  // namespace

TEST_CASE("matmul: every row tail, and one row") {
  Matrix rhs = matrix_of(80, 67);
  for (int64_t m = 1; m <= 17; ++m) check_random(rhs, m);
}

TEST_CASE("matmul: a tile of blocks of every width at the end") {
  for (int64_t m : {32, 48, 64, 80, 100, 112, 127}) check_random(Matrix::sparse(40, 150, 0.3, 1), m);
}

TEST_CASE("matmul: every column tail") {
  for (int64_t n = 1; n <= 66; ++n) check_random(matrix_of(n, 20), 3);
}

TEST_CASE("matmul: every depth tail") {
  for (int64_t k = 0; k <= 70; ++k) check_random(matrix_of(17, k), 2);
}

TEST_CASE("matmul: few weights, and none") {
  for (double density : {0.0, 0.01, 0.1, 0.5})
    for (int64_t k : {64, 520, 1100}) {
      Matrix rhs = Matrix::sparse(70, k, density, static_cast<uint32_t>(k));
      for (int64_t m : {1, 8, 31, 130}) check_random(rhs, m);
    }
}

TEST_CASE("matmul: rows without weights between rows with all") {
  Matrix rhs = Matrix::random(40, 300, 3);
  for (int64_t n = 0; n < rhs.n; ++n)
    if (n % 7 != 3) std::fill_n(rhs.w.begin() + n * rhs.k, rhs.k, int8_t{0});
  Random random(3);
  check(rhs, 33, random.integers<uint8_t>(33 * rhs.k, 0, 255), random.integers<int32_t>(33, 0, 255));
}

TEST_CASE("matmul: all weights of a matrix in one output channel, or in one stretch of k") {
  Random random(5);
  for (int64_t m : {1, 3, 100}) {
    std::vector<uint8_t> q = random.integers<uint8_t>(m * 600, 0, 255);
    std::vector<int32_t> zero_point = random.integers<int32_t>(m, 0, 255);
    for (bool channel : {false, true}) {
      Matrix rhs = Matrix::random(50, 600, 5);
      for (int64_t i = 0; i < rhs.n * rhs.k; ++i)
        if (channel ? i / rhs.k != 37 : i % rhs.k / 10 != 58) rhs.w[i] = 0;
      check(rhs, m, q, zero_point);
    }
  }
}

TEST_CASE("matmul: shapes with several groups of panels and several tiles") {
  for (int64_t n : {63, 65, 130, 200})
    for (int64_t k : {31, 129, 260}) {
      Matrix rhs = matrix_of(n, k);
      for (int64_t m : {1, 2, 6, 7, 25}) check_random(rhs, m);
    }
}

TEST_CASE("matmul: extreme values do not saturate or wrap") {
  for (int weight : {-128, -127, -1, 0, 1, 127})
    for (int activation : {0, 1, 127, 128, 129, 255})
      for (int zero_point : {0, 1, 127, 128, 255}) {
        Matrix rhs(18, 70, std::vector<int8_t>(18 * 70, static_cast<int8_t>(weight)));
        check(rhs, 5, std::vector<uint8_t>(5 * 70, static_cast<uint8_t>(activation)), std::vector<int32_t>(5, zero_point));
      }
}

TEST_CASE("matmul: alternating extremes, neighbours that add up and that cancel") {
  for (int period : {1, 2, 4})
    for (bool flip : {false, true}) {
      std::vector<int8_t> w(33 * 96);
      std::vector<uint8_t> q(7 * 96);
      for (size_t i = 0; i < w.size(); ++i) w[i] = (i % 96 / period % 2 == 0) != flip ? int8_t{127} : int8_t{-128};
      for (size_t i = 0; i < q.size(); ++i) q[i] = i % 96 / period % 2 == 0 ? 255 : 0;
      check(Matrix(33, 96, w), 7, q, {0, 255, 128, 127, 1, 254, 77});
    }
}

TEST_CASE("matmul: the deepest exact sum") {
  constexpr int64_t k = EK_INT8_MAX_K_EXACT;
  for (int weight : {-128, 127})
    for (int activation : {0, 255}) {
      Matrix rhs(3, k, std::vector<int8_t>(3 * k, static_cast<int8_t>(weight)));
      check(rhs, 2, std::vector<uint8_t>(2 * k, static_cast<uint8_t>(activation)), {0, 255});
    }
}

TEST_CASE("matmul: strided activations and sums") {
  constexpr int64_t m = 9, n = 37, k = 45, ld_q = 61, ld_acc = 50;
  Random random(11);
  Matrix rhs = Matrix::random(n, k, 11);
  std::vector<uint8_t> wide = random.integers<uint8_t>(m * ld_q, 0, 255), q;
  std::vector<int32_t> zero_point = random.integers<int32_t>(m, 0, 255);
  for (int64_t i = 0; i < m; ++i) q.insert(q.end(), wide.begin() + i * ld_q, wide.begin() + i * ld_q + k);
  std::vector<int64_t> wanted = int8::reference::matmul(m, n, k, q.data(), zero_point.data(), rhs.w.data());
  for (const ek_isa* isa : tested_isas()) {
    std::vector<int32_t> acc(m * ld_acc, -1);
    std::vector<char> scratch = workspace(isa, m, k);
    REQUIRE(ek_int8_matmul_s32(isa, rhs.packed(isa), rhs.packed_size(isa), m, wide.data(), ld_q, zero_point.data(), acc.data(),
                               ld_acc, scratch.data(), scratch.size(), nullptr) == EK_OK);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < ld_acc; ++j) CHECK(acc[i * ld_acc + j] == (j < n ? wanted[i * n + j] : -1));
  }
}

// Norms, gates and rotations: near the oracle on every ISA, dtype and tail, between guard pages, in place, threads, errors.
#include <algorithm>
#include <limits>

#include "base/dtype.h"
#include "formats/rows/reference.h"
#include "support.h"

using namespace edgekern;
using namespace edgekern::test;
using rows::reference::gate;
using rows::reference::rms_norm;
using rows::reference::rotate;

namespace {

constexpr ek_dtype kDtypes[] = {EK_F32, EK_F16, EK_BF16};
constexpr int64_t kSizes[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 192, 576};
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Relative to the result, and for what cancels to the size of its parts.
double tolerance(ek_dtype dtype) { return dtype == EK_F32 ? 2e-6 : dtype == EK_F16 ? 1.0 / 1024 : 1.0 / 128; }

// Numbers of a dtype, in memory that ends at a guard page; and the floats that they are.
struct Numbers {
  ek_dtype dtype;
  mutable Guarded memory;
  std::vector<float> values;

  Numbers(ek_dtype type, std::vector<float> from)
      : dtype(type), memory(from.size() * static_cast<size_t>(bytes_of(type))), values(from.size()) {
    for (size_t i = 0; i < from.size(); ++i) {
      if (type == EK_F32) memcpy(data() + 4 * i, &from[i], 4);
      const uint16_t half = type == EK_F16 ? f32_to_f16(from[i]) : f32_to_bf16(from[i]);
      if (type != EK_F32) memcpy(data() + 2 * i, &half, 2);
      values[i] = at(static_cast<int64_t>(i));
    }
  }
  char* data() const { return memory.as<char>(); }
  float at(int64_t i) const { return float_at(data(), dtype, i); }
};

// Whether row `row` of y, ld apart, is near what it should be.
bool near(const Numbers& y, int64_t start, const std::vector<double>& expected, double size = 0) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const double got = y.at(start + static_cast<int64_t>(i));
    if (!(fabs(got - expected[i]) <= tolerance(y.dtype) * std::max(fabs(expected[i]), size))) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("rows: norms are near the oracle") {
  constexpr int64_t m = 3;
  for (const ek_isa* isa : tested_isas())
    for (ek_dtype dtype : kDtypes)
      for (int64_t n : kSizes) {
        Random random(static_cast<uint32_t>(n));
        const int64_t ld = n + 3;
        Numbers x(dtype, random.normals((m - 1) * ld + n)), weight(dtype, random.normals(n, 1));
        Numbers y(dtype, std::vector<float>((m - 1) * ld + n, -7.0f));
        REQUIRE(ek_rms_norm(isa, m, n, x.data(), dtype, ld, weight.data(), 1e-5f, y.data(), ld, nullptr) == EK_OK);
        for (int64_t i = 0; i < m; ++i) {
          CHECK_MESSAGE(near(y, i * ld, rms_norm(n, x.values.data() + i * ld, weight.values.data(), 1e-5f)), ek_isa_name(isa),
                        " ", int{dtype}, " n=", n);
          if (i < m - 1) CHECK(y.at(i * ld + n) == -7.0f);
        }
        REQUIRE(ek_rms_norm(isa, m, n, x.data(), dtype, ld, weight.data(), 1e-5f, x.data(), ld, nullptr) == EK_OK);
        CHECK(memcmp(x.data(), y.data(), static_cast<size_t>(n * bytes_of(dtype))) == 0);  // in place
      }
}

TEST_CASE("rows: norms of zeros, of what is tiny and large, of NaN") {
  for (const ek_isa* isa : tested_isas()) {
    for (float size : {0.0f, 1e-12f, 1e-3f, 1e12f}) {
      std::vector<float> x = Random(5).normals(100), one(100, 1.0f), y(100);
      for (float& v : x) v *= size;
      REQUIRE(ek_rms_norm(isa, 1, 100, x.data(), EK_F32, 100, one.data(), 1e-6f, y.data(), 100, nullptr) == EK_OK);
      const std::vector<double> expected = rms_norm(100, x.data(), one.data(), 1e-6f);
      for (int i = 0; i < 100; ++i) CHECK(fabs(y[i] - expected[i]) <= 2e-6 * fabs(expected[i]));
    }
    std::vector<float> x(200, 1.0f), one(100, 1.0f), y(200);
    x[37] = kNaN;
    REQUIRE(ek_rms_norm(isa, 2, 100, x.data(), EK_F32, 100, one.data(), 1e-6f, y.data(), 100, nullptr) == EK_OK);
    for (int i = 0; i < 100; ++i) CHECK(isnan(y[i]));
    for (int i = 100; i < 200; ++i) CHECK(fabs(y[i] - 1) < 1e-6);
  }
}

TEST_CASE("rows: gates are near the oracle") {
  constexpr int64_t m = 2;
  for (const ek_isa* isa : tested_isas())
    for (ek_dtype dtype : kDtypes)
      for (int activation = EK_NONE; activation <= EK_HARDSWISH; ++activation)
        for (int64_t n : {int64_t{1}, int64_t{15}, int64_t{16}, int64_t{17}, int64_t{65}, int64_t{200}}) {
          const ek_activation act = static_cast<ek_activation>(activation);
          Random random(static_cast<uint32_t>(n));
          Numbers z(dtype, random.normals(m * n, 0, 3)), x(dtype, random.normals(m * n)), y(dtype, std::vector<float>(m * n));
          REQUIRE(ek_gate(isa, m, n, z.data(), n, x.data(), n, dtype, act, y.data(), n, nullptr) == EK_OK);
          for (int64_t i = 0; i < m; ++i) {
            // GELU's polynomial is off by 2e-7, not relatively.
            const bool fits = near(y, i * n, gate(n, z.values.data() + i * n, x.values.data() + i * n, act), 1.0);
            CHECK_MESSAGE(fits, ek_isa_name(isa), " ", int{dtype}, " activation ", activation, " n=", n);
          }
          REQUIRE(ek_gate(isa, m, n, z.data(), n, x.data(), n, dtype, act, z.data(), n, nullptr) == EK_OK);
          CHECK(memcmp(z.data(), y.data(), static_cast<size_t>(m * n * bytes_of(dtype))) == 0);  // in place
        }
}

TEST_CASE("rows: rotations have the bits of the oracle, whatever the strides") {
  constexpr int64_t batch = 2, tokens = 3, heads = 5;
  for (const ek_isa* isa : tested_isas())
    for (int64_t n : {2, 6, 16, 30, 32, 64, 80, 128})
      for (bool one_table : {false, true}) {
        Random random(static_cast<uint32_t>(n));
        const int64_t count = batch * tokens * heads * n;
        Numbers x(EK_F32, random.normals(count)), y(EK_F32, std::vector<float>(count));
        Numbers cos(EK_F32, random.normals(batch * tokens * n)), sin(EK_F32, random.normals(batch * tokens * n));
        // x with its tokens first, y with its heads first.
        const ek_rotary shape{batch,
                              tokens,
                              heads,
                              n,
                              tokens * heads * n,
                              heads * n,
                              n,
                              tokens * heads * n,
                              n,
                              tokens * n,
                              one_table ? 0 : tokens * n,
                              n};
        REQUIRE(ek_rotate(isa, &shape, x.data(), EK_F32, cos.data(), sin.data(), y.data(), nullptr) == EK_OK);
        int wrong = 0;
        for (int64_t b = 0; b < batch; ++b)
          for (int64_t t = 0; t < tokens; ++t)
            for (int64_t h = 0; h < heads; ++h) {
              const int64_t table = b * shape.table_batch + t * n;
              const std::vector<float> expected = rotate(n, x.values.data() + ((b * tokens + t) * heads + h) * n,
                                                         cos.values.data() + table, sin.values.data() + table);
              for (int64_t i = 0; i < n; ++i) wrong += y.at(((b * heads + h) * tokens + t) * n + i) != expected[i];
            }
        CHECK_MESSAGE(wrong == 0, ek_isa_name(isa), " n=", n);
      }
}

TEST_CASE("rows: rotations of halves are near those of floats") {
  for (const ek_isa* isa : tested_isas())
    for (ek_dtype dtype : {EK_F16, EK_BF16}) {
      constexpr int64_t n = 70;
      Random random(1);
      Numbers x(dtype, random.normals(n)), cos(dtype, random.normals(n)), sin(dtype, random.normals(n));
      Numbers y(dtype, std::vector<float>(n));
      const ek_rotary shape{1, 1, 1, n, n, n, n, n, n, n, n, n};
      REQUIRE(ek_rotate(isa, &shape, x.data(), dtype, cos.data(), sin.data(), y.data(), nullptr) == EK_OK);
      const std::vector<float> expected = rotate(n, x.values.data(), cos.values.data(), sin.values.data());
      CHECK(near(y, 0, {expected.begin(), expected.end()}, 1e-2));
    }
}

TEST_CASE("rows: the number of threads changes no bit") {
  constexpr int64_t m = 200, n = 576;
  ek_pool* pool = nullptr;
  REQUIRE(ek_pool_create(3, &pool) == EK_OK);
  const ek_parallel parallel = ek_pool_parallel(pool);
  const std::vector<float> x = Random(1).normals(m * n), z = Random(2).normals(m * n), weight = Random(3).normals(n);
  const ek_rotary shape{2, 100, 9, 64, 100 * n, n, 64, 100 * n, n, 64, 0, n};
  for (const ek_isa* isa : tested_isas()) {
    std::vector<float> y[2][3];
    for (int shared = 0; shared < 2; ++shared) {
      for (std::vector<float>& each : y[shared]) each.resize(m * n);
      const ek_parallel* threads = shared ? &parallel : nullptr;
      CHECK(ek_rms_norm(isa, m, n, x.data(), EK_F32, n, weight.data(), 1e-5f, y[shared][0].data(), n, threads) == EK_OK);
      CHECK(ek_gate(isa, m, n, z.data(), n, x.data(), n, EK_F32, EK_SILU, y[shared][1].data(), n, threads) == EK_OK);
      CHECK(ek_rotate(isa, &shape, x.data(), EK_F32, z.data(), z.data(), y[shared][2].data(), threads) == EK_OK);
    }
    for (int i = 0; i < 3; ++i) CHECK((y[0][i] == y[1][i]));
  }
  ek_pool_destroy(pool);
}

TEST_CASE("rows: bad arguments are refused, and empty ones are nothing to do") {
  float x[8] = {}, y[8] = {};
  const auto bad = static_cast<ek_dtype>(9);
  CHECK(ek_rms_norm(nullptr, 2, 4, x, bad, 4, x, 0, y, 4, nullptr) == EK_ERROR_DTYPE);
  CHECK(ek_rms_norm(nullptr, -1, 4, x, EK_F32, 4, x, 0, y, 4, nullptr) == EK_ERROR_SHAPE);
  CHECK(ek_rms_norm(nullptr, 2, 4, x, EK_F32, 3, x, 0, y, 4, nullptr) == EK_ERROR_STRIDE);
  CHECK(ek_rms_norm(nullptr, 2, 4, x, EK_F32, 4, nullptr, 0, y, 4, nullptr) == EK_ERROR_NULL_POINTER);
  CHECK(ek_rms_norm(nullptr, 2, 4, x, EK_F32, 4, x, -1, y, 4, nullptr) == EK_ERROR_VALUE);
  CHECK(ek_rms_norm(nullptr, 2, 4, x, EK_F32, 4, x, kNaN, y, 4, nullptr) == EK_ERROR_VALUE);
  CHECK(ek_rms_norm(nullptr, 0, 4, nullptr, EK_F32, 4, nullptr, 0, nullptr, 4, nullptr) == EK_OK);
  CHECK(ek_gate(nullptr, 2, 4, x, 4, x, 4, EK_F32, static_cast<ek_activation>(99), y, 4, nullptr) == EK_ERROR_ACTIVATION);
  CHECK(ek_gate(nullptr, 2, 4, x, 3, x, 4, EK_F32, EK_SILU, y, 4, nullptr) == EK_ERROR_STRIDE);
  CHECK(ek_gate(nullptr, 2, 4, nullptr, 4, x, 4, EK_F32, EK_SILU, y, 4, nullptr) == EK_ERROR_NULL_POINTER);
  CHECK(ek_gate(nullptr, 2, 0, nullptr, 0, nullptr, 0, EK_F32, EK_SILU, nullptr, 0, nullptr) == EK_OK);
  ek_rotary shape{1, 2, 1, 4, 8, 4, 4, 8, 4, 4, 0, 4};
  CHECK(ek_rotate(nullptr, nullptr, x, EK_F32, x, x, y, nullptr) == EK_ERROR_NULL_POINTER);
  CHECK(ek_rotate(nullptr, &shape, x, EK_F32, nullptr, x, y, nullptr) == EK_ERROR_NULL_POINTER);
  CHECK(ek_rotate(nullptr, &shape, x, bad, x, x, y, nullptr) == EK_ERROR_DTYPE);
  shape.n = 3;
  CHECK(ek_rotate(nullptr, &shape, x, EK_F32, x, x, y, nullptr) == EK_ERROR_SHAPE);
  shape = {1, -2, 1, 4, 8, 4, 4, 8, 4, 4, 0, 4};
  CHECK(ek_rotate(nullptr, &shape, x, EK_F32, x, x, y, nullptr) == EK_ERROR_SHAPE);
  shape.tokens = 0;
  CHECK(ek_rotate(nullptr, &shape, nullptr, EK_F32, nullptr, nullptr, nullptr, nullptr) == EK_OK);
}

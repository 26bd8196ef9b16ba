// The int4 layer: exact where floats are, sums within their error, both forms alike, threads, memory.
#include <doctest/doctest.h>
#include <math.h>

#include <algorithm>

#include "base/half.h"
#include "formats/int4/reference.h"
#include "int4_support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

void check(const Int4Weights& rhs, int64_t m, ek_activation activation = EK_NONE) {
  std::vector<float> x = Random(static_cast<uint32_t>(m)).normals(m * rhs.k, 0.3f);
  auto lhs = int8::reference::quantize_lhs(m, rhs.k, x.data(), rhs.k);
  int4::reference::Linear wanted = int4::reference::linear(m, lhs, rhs, rhs.bias_or_null(), activation);
  for (const ek_isa* isa : tested_isas()) {
    std::vector<float> first;
    for (ek_int4_form form : kInt4Forms) {
      std::vector<float> got = int4_linear(isa, Int4Packed(isa, form, rhs), m, x, activation);
      int wrong = 0;
      for (size_t i = 0; i < got.size(); ++i) wrong += close(got[i], wanted.y[i], wanted.error[i], activation) ? 0 : 1;
      CHECK_MESSAGE(wrong == 0, ek_isa_name(isa), " form ", int{form}, " m=", m, " n=", rhs.n, " k=", rhs.k, " group ",
                    rhs.group_size, rhs.zero.empty() ? "" : " with zeros");
      if (first.empty()) first = got;
      CHECK((got == first));
    }
  }
}

// Rows of whole numbers that 0..255 holds with scale 1, of which `zero_point` is the zero, against scales of 1: no float is
// rounded, so that every ISA has to give the integers.
void check_exact(Int4Weights rhs, int64_t m, int64_t zero, uint32_t seed) {
  int zero_point = static_cast<int>(zero);
  std::vector<float> x;
  for (int v : Random(seed).integers<int>(m * rhs.k, -zero_point, 255 - zero_point)) x.push_back(static_cast<float>(v));
  for (int64_t i = 0; i < m; ++i) {
    x[i * rhs.k] = static_cast<float>(-zero_point);
    x[i * rhs.k + 1] = static_cast<float>(255 - zero_point);
  }
  auto lhs = int8::reference::quantize_lhs(m, rhs.k, x.data(), rhs.k);
  for (int64_t i = 0; i < m; ++i) REQUIRE((lhs.scale[i] == 1.0f && lhs.zero_point[i] == zero_point));
  rhs.bias.clear();
  // One group at a time counts; and all, by powers of two.
  for (int64_t chosen = -1; chosen < rhs.groups(); ++chosen) {
    for (int64_t i = 0; i < rhs.n * rhs.groups(); ++i) {
      int64_t g = i % rhs.groups();
      rhs.scale[i] = f32_to_f16(chosen == -1 ? ldexpf(1, static_cast<int>(g % 3)) : chosen == g ? 1.0f : 0.0f);
    }
    std::vector<double> wanted = int4::reference::linear(m, lhs, rhs, nullptr, EK_NONE).y;
    for (const ek_isa* isa : tested_isas())
      for (ek_int4_form form : kInt4Forms) {
        std::vector<float> got = int4_linear(isa, Int4Packed(isa, form, rhs), m, x);
        bool equal = std::equal(got.begin(), got.end(), wanted.begin(), wanted.end());
        CHECK_MESSAGE(equal, ek_isa_name(isa), " form ", int{form}, " m=", m, " group ", chosen, " of ", rhs.groups());
      }
  }
}

}  // namespace

TEST_CASE("int4: sums of a group are exact") {
  for (bool symmetric : {true, false})
    for (int64_t m : {1, 2, 3, 4, 5, 13}) {
      int64_t group_size = int64_t{32} << (m + symmetric) % 3;
      check_exact(Int4Weights(21, 203, group_size, 0.8, symmetric), m, m * 97 % 256, static_cast<uint32_t>(m));
    }
}

TEST_CASE("int4: extreme nibbles do not saturate or wrap") {
  for (uint8_t zero : {0, 8, 15})
    for (int value : {0, 7, 8, 15})
      for (int64_t m : {1, 7}) {
        Int4Weights rhs(17, 128, 128, 1.0, false);
        std::fill(rhs.w.begin(), rhs.w.end(), static_cast<uint8_t>(value * 17));
        std::fill(rhs.zero.begin(), rhs.zero.end(), zero);
        check_exact(rhs, m, 0, 1);
        if (zero == 8) rhs.zero.clear();
        check_exact(rhs, m, 255, 2);
      }
}

TEST_CASE("int4: every row tail") {
  for (int64_t m = 1; m <= 17; ++m) check(Int4Weights(80, 67, 32, 0.5, m % 2 == 0), m);
}

TEST_CASE("int4: every column tail") {
  for (int64_t n = 1; n <= 66; ++n) check(Int4Weights(n, 40, 32, 0.6, n % 2 == 0), n % 3 == 0 ? 6 : 1);
}

TEST_CASE("int4: every depth tail, and groups that are not full") {
  for (int64_t k = 0; k <= 140; k += k < 70 ? 1 : 7)
    check(Int4Weights(17, k, k % 3 == 0 ? 32 : k % 3 == 1 ? 64 : 128, 0.6, k % 2 == 0), k % 5 == 0 ? 6 : 2);
}

TEST_CASE("int4: no weights, few, most and all") {
  for (double density : {0.0, 0.01, 0.3, 1.0})
    for (bool symmetric : {true, false})
      for (int64_t m : {1, 4, 30}) check(Int4Weights(40, 300, 128, density, symmetric), m);
}

TEST_CASE("int4: channels and stretches of k without weights") {
  Int4Weights rhs(50, 200, 64, 1.0, true);
  for (bool channels : {false, true}) {
    Int4Weights part = rhs;
    for (int64_t n = 0; n < rhs.n; ++n)
      for (int64_t k = 0; k < rhs.k; ++k)
        if (channels ? n % 7 != 3 : k / 4 % 2 == 0) part.put(n, k, 8);  // all low nibbles of some ISAs' lines, too
    for (int64_t m : {1, 9}) check(part, m);
  }
}

TEST_CASE("int4: several groups of panels and several tiles") {
  for (int64_t m : {1, 2, 6, 7, 25})
    for (int64_t n : {63, 65, 130}) check(Int4Weights(n, 160, 64, 0.5, m % 2 == 0), m);
}

TEST_CASE("int4: activations, and no bias") {
  Int4Weights rhs(50, 40, 32, 0.7, true);
  for (ek_activation activation : {EK_RELU, EK_GELU, EK_GELU_TANH, EK_SILU}) check(rhs, 9, activation);
  rhs.bias.clear();
  check(rhs, 9);
  check(rhs, 1);
}

TEST_CASE("int4: a deep layer") { check(Int4Weights(1, 70000, 128, 0.5, true), 3); }

TEST_CASE("int4: more rows than one slab holds") {
  // Cheap, for emulators run this too: rows that come again, and one form, as slabs know nothing of forms.
  constexpr int64_t m = 61, k = 70000, distinct = 7;
  Int4Weights rhs(1, k, 128, 0.5, true);
  std::vector<float> x = Random(10).normals(distinct * k);
  auto lhs = int8::reference::quantize_lhs(distinct, k, x.data(), k);
  int4::reference::Linear wanted = int4::reference::linear(distinct, lhs, rhs, rhs.bias.data(), EK_NONE);
  x.resize(m * k);
  for (int64_t i = distinct * k; i < m * k; ++i) x[i] = x[i - distinct * k];
  for (const ek_isa* isa : tested_isas()) {
    std::vector<float> got = int4_linear(isa, Int4Packed(isa, EK_INT4_DENSE, rhs), m, x);
    int wrong = 0;
    for (int64_t i = 0; i < m; ++i) wrong += close(got[i], wanted.y[i % distinct], wanted.error[i % distinct], EK_NONE) ? 0 : 1;
    CHECK_MESSAGE(wrong == 0, ek_isa_name(isa));
  }
}

TEST_CASE("int4: a zero row, and a channel without weights, give the bias exactly") {
  for (bool symmetric : {true, false}) {
    Int4Weights rhs(37, 150, 64, 1.0, symmetric), empty(37, 150, 64, 0.0, symmetric);
    for (const ek_isa* isa : tested_isas())
      for (ek_int4_form form : kInt4Forms)
        for (int64_t m : {1, 6}) {
          std::vector<float> y = int4_linear(isa, Int4Packed(isa, form, rhs), m, std::vector<float>(m * 150, 0.0f));
          for (int64_t i = 0; i < m * 37; ++i) CHECK(y[i] == rhs.bias[i % 37]);
          y = int4_linear(isa, Int4Packed(isa, form, empty), m, Random(3).normals(m * 150));
          for (int64_t i = 0; i < m * 37; ++i) CHECK(y[i] == empty.bias[i % 37]);
        }
  }
}

TEST_CASE("int4: a row with NaN or Inf is NaN, and no other") {
  constexpr int64_t n = 33, k = 100;
  Int4Weights rhs(n, k, 32, 0.5, true);
  for (int64_t m : {3, 9})
    for (float bad : {NAN, INFINITY, -INFINITY})
      for (const ek_isa* isa : tested_isas())
        for (ek_int4_form form : kInt4Forms) {
          Int4Packed packed(isa, form, rhs);
          std::vector<float> x = Random(4).normals(m * k), clean = int4_linear(isa, packed, m, x);
          x[2 * k + 17] = bad;
          std::vector<float> y = int4_linear(isa, packed, m, x);
          for (int64_t i = 0; i < m * n; ++i) CHECK((i / n == 2 ? isnan(y[i]) : y[i] == clean[i]));
        }
}

TEST_CASE("int4: no rows, no channels, no depth") {
  for (const ek_isa* isa : tested_isas())
    for (ek_int4_form form : kInt4Forms) {
      CHECK(int4_linear(isa, Int4Packed(isa, form, Int4Weights(5, 6, 32, 0.5, true)), 0, {}).empty());
      CHECK(int4_linear(isa, Int4Packed(isa, form, Int4Weights(0, 6, 32, 0.5, true)), 2, std::vector<float>(12)).empty());
      Int4Weights shallow(5, 0, 32, 1.0, false);
      std::vector<float> y = int4_linear(isa, Int4Packed(isa, form, shallow), 2, {});
      for (int64_t i = 0; i < 10; ++i) CHECK(y[i] == shallow.bias[i % 5]);
    }
}

TEST_CASE("int4: f16 and bf16 in and out, strided") {
  constexpr int64_t n = 21, k = 50, ld_x = 64, ld_y = 33;
  Int4Weights rhs(n, k, 32, 0.5, false);
  for (int64_t m : {1, 11})
    for (ek_dtype dtype : {EK_F16, EK_BF16}) {
      auto to_half = [&](float v) { return dtype == EK_F16 ? f32_to_f16(v) : f32_to_bf16(v); };
      auto to_float = [&](uint16_t v) { return dtype == EK_F16 ? f16_to_f32(v) : bf16_to_f32(v); };
      std::vector<uint16_t> half;
      std::vector<float> x;
      for (float v : Random(6).normals(m * ld_x)) {
        half.push_back(to_half(v));
        x.push_back(to_float(half.back()));
      }
      auto lhs = int8::reference::quantize_lhs(m, k, x.data(), ld_x);
      int4::reference::Linear wanted = int4::reference::linear(m, lhs, rhs, rhs.bias.data(), EK_SILU);
      for (const ek_isa* isa : tested_isas())
        for (ek_int4_form form : kInt4Forms) {
          Int4Packed packed(isa, form, rhs);
          std::vector<uint16_t> y(m * ld_y, 0x1234);
          std::vector<char> scratch(ek_int4_workspace_size(isa, m, k));
          REQUIRE(ek_int4_linear(isa, packed.data, packed.size, m, half.data(), dtype, ld_x, y.data(), ld_y, EK_SILU,
                                 scratch.data(), scratch.size(), nullptr) == EK_OK);
          int wrong = 0;
          for (int64_t i = 0; i < m * ld_y; ++i) {
            int64_t at = i / ld_y * n + i % ld_y;
            double rounding = (dtype == EK_F16 ? 5e-4 : 4e-3) * fabs(wanted.y[i % ld_y < n ? at : 0]);
            wrong +=
                i % ld_y >= n ? y[i] != 0x1234 : !close(to_float(y[i]), wanted.y[at], wanted.error[at] + rounding, EK_SILU);
          }
          CHECK_MESSAGE(wrong == 0, ek_isa_name(isa));
        }
    }
}

TEST_CASE("int4: the number of threads changes no bit") {
  Int4Weights rhs(200, 300, 64, 0.3, true);
  ek_pool* pool = nullptr;
  REQUIRE(ek_pool_create(3, &pool) == EK_OK);
  ek_parallel parallel = ek_pool_parallel(pool);
  for (const ek_isa* isa : tested_isas())
    for (ek_int4_form form : kInt4Forms) {
      Int4Packed alone(isa, form, rhs), shared(isa, form, rhs, &parallel);
      CHECK(memcmp(alone.data, shared.data, alone.size) == 0);
      for (int64_t m : {2, 40}) {
        std::vector<float> x = Random(8).normals(m * rhs.k);
        CHECK((int4_linear(isa, alone, m, x) == int4_linear(isa, alone, m, x, EK_NONE, &parallel)));
      }
    }
  ek_pool_destroy(pool);
}

TEST_CASE("int4: guard pages around every buffer of linear") {
  for (const ek_isa* isa : tested_isas())
    for (bool front : {false, true})
      for (ek_int4_form form : kInt4Forms)
        for (bool symmetric : {true, false})
          for (int64_t m : {1, 7})
            for (int64_t n : {1, 31, 65})
              for (int64_t k : {1, 33, 127}) {
                Int4Weights rhs(n, k, 32, 0.5, symmetric);
                Int4Packed made(isa, form, rhs);
                Guarded first(made.size, true), last(made.data, made.size);  // 64-byte aligned, both
                memcpy(first.as<char>(), made.data, made.size);
                Guarded x(m * k * 4, front), y(m * n * 4, front);
                memset(x.as<char>(), 0, m * k * 4);
                size_t scratch_size = ek_int4_workspace_size(isa, m, k);
                Guarded scratch(scratch_size, front);
                CHECK(ek_int4_linear(isa, front ? first.as<char>() : last.as<char>(), made.size, m, x.as<char>(), EK_F32, k,
                                     y.as<char>(), n, EK_GELU, scratch.as<char>(), scratch_size, nullptr) == EK_OK);
              }
}

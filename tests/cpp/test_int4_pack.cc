// int4 weights: rounding, the packed bytes, and everything that is refused.
#include <doctest/doctest.h>
#include <math.h>

#include <algorithm>

#include "base/half.h"
#include "formats/int4/layout.h"
#include "formats/int4/reference.h"
#include "int4_support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

ek_status quantize(const int4::reference::Weights& shape, const float* values, uint8_t* w, uint16_t* scale, uint8_t* zero,
                   ek_int4_clip clip = EK_INT4_CLIP_NONE) {
  return ek_int4_quantize_rhs(shape.n, shape.k, shape.group_size, clip, values, EK_F32, shape.k, w, shape.row_bytes(), scale,
                              zero, nullptr);
}

int4::reference::Weights quantized(int64_t n, int64_t k, int64_t group_size, const std::vector<float>& values, bool symmetric,
                                   ek_int4_clip clip) {
  int4::reference::Weights out{n, k, group_size, {}, {}, {}};
  out.w.resize(n * out.row_bytes());
  out.scale.resize(n * out.groups());
  out.zero.resize(symmetric ? 0 : n * out.groups());
  REQUIRE(quantize(out, values.data(), out.w.data(), out.scale.data(), symmetric ? nullptr : out.zero.data(), clip) == EK_OK);
  return out;
}

// Sum of |error|^power of each group.
std::vector<double> errors_of(const int4::reference::Weights& weights, const std::vector<float>& values, double power = 2) {
  std::vector<double> errors(weights.scale.size());
  for (int64_t i = 0; i < weights.n * weights.k; ++i) {
    double off = weights.value(i / weights.k, i % weights.k) - double{values[i]};
    errors[weights.group_at(i / weights.k, i % weights.k)] += pow(fabs(off), power);
  }
  return errors;
}

}  // namespace

TEST_CASE("int4: quantising follows the reference") {
  for (bool symmetric : {true, false})
    for (int64_t group_size : {32, 64, 128})
      for (int64_t k : {1, 31, 64, 100, 257}) {
        std::vector<float> values = Random(5).normals(9 * k, 0.02f, 0.1f);
        std::fill_n(values.begin(), k, 0.0f);
        std::fill_n(values.begin() + k, k, 1e-12f);    // too small for an f16 scale
        std::fill_n(values.begin() + 2 * k, k, 0.5f);  // nothing below zero
        int4::reference::Weights wanted = int4::reference::quantize(9, k, group_size, values.data(), symmetric);
        std::vector<uint8_t> w(wanted.w.size(), 0xff), zero(wanted.scale.size(), 0xff);
        std::vector<uint16_t> scale(wanted.scale.size());
        CHECK(quantize(wanted, values.data(), w.data(), scale.data(), symmetric ? nullptr : zero.data()) == EK_OK);
        CHECK((w == wanted.w));
        CHECK((scale == wanted.scale));
        if (!symmetric) CHECK((zero == wanted.zero));
        wanted.w = w;
        int far = 0;
        for (int64_t i = 2 * k; i < 9 * k; ++i) {
          double step = f16_to_f32(wanted.scale[wanted.group_at(i / k, i % k)]);
          far += fabs(wanted.value(i / k, i % k) - double{values[i]}) > 0.51 * step * (symmetric ? 1 : 2);
          far += values[i] == 0.0f && wanted.integer(i / k, i % k) != 0;
        }
        CHECK(far == 0);
      }
}

TEST_CASE("int4: clipping lowers its error of every group, or leaves it") {
  struct Clip {
    ek_int4_clip how;
    double power;
  };
  for (Clip clip : {Clip{EK_INT4_CLIP_MSE, 2}, Clip{EK_INT4_CLIP_HQQ, 0.75}})
    for (bool symmetric : {true, false})
      for (int64_t group_size : {32, 64, 128})
        for (int64_t k : {1, 31, 100, 384}) {
          std::vector<float> values = Random(6).normals(40 * k, 0.02f, 0.01f);
          for (int64_t i = 0; i < 40 * k; i += 57) values[i] *= 4;
          auto errors = [&](ek_int4_clip how) {
            return errors_of(quantized(40, k, group_size, values, symmetric, how), values, clip.power);
          };
          std::vector<double> whole = errors(EK_INT4_CLIP_NONE), clipped = errors(clip.how);
          int higher = 0, lower = 0;
          for (size_t g = 0; g < whole.size(); ++g) {
            higher += clipped[g] > whole[g];
            lower += clipped[g] < 0.95 * whole[g];
          }
          CHECK(higher == 0);
          if (k > 1) CHECK(lower > static_cast<int>(whole.size()) / 8);
        }
}

TEST_CASE("int4: half-quadratic steps go below the best of the ranges by their own error") {
  std::vector<float> values = Random(7).normals(64 * 512, 0.0f, 0.02f);
  for (size_t i = 0; i < values.size(); i += 31) values[i] *= 5;
  for (bool symmetric : {true, false}) {
    auto total = [&](ek_int4_clip how) {
      double sum = 0;
      for (double error : errors_of(quantized(64, 512, 64, values, symmetric, how), values, 0.75)) sum += error;
      return sum;
    };
    double whole = total(EK_INT4_CLIP_NONE), squares = total(EK_INT4_CLIP_MSE), robust = total(EK_INT4_CLIP_HQQ);
    CHECK(robust < 0.97 * squares);
    CHECK(robust < 0.9 * whole);
  }
}

TEST_CASE("int4: weights that lie on levels already come back with the same values") {
  for (ek_int4_clip clip : {EK_INT4_CLIP_NONE, EK_INT4_CLIP_MSE, EK_INT4_CLIP_HQQ})
    for (bool symmetric : {true, false})
      for (double density : {0.02, 0.2, 1.0})
        for (int64_t k : {1, 31, 300}) {
          Int4Weights rhs(30, k, 64, density, symmetric);
          std::vector<float> values(30 * k);
          for (int64_t i = 0; i < 30 * k; ++i) values[i] = static_cast<float>(rhs.value(i / k, i % k));
          for (double error : errors_of(quantized(30, k, 64, values, symmetric, clip), values)) CHECK(error == 0);
        }
}

TEST_CASE("int4: quantising refuses what no f16 scale holds, and bad arguments") {
  std::vector<float> values(3 * 40, 1.0f);
  int4::reference::Weights shape{3, 40, 32, {}, {}, {}};
  std::vector<uint8_t> w(60);
  std::vector<uint16_t> scale(6);
  CHECK(quantize(shape, values.data(), w.data(), scale.data(), nullptr) == EK_OK);
  for (float bad : {NAN, INFINITY, 1e9f}) {
    values[77] = bad;
    CHECK(quantize(shape, values.data(), w.data(), scale.data(), nullptr) == EK_ERROR_VALUE);
  }
  CHECK(quantize(shape, nullptr, w.data(), scale.data(), nullptr) == EK_ERROR_NULL_POINTER);
  CHECK(quantize(shape, values.data(), nullptr, scale.data(), nullptr) == EK_ERROR_NULL_POINTER);
  CHECK(quantize(shape, values.data(), w.data(), nullptr, nullptr) == EK_ERROR_NULL_POINTER);
  auto call = [&](int64_t n, int64_t k, int64_t group, int dtype, int64_t ld_rhs, int64_t ld_w) {
    return ek_int4_quantize_rhs(n, k, group, EK_INT4_CLIP_MSE, values.data(), static_cast<ek_dtype>(dtype), ld_rhs, w.data(),
                                ld_w, scale.data(), nullptr, nullptr);
  };
  values[77] = 1;
  CHECK(call(3, 40, 32, EK_F32, 40, 20) == EK_OK);
  CHECK(call(-1, 40, 32, EK_F32, 40, 20) == EK_ERROR_SHAPE);
  for (int64_t group : {-32, 0, 31, 48, 256}) CHECK(call(3, 40, group, EK_F32, 40, 20) == EK_ERROR_GROUP);
  CHECK(call(3, 40, 32, 3, 40, 20) == EK_ERROR_DTYPE);
  CHECK(quantize(shape, values.data(), w.data(), scale.data(), nullptr, static_cast<ek_int4_clip>(3)) == EK_ERROR_CLIP);
  CHECK(call(3, 40, 32, EK_F32, 39, 20) == EK_ERROR_STRIDE);
  CHECK(call(3, 40, 32, EK_F32, 40, 19) == EK_ERROR_STRIDE);
}

TEST_CASE("int4: unpack gives back every bit") {
  for (const ek_isa* isa : tested_isas())
    for (ek_int4_form form : kInt4Forms)
      for (bool symmetric : {true, false})
        for (int64_t n : {1, 16, 21})
          for (int64_t k : {1, 5, 64, 131}) {
            Int4Weights rhs(n, k, 32, 0.4, symmetric);
            if (n == 21) rhs.bias.clear();
            Int4Packed packed(isa, form, rhs);
            ek_int4_shape shape;
            REQUIRE(ek_int4_describe(packed.data, packed.size, &shape) == EK_OK);
            CHECK((shape.n == n && shape.k == k && shape.group_size == 32 && shape.form == form));
            CHECK((shape.has_zero == !symmetric && shape.has_bias == (n != 21)));
            std::vector<uint8_t> w(rhs.w.size(), 0xff), zero(rhs.scale.size());
            std::vector<uint16_t> scale(rhs.scale.size());
            std::vector<float> bias(n);
            REQUIRE(ek_int4_unpack(packed.data, packed.size, w.data(), rhs.row_bytes(), scale.data(), zero.data(), bias.data(),
                                   nullptr) == EK_OK);
            CHECK((w == rhs.w));
            CHECK((scale == rhs.scale));
            CHECK((zero == (symmetric ? std::vector<uint8_t>(zero.size(), 8) : rhs.zero)));
            CHECK((bias == (n == 21 ? std::vector<float>(n) : rhs.bias)));
            CHECK(ek_int4_unpack(packed.data, packed.size, w.data(), rhs.row_bytes(), scale.data(), nullptr, nullptr,
                                 nullptr) == EK_OK);
          }
}

TEST_CASE("int4: a bitmap takes the bytes of its weights") {
  constexpr int64_t n = 256, k = 1024;
  Int4Weights rhs(n, k, 128, 0.25, true);
  int64_t kept = 0, pairs = 0;  // 4 k apart on most ISAs
  for (int64_t i = 0; i < n * k; ++i) kept += rhs.integer(i / k, i % k) != 0;
  for (int64_t i = 0; i < n * k; ++i)
    if (i % k / 4 % 2 == 0) pairs += rhs.integer(i / k, i % k) != 0 || rhs.integer(i / k, i % k + 4) != 0;
  double beside = n * k / 128 * 2 + n * 8 + 512;  // scales, sums and bias, padding
  for (const ek_isa* isa : tested_isas()) {
    CHECK(static_cast<double>(Int4Packed(isa, EK_INT4_DENSE, rhs).size) <= n * k / 2 + beside);
    CHECK(static_cast<double>(Int4Packed(isa, EK_INT4_BITMAP, rhs).size) <= n * k / 8 + kept / 2.0 * 1.04 + beside);
    CHECK(static_cast<double>(Int4Packed(isa, EK_INT4_BITMAP_2, rhs).size) <= n * k / 16 + pairs * 1.02 + beside);
  }
}

TEST_CASE("int4: guard pages around quantize_rhs, pack and unpack") {
  for (int64_t n : {1, 16, 17})
    for (int64_t k : {1, 5, 64}) {
      int64_t groups = (k + 31) / 32, row = (k + 1) / 2;
      Guarded values(n * k * 4), w(n * row), scale(n * groups * 2), zero(n * groups), bias(n * 4);
      Guarded w2(n * row), scale2(n * groups * 2), zero2(n * groups), bias2(n * 4);
      for (int64_t i = 0; i < n * k; ++i) values.as<float>()[i] = static_cast<float>(i % 5);
      memset(bias.as<char>(), 0, n * 4);
      CHECK(ek_int4_quantize_rhs(n, k, 32, EK_INT4_CLIP_MSE, values.as<float>(), EK_F32, k, w.as<uint8_t>(), row,
                                 scale.as<uint16_t>(), zero.as<uint8_t>(), nullptr) == EK_OK);
      for (ek_int4_form form : kInt4Forms) {
        size_t size = ek_int4_packed_size(nullptr, form, n, k, 32, w.as<uint8_t>(), row, zero.as<uint8_t>(), nullptr);
        Guarded packed(size);
        CHECK(ek_int4_pack(nullptr, form, n, k, 32, w.as<uint8_t>(), row, scale.as<uint16_t>(), zero.as<uint8_t>(),
                           bias.as<float>(), packed.as<char>(), size, nullptr) == EK_OK);
        CHECK(ek_int4_unpack(packed.as<char>(), size, w2.as<uint8_t>(), row, scale2.as<uint16_t>(), zero2.as<uint8_t>(),
                             bias2.as<float>(), nullptr) == EK_OK);
      }
    }
}

TEST_CASE("int4: pack refuses bad arguments") {
  Int4Weights rhs(3, 40, 32, 1.0, false);
  alignas(64) char packed[4096];
  auto pack = [&](int form, int64_t n, int64_t k, int64_t group, const uint8_t* w, int64_t ld_w, const uint16_t* scale,
                  const float* bias, void* out, size_t size) {
    return ek_int4_pack(nullptr, static_cast<ek_int4_form>(form), n, k, group, w, ld_w, scale, rhs.zero.data(), bias, out, size,
                        nullptr);
  };
  const uint8_t* w = rhs.w.data();
  const uint16_t* scale = rhs.scale.data();
  for (int form : {0, 16, 17}) {
    CHECK(pack(form, 3, 40, 32, w, 20, scale, nullptr, packed, 4096) == EK_OK);
    CHECK(pack(form, -1, 40, 32, w, 20, scale, nullptr, packed, 4096) == EK_ERROR_SHAPE);
    CHECK(pack(form, 3, int64_t{1} << 40, 32, w, 20, scale, nullptr, packed, 4096) == EK_ERROR_SHAPE);
    CHECK(pack(form, 3, 40, 33, w, 20, scale, nullptr, packed, 4096) == EK_ERROR_GROUP);
    CHECK(pack(form, 3, 40, 32, nullptr, 20, scale, nullptr, packed, 4096) == EK_ERROR_NULL_POINTER);
    CHECK(pack(form, 3, 40, 32, w, 20, nullptr, nullptr, packed, 4096) == EK_ERROR_NULL_POINTER);
    CHECK(pack(form, 3, 40, 32, w, 20, scale, nullptr, nullptr, 4096) == EK_ERROR_NULL_POINTER);
    CHECK(pack(form, 3, 40, 32, w, 19, scale, nullptr, packed, 4096) == EK_ERROR_STRIDE);
    CHECK(pack(form, 3, 40, 32, w, 20, scale, nullptr, packed + 8, 4000) == EK_ERROR_PACKED);
    CHECK(pack(form, 3, 40, 32, w, 20, scale, nullptr, packed, 200) == EK_ERROR_PACKED);
    float bias[3] = {0.0f, INFINITY, 0.0f};
    CHECK(pack(form, 3, 40, 32, w, 20, scale, bias, packed, 4096) == EK_ERROR_VALUE);
    std::vector<uint16_t> infinite = rhs.scale;
    infinite[5] = 0x7c00;
    CHECK(pack(form, 3, 40, 32, w, 20, infinite.data(), nullptr, packed, 4096) == EK_ERROR_VALUE);
    rhs.zero[4] = 16;
    CHECK(pack(form, 3, 40, 32, w, 20, scale, nullptr, packed, 4096) == EK_ERROR_VALUE);
    rhs.zero[4] = 3;
  }
  for (int form : {-1, 1, 18}) CHECK(pack(form, 3, 40, 32, w, 20, scale, nullptr, packed, 4096) == EK_ERROR_FORM);
  CHECK(ek_int4_packed_size(nullptr, EK_INT4_DENSE, 3, 40, 32, nullptr, 0, nullptr, nullptr) > 0);
  CHECK(ek_int4_packed_size(nullptr, EK_INT4_BITMAP, 3, 40, 32, nullptr, 0, nullptr, nullptr) == 0);
  CHECK(ek_int4_packed_size(nullptr, EK_INT4_BITMAP, 3, 40, 32, w, 19, nullptr, nullptr) == 0);
  CHECK(ek_int4_packed_size(nullptr, EK_INT4_DENSE, 3, 40, 40, w, 20, nullptr, nullptr) == 0);
}

TEST_CASE("int4: what is not a packed matrix is refused") {
  Int4Weights rhs(20, 70, 32, 0.5, false);
  for (ek_int4_form form : kInt4Forms) {
    Int4Packed packed(nullptr, form, rhs);
    ek_int4_shape shape;
    auto describe = [&] { return ek_int4_describe(packed.data, packed.size, &shape); };
    CHECK(ek_int4_describe(nullptr, packed.size, &shape) == EK_ERROR_NULL_POINTER);
    CHECK(ek_int4_describe(packed.data, packed.size, nullptr) == EK_ERROR_NULL_POINTER);
    CHECK(ek_int4_describe(packed.data, packed.size - 1, &shape) == EK_ERROR_PACKED);
    CHECK(ek_int4_describe(packed.data, 10, &shape) == EK_ERROR_PACKED);
    CHECK(ek_int4_describe(packed.data + 1, packed.size - 1, &shape) == EK_ERROR_PACKED);
    auto* header = reinterpret_cast<int4::Header*>(packed.data);
    const int4::Header truth = *header;
    auto lie = [&](auto&& change) {
      change(*header);
      CHECK(describe() == EK_ERROR_PACKED);
      *header = truth;
    };
    for (int64_t n : {int64_t{-1}, int64_t{1} << 40, INT64_MAX, int64_t{1000}}) lie([&](int4::Header& h) { h.n = n; });
    for (int64_t k : {int64_t{-1}, int64_t{1} << 40, INT64_MAX, int64_t{7000}}) lie([&](int4::Header& h) { h.k = k; });
    lie([](int4::Header& h) { h.form = static_cast<ek_int4_form>(3); });
    lie([](int4::Header& h) { h.group_size = 0; });
    lie([](int4::Header& h) { h.line_depth = 2; });
    lie([](int4::Header& h) { h.magic[7] ^= 1; });
    CHECK(describe() == EK_OK);
    if (form == EK_INT4_DENSE) continue;
    int4::Layout layout{truth.n, truth.k, form, truth.group_size, truth.line_depth, truth.has_zero != 0};
    uint64_t& kept = reinterpret_cast<uint64_t*>(packed.data + layout.bitmap().begin)[layout.panels()];
    for (uint64_t more : {kept + 128, UINT64_MAX, uint64_t{1} << 63}) {
      uint64_t before = kept;
      kept = more;
      CHECK(describe() == EK_ERROR_PACKED);
      kept = before;
    }
  }
}

TEST_CASE("int4: linear refuses bad arguments and touches nothing") {
  Int4Weights rhs(4, 40, 32, 0.5, true);
  const ek_isa* isa = ek_isa_find("scalar");
  Int4Packed packed(isa, EK_INT4_DENSE, rhs);
  std::vector<char> scratch(ek_int4_workspace_size(isa, 2, 40));
  std::vector<float> x(80), y(8, -7.0f);
  auto call = [&](const void* matrix, int64_t m, const void* lhs, int dtype, int64_t ld_x, void* out, int64_t ld_y,
                  int activation, size_t scratch_size) {
    return ek_int4_linear(isa, matrix, packed.size, m, lhs, static_cast<ek_dtype>(dtype), ld_x, out, ld_y,
                          static_cast<ek_activation>(activation), scratch.data(), scratch_size, nullptr);
  };
  size_t enough = scratch.size();
  CHECK(call(nullptr, 2, x.data(), EK_F32, 40, y.data(), 4, EK_NONE, enough) == EK_ERROR_NULL_POINTER);
  CHECK(call(packed.data, -1, x.data(), EK_F32, 40, y.data(), 4, EK_NONE, enough) == EK_ERROR_SHAPE);
  CHECK(call(packed.data, 2, nullptr, EK_F32, 40, y.data(), 4, EK_NONE, enough) == EK_ERROR_NULL_POINTER);
  CHECK(call(packed.data, 2, x.data(), EK_F32, 40, nullptr, 4, EK_NONE, enough) == EK_ERROR_NULL_POINTER);
  CHECK(call(packed.data, 2, x.data(), 3, 40, y.data(), 4, EK_NONE, enough) == EK_ERROR_DTYPE);
  CHECK(call(packed.data, 2, x.data(), EK_F32, 39, y.data(), 4, EK_NONE, enough) == EK_ERROR_STRIDE);
  CHECK(call(packed.data, 2, x.data(), EK_F32, 40, y.data(), 3, EK_NONE, enough) == EK_ERROR_STRIDE);
  CHECK(call(packed.data, 2, x.data(), EK_F32, 40, y.data(), 4, 9, enough) == EK_ERROR_ACTIVATION);
  CHECK(call(packed.data, 2, x.data(), EK_F32, 40, y.data(), 4, EK_NONE, enough - 1) == EK_ERROR_WORKSPACE);
  for (float v : y) CHECK(v == -7.0f);
  CHECK(call(packed.data, 2, x.data(), EK_F32, 40, y.data(), 4, EK_NONE, enough) == EK_OK);
  reinterpret_cast<int4::Header*>(packed.data)->line_depth = 8;
  CHECK(call(packed.data, 2, x.data(), EK_F32, 40, y.data(), 4, EK_NONE, enough) == EK_ERROR_ORDER);
  CHECK(ek_int4_workspace_size(isa, -1, 8) == 0);
  for (size_t i = 0; i < ek_isa_count(); ++i) {
    if (ek_isa_supported(ek_isa_at(i))) continue;
    CHECK(ek_int4_workspace_size(ek_isa_at(i), 2, 8) == 0);
    CHECK(ek_int4_packed_size(ek_isa_at(i), EK_INT4_DENSE, 3, 40, 32, nullptr, 0, nullptr, nullptr) == 0);
  }
}

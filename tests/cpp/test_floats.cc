// The layers of kept blocks of floats, f32 and f16: sums within their error, zeros that are not multiplied, packing, memory,
// threads.
#include <doctest/doctest.h>
#include <math.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>

#include "base/half.h"
#include "formats/f16/layout.h"
#include "formats/f16/reference.h"
#include "formats/f32/layout.h"
#include "formats/f32/reference.h"
#include "support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

constexpr int64_t kChannels[] = {1, 2, 4, 8};

struct Weights {
  int64_t n, k;
  std::vector<float> w, bias;

  Weights(int64_t n_, int64_t k_, double density, uint32_t seed = 1) : n(n_), k(k_) {
    w = Random(seed).normals(n * k);
    bias = Random(seed + 1).normals(n);
    std::vector<float> chance = Random(seed + 2).uniforms(n * k);
    for (int64_t i = 0; i < n * k; ++i)
      if (chance[i] >= density) w[i] = 0;
  }
  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
};

// The same functions of both formats, and what each makes of weights.
struct F32 {
  static constexpr auto packed_size = ek_f32_packed_size;
  static constexpr auto pack = ek_f32_pack;
  static constexpr auto describe = ek_f32_describe;
  static constexpr auto unpack = ek_f32_unpack;
  static constexpr auto workspace_size = ek_f32_workspace_size;
  static constexpr auto linear = ek_f32_linear;
  using Format = f32::Format;
  static bool halves(const ek_isa*) { return false; }
  static std::vector<float> rounded(const Weights& rhs) { return rhs.w; }
  static f32::reference::Linear reference(int64_t m, const Weights& rhs, const float* x, ek_activation activation, bool) {
    return f32::reference::linear(m, rhs.n, rhs.k, x, rhs.w.data(), rhs.bias_or_null(), activation);
  }
};

struct F16 {
  static constexpr auto packed_size = ek_f16_packed_size;
  static constexpr auto pack = ek_f16_pack;
  static constexpr auto describe = ek_f16_describe;
  static constexpr auto unpack = ek_f16_unpack;
  static constexpr auto workspace_size = ek_f16_workspace_size;
  static constexpr auto linear = ek_f16_linear;
  using Format = f16::Format;
  static bool halves(const ek_isa* isa) { return ek_f16_halves(isa) != 0; }
  static std::vector<float> rounded(const Weights& rhs) { return f16::reference::round_weights(rhs.n, rhs.k, rhs.w.data()); }
  static f32::reference::Linear reference(int64_t m, const Weights& rhs, const float* x, ek_activation activation,
                                          bool halves) {
    return f16::reference::linear(m, rhs.n, rhs.k, x, rounded(rhs).data(), rhs.bias_or_null(), activation, halves);
  }
};

// What an ISA should make of m rows, and how far it may be off.
template <class Api>
class Oracle {
 public:
  Oracle(int64_t m, const Weights& rhs, const std::vector<float>& x, ek_activation activation = EK_NONE)
      : make_([=, &rhs, &x](bool halves) { return Api::reference(m, rhs, x.data(), activation, halves); }) {}
  const f32::reference::Linear& of(const ek_isa* isa) {
    auto [at, fresh] = made_.try_emplace(Api::halves(isa));
    if (fresh) at->second = make_(at->first);
    return at->second;
  }

 private:
  std::function<f32::reference::Linear(bool)> make_;
  std::map<bool, f32::reference::Linear> made_;
};

template <class Api>
class Packed {
 public:
  Packed(const Weights& rhs, int64_t channels, const ek_parallel* parallel = nullptr)
      : size(Api::packed_size(channels, rhs.n, rhs.k, rhs.w.data(), EK_F32, rhs.k, parallel)), storage_(size + 64) {
    REQUIRE(size > 0);
    data = storage_.data() + (64 - reinterpret_cast<uintptr_t>(storage_.data()) % 64) % 64;
    REQUIRE(Api::pack(channels, rhs.n, rhs.k, rhs.w.data(), EK_F32, rhs.k, rhs.bias_or_null(), data, size, parallel) == EK_OK);
  }
  Packed(const Packed&) = delete;

  size_t size;
  char* data;

 private:
  std::vector<char> storage_;
};

template <class Api>
std::vector<float> linear(const ek_isa* isa, const Packed<Api>& packed, int64_t m, const std::vector<float>& x,
                          ek_activation activation = EK_NONE, const ek_parallel* parallel = nullptr) {
  ek_f32_shape shape;
  REQUIRE(Api::describe(packed.data, packed.size, &shape) == EK_OK);
  std::vector<float> y(m * shape.n);
  std::vector<char> scratch(Api::workspace_size(isa, shape.channels, m, shape.k));
  ek_status status = Api::linear(isa, packed.data, packed.size, m, x.data(), EK_F32, shape.k, y.data(), shape.n, activation,
                                 scratch.data(), scratch.size(), parallel);
  REQUIRE_MESSAGE(status == EK_OK, ek_status_message(status));
  return y;
}

// Every number of rows in `rows`, of x when it is given, against the oracle of as many as the most.
template <class Api>
void check(const Weights& rhs, const std::vector<int64_t>& rows, ek_activation activation = EK_NONE,
           std::vector<float> x = {}) {
  int64_t most = *std::max_element(rows.begin(), rows.end());
  if (x.empty()) x = Random(1).normals(most * rhs.k);
  Oracle<Api> oracle(most, rhs, x, activation);
  for (int64_t channels : kChannels) {
    Packed<Api> packed(rhs, channels);
    for (const ek_isa* isa : tested_isas())
      for (int64_t m : rows) {
        const f32::reference::Linear& wanted = oracle.of(isa);
        std::vector<float> got = linear(isa, packed, m, x, activation);
        int wrong = 0;
        for (size_t i = 0; i < got.size(); ++i) wrong += close(got[i], wanted.y[i], wanted.error[i], activation) ? 0 : 1;
        CHECK_MESSAGE(wrong == 0, ek_isa_name(isa), " channels ", channels, " m=", m, " n=", rhs.n, " k=", rhs.k);
      }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("floats: every row tail, and one row", Api, F32, F16) {
  std::vector<int64_t> rows(17);
  std::iota(rows.begin(), rows.end(), 1);
  check<Api>(Weights(50, 67, 0.3), rows);
}

TEST_CASE_TEMPLATE("floats: shapes around tiles, groups and panels", Api, F32, F16) {
  for (int64_t n : {1, 7, 17, 130})
    for (int64_t k : {1, 3, 16, 129, 300}) check<Api>(Weights(n, k, 0.2, static_cast<uint32_t>(n + k)), {1, 31, 67});
}

TEST_CASE_TEMPLATE("floats: more k than a u16 counts", Api, F32, F16) { check<Api>(Weights(9, 70000, 0.002), {1, 19}); }

TEST_CASE_TEMPLATE("floats: no weights, few, half and all", Api, F32, F16) {
  for (double density : {0.0, 0.01, 0.5, 1.0}) check<Api>(Weights(40, 1100, density), {1, 70});
}

TEST_CASE_TEMPLATE("floats: channels without weights between channels with all", Api, F32, F16) {
  Weights rhs(40, 300, 1.0);
  for (int64_t n = 0; n < rhs.n; ++n)
    if (n % 7 != 3) std::fill_n(rhs.w.begin() + n * rhs.k, rhs.k, 0.0f);
  check<Api>(rhs, {33});
}

TEST_CASE_TEMPLATE("floats: activations, and no bias", Api, F32, F16) {
  Weights rhs(50, 40, 0.4);
  for (ek_activation activation : {EK_RELU, EK_GELU, EK_GELU_TANH, EK_SILU}) check<Api>(rhs, {9}, activation);
  rhs.bias.clear();
  check<Api>(rhs, {9});
}

TEST_CASE_TEMPLATE("floats: a channel without weights is its bias, exactly", Api, F32, F16) {
  Weights rhs(20, 30, 0.0);
  Packed<Api> packed(rhs, 1);
  for (const ek_isa* isa : tested_isas()) CHECK(linear(isa, packed, 1, Random(1).normals(30)) == rhs.bias);
}

TEST_CASE_TEMPLATE("floats: no rows, no channels, no depth", Api, F32, F16) {
  Weights shallow(5, 0, 1.0);
  for (const ek_isa* isa : tested_isas())
    for (int64_t channels : kChannels) {
      CHECK(linear(isa, Packed<Api>(Weights(5, 6, 0.5), channels), 0, {}).empty());
      CHECK(linear(isa, Packed<Api>(Weights(0, 6, 0.5), channels), 2, std::vector<float>(12)).empty());
      std::vector<float> y = linear(isa, Packed<Api>(shallow, channels), 2, {});
      for (int64_t i = 0; i < 10; ++i) CHECK(y[i] == shallow.bias[i % 5]);
    }
}

TEST_CASE_TEMPLATE("floats: NaN and Inf reach the outputs whose weights meet them, in halves those of the row, and no others",
                   Api, F32, F16) {
  constexpr int64_t m = 11, n = 40, k = 60;
  Weights rhs(n, k, 0.2);
  for (int64_t j = 0; j < n; ++j) rhs.w[j * k + 17] = j % 3 == 0 ? 1.5f : 0.0f;
  Packed<Api> packed(rhs, 1);
  for (float bad : {NAN, INFINITY})
    for (const ek_isa* isa : tested_isas()) {
      std::vector<float> x = Random(4).normals(m * k), clean = linear(isa, packed, m, x);
      x[6 * k + 17] = bad;
      std::vector<float> y = linear(isa, packed, m, x);
      for (int64_t i = 0; i < m * n; ++i)
        CHECK((i / n == 6 && (Api::halves(isa) || i % n % 3 == 0) ? !isfinite(y[i]) : y[i] == clean[i]));
    }
}

TEST_CASE_TEMPLATE("floats: more rows than one slab holds", Api, F32, F16) {
  constexpr int64_t m = 300, k = 9000;
  Weights rhs(2, k, 0.01);
  std::vector<float> x(m * k);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 9973) - 3000.0f;  // cheap: emulators run this too
  Oracle<Api> oracle(m, rhs, x);
  Packed<Api> packed(rhs, 1);
  for (const ek_isa* isa : tested_isas()) {
    const f32::reference::Linear& wanted = oracle.of(isa);
    std::vector<float> y = linear(isa, packed, m, x);
    for (int64_t i = 0; i < m * 2; ++i) CHECK(close(y[i], wanted.y[i], wanted.error[i], EK_NONE));
  }
}

TEST_CASE_TEMPLATE("floats: f16 and bf16 in and out, strided", Api, F32, F16) {
  constexpr int64_t m = 11, n = 21, k = 50, ld_x = 64, ld_y = 33;
  Weights rhs(n, k, 0.3);
  std::vector<float> values = Random(6).normals(m * ld_x);
  for (ek_dtype dtype : {EK_F16, EK_BF16}) {
    auto to_half = [&](float v) { return dtype == EK_F16 ? f32_to_f16(v) : f32_to_bf16(v); };
    auto to_float = [&](uint16_t v) { return dtype == EK_F16 ? f16_to_f32(v) : bf16_to_f32(v); };
    std::vector<uint16_t> half;
    std::vector<float> x;
    for (int64_t i = 0; i < m * ld_x; ++i) {
      half.push_back(to_half(values[i]));
      if (i % ld_x < k) x.push_back(to_float(half[i]));
    }
    Oracle<Api> oracle(m, rhs, x, EK_SILU);
    for (const ek_isa* isa : tested_isas())
      for (int64_t channels : kChannels) {
        const f32::reference::Linear& wanted = oracle.of(isa);
        Packed<Api> packed(rhs, channels);
        std::vector<uint16_t> y(m * ld_y, 0x1234);
        std::vector<char> scratch(Api::workspace_size(isa, channels, m, k));
        REQUIRE(Api::linear(isa, packed.data, packed.size, m, half.data(), dtype, ld_x, y.data(), ld_y, EK_SILU, scratch.data(),
                            scratch.size(), nullptr) == EK_OK);
        int wrong = 0;
        for (int64_t i = 0; i < m * ld_y; ++i) {
          int64_t at = i / ld_y * n + i % ld_y;
          double rounding = (dtype == EK_F16 ? 5e-4 : 4e-3) * fabs(wanted.y[i % ld_y < n ? at : 0]);
          wrong += i % ld_y >= n ? y[i] != 0x1234 : !close(to_float(y[i]), wanted.y[at], wanted.error[at] + rounding, EK_SILU);
        }
        CHECK_MESSAGE(wrong == 0, ek_isa_name(isa));
      }
  }
}

TEST_CASE_TEMPLATE("floats: unpack gives back every weight as it was rounded, and -0 as 0", Api, F32, F16) {
  for (int64_t n : {1, 15, 17, 40})
    for (int64_t k : {0, 1, 5, 200, 2100})
      for (int64_t channels : kChannels)
        for (bool with_bias : {false, true}) {
          Weights rhs(n, k, 0.3, static_cast<uint32_t>(n * k));
          if (!with_bias) rhs.bias.clear();
          if (k > 0) rhs.w[k / 2] = -0.0f;
          Packed<Api> packed(rhs, channels);
          ek_f32_shape shape;
          REQUIRE(Api::describe(packed.data, packed.size, &shape) == EK_OK);
          CHECK(shape.n == n);
          CHECK(shape.k == k);
          CHECK(shape.channels == channels);
          CHECK(shape.has_bias == with_bias);
          std::vector<float> w(n * k, 5.0f), bias(n, 5.0f);
          REQUIRE(Api::unpack(packed.data, packed.size, w.data(), k, bias.data(), nullptr) == EK_OK);
          CHECK(w == Api::rounded(rhs));
          if (k > 0) CHECK(!signbit(w[k / 2]));
          CHECK(bias == (with_bias ? rhs.bias : std::vector<float>(n, 0.0f)));
          if (channels == 1) CHECK(shape.blocks == n * k - std::count(w.begin(), w.end(), 0.0f));
        }
}

TEST_CASE_TEMPLATE("floats: weights of any dtype pack as the floats they are", Api, F32, F16) {
  Weights rhs(20, 40, 0.3);
  std::vector<uint16_t> f16, bf16;
  Weights as_f16 = rhs, as_bf16 = rhs;
  for (size_t i = 0; i < rhs.w.size(); ++i) {
    f16.push_back(f32_to_f16(rhs.w[i]));
    bf16.push_back(f32_to_bf16(rhs.w[i]));
    as_f16.w[i] = f16_to_f32(f16[i]);
    as_bf16.w[i] = bf16_to_f32(bf16[i]);
  }
  auto check_same = [&](const Weights& floats, const std::vector<uint16_t>& halves, ek_dtype dtype) {
    Packed<Api> wanted(floats, 4);
    REQUIRE(Api::packed_size(4, 20, 40, halves.data(), dtype, 40, nullptr) == wanted.size);
    Guarded packed(wanted.size, true);
    REQUIRE(Api::pack(4, 20, 40, halves.data(), dtype, 40, rhs.bias.data(), packed.as<char>(), wanted.size, nullptr) == EK_OK);
    CHECK(memcmp(packed.as<char>(), wanted.data, wanted.size) == 0);
  };
  check_same(as_f16, f16, EK_F16);
  check_same(as_bf16, bf16, EK_BF16);
}

TEST_CASE_TEMPLATE("floats: a matrix takes the bytes of the blocks it keeps", Api, F32, F16) {
  Weights rhs(512, 1024, 0.1);
  double kept = 512 * 1024 - static_cast<double>(std::count(rhs.w.begin(), rhs.w.end(), 0.0f));
  CHECK(static_cast<double>(Packed<Api>(rhs, 1).size) <
        1.07 * kept * (sizeof(typename Api::Format::Weight) + 1) + 512 * 12);  // a weight, its place; starts, work, bias, scale
}

TEST_CASE_TEMPLATE("floats: guard pages around every buffer", Api, F32, F16) {
  for (const ek_isa* isa : tested_isas())
    for (bool front : {false, true})
      for (ek_dtype dtype : {EK_F32, EK_F16, EK_BF16})
        for (int64_t m : {1, 2, 7, 40})
          for (int64_t n : {1, 16, 31})
            for (int64_t k : {1, 4, 33, 129}) {
              size_t bytes = dtype == EK_F32 ? 4 : 2;
              int64_t channels = kChannels[(m + n + k) % 4];
              Weights rhs(n, k, 0.5);
              Guarded w(rhs.w.data(), rhs.w.size() * 4), bias(rhs.bias.data(), rhs.bias.size() * 4);
              size_t size = Api::packed_size(channels, n, k, w.as<float>(), EK_F32, k, nullptr);
              Guarded packed(size, front);  // the size is a multiple of 64, so it may stand at either end of a page
              REQUIRE(Api::pack(channels, n, k, w.as<float>(), EK_F32, k, bias.as<float>(), packed.as<char>(), size, nullptr) ==
                      EK_OK);
              Guarded x(m * k * bytes, front), y(m * n * bytes, front), back(n * k * 4, front);
              memset(x.as<char>(), 0, m * k * bytes);
              size_t scratch_size = Api::workspace_size(isa, channels, m, k);
              Guarded scratch(scratch_size, front);
              CHECK(Api::linear(isa, packed.as<char>(), size, m, x.as<char>(), dtype, k, y.as<char>(), n, EK_GELU,
                                scratch.as<char>(), scratch_size, nullptr) == EK_OK);
              CHECK(Api::unpack(packed.as<char>(), size, back.as<float>(), k, nullptr, nullptr) == EK_OK);
            }
}

TEST_CASE_TEMPLATE("floats: the same bits for one to four threads, and for a mask with all weights in one channel", Api, F32,
                   F16) {
  Weights spread(300, 500, 0.2), lopsided(300, 500, 0.0);
  for (int64_t i = 0; i < 500; ++i) lopsided.w[177 * 500 + i] = static_cast<float>(i + 1);
  for (const Weights* rhs : {&spread, &lopsided}) {
    Packed<Api> packed(*rhs, 2);
    std::vector<std::vector<float>> x, wanted;
    for (int64_t m : {1, 5, 31, 63, 200}) {
      x.push_back(Random(2).normals(m * 500));
      wanted.push_back(linear(nullptr, packed, m, x.back()));
    }
    for (int threads = 1; threads <= 4; ++threads) {
      ek_pool* pool = nullptr;
      REQUIRE(ek_pool_create(threads, &pool) == EK_OK);
      ek_parallel parallel = ek_pool_parallel(pool);
      Packed<Api> again(*rhs, 2, &parallel);
      CHECK(memcmp(packed.data, again.data, packed.size) == 0);
      for (size_t i = 0; i < x.size(); ++i) {
        int64_t m = static_cast<int64_t>(x[i].size()) / 500;
        CHECK(linear(nullptr, packed, m, x[i], EK_NONE, &parallel) == wanted[i]);
      }
      ek_pool_destroy(pool);
    }
  }
}

TEST_CASE_TEMPLATE("floats: packing refuses bad arguments", Api, F32, F16) {
  std::vector<float> w = {1, 0, 2, 0, 0, 3, 0, 0, 0, 0, 0, 4};
  alignas(64) char packed[4096];
  auto pack = [&](int64_t channels, int64_t n, int64_t k, const void* from, int dtype, int64_t ld, const float* bias,
                  char* to) {
    ek_dtype type = static_cast<ek_dtype>(dtype);
    ek_status status = Api::pack(channels, n, k, from, type, ld, bias, to, sizeof(packed) - 64, nullptr);
    // What packing refuses has no size, but for what is wrong with its values or with the memory it would go to.
    bool sized = status == EK_OK || status == EK_ERROR_VALUE || status == EK_ERROR_PACKED || to == nullptr;
    CHECK((Api::packed_size(channels, n, k, from, type, ld, nullptr) > 0) == sized);
    return status;
  };
  CHECK(pack(1, 3, 4, w.data(), EK_F32, 4, nullptr, packed) == EK_OK);
  for (int64_t channels : {-1, 0, 3, 16}) CHECK(pack(channels, 3, 4, w.data(), EK_F32, 4, nullptr, packed) == EK_ERROR_FORM);
  CHECK(pack(1, -1, 4, w.data(), EK_F32, 4, nullptr, packed) == EK_ERROR_SHAPE);
  CHECK(pack(1, 3, int64_t{1} << 40, w.data(), EK_F32, 4, nullptr, packed) == EK_ERROR_SHAPE);
  CHECK(pack(1, 3, 4, w.data(), 3, 4, nullptr, packed) == EK_ERROR_DTYPE);
  CHECK(pack(1, 3, 4, nullptr, EK_F32, 4, nullptr, packed) == EK_ERROR_NULL_POINTER);
  CHECK(pack(1, 3, 4, w.data(), EK_F32, 4, nullptr, nullptr) == EK_ERROR_NULL_POINTER);
  CHECK(pack(1, 3, 4, w.data(), EK_F32, 3, nullptr, packed) == EK_ERROR_STRIDE);
  CHECK(pack(1, 3, 4, w.data(), EK_F32, 4, nullptr, packed + 8) == EK_ERROR_PACKED);
  CHECK(Api::pack(1, 3, 4, w.data(), EK_F32, 4, nullptr, packed, 64, nullptr) == EK_ERROR_PACKED);
  float bias[3] = {0.0f, INFINITY, 0.0f};
  CHECK(pack(1, 3, 4, w.data(), EK_F32, 4, bias, packed) == EK_ERROR_VALUE);
  w[5] = NAN;
  CHECK(pack(1, 3, 4, w.data(), EK_F32, 4, nullptr, packed) == EK_ERROR_VALUE);
}

TEST_CASE_TEMPLATE("floats: what is not a packed matrix is refused", Api, F32, F16) {
  Packed<Api> packed(Weights(20, 30, 0.5), 2);
  ek_f32_shape shape;
  auto describe = [&] { return Api::describe(packed.data, packed.size, &shape); };
  CHECK(Api::describe(nullptr, packed.size, &shape) == EK_ERROR_NULL_POINTER);
  CHECK(Api::describe(packed.data, packed.size - 1, &shape) == EK_ERROR_PACKED);
  CHECK(Api::describe(packed.data, 10, &shape) == EK_ERROR_PACKED);
  CHECK(Api::describe(packed.data + 1, packed.size - 1, &shape) == EK_ERROR_PACKED);
  Matrix other = Matrix::random(20, 30, 1);
  CHECK(Api::describe(other.packed(), other.packed_size(), &shape) == EK_ERROR_PACKED);
  auto* header = reinterpret_cast<floats::Header*>(packed.data);
  floats::Header truth = *header;
  for (int64_t lie : {int64_t{-1}, int64_t{1} << 40, INT64_MAX, int64_t{1000}}) {
    header->n = lie;
    CHECK(describe() == EK_ERROR_PACKED);
  }
  *header = truth;
  for (int lie : {-1, 0, 3, 16}) {
    header->channels = lie;
    CHECK(describe() == EK_ERROR_PACKED);
  }
  *header = truth;
  CHECK(describe() == EK_OK);
  header->magic[7] ^= 1;
  CHECK(describe() == EK_ERROR_PACKED);
}

TEST_CASE_TEMPLATE("floats: linear refuses bad arguments and touches nothing", Api, F32, F16) {
  Weights rhs(4, 8, 0.5);
  Packed<Api> packed(rhs, 1);
  const ek_isa* isa = ek_isa_find("scalar");
  std::vector<char> scratch(Api::workspace_size(isa, 1, 2, 8));
  std::vector<float> x(16), y(8, -7.0f);
  auto call = [&](const void* matrix, int64_t m, const void* lhs, int dtype, int64_t ld_x, void* out, int64_t ld_y,
                  int activation, size_t scratch_size) {
    return Api::linear(isa, matrix, packed.size, m, lhs, static_cast<ek_dtype>(dtype), ld_x, out, ld_y,
                       static_cast<ek_activation>(activation), scratch.data(), scratch_size, nullptr);
  };
  size_t enough = scratch.size();
  CHECK(call(nullptr, 2, x.data(), EK_F32, 8, y.data(), 4, EK_NONE, enough) == EK_ERROR_NULL_POINTER);
  CHECK(call(packed.data, -1, x.data(), EK_F32, 8, y.data(), 4, EK_NONE, enough) == EK_ERROR_SHAPE);
  CHECK(call(packed.data, 2, nullptr, EK_F32, 8, y.data(), 4, EK_NONE, enough) == EK_ERROR_NULL_POINTER);
  CHECK(call(packed.data, 2, x.data(), EK_F32, 8, nullptr, 4, EK_NONE, enough) == EK_ERROR_NULL_POINTER);
  CHECK(call(packed.data, 2, x.data(), 3, 8, y.data(), 4, EK_NONE, enough) == EK_ERROR_DTYPE);
  CHECK(call(packed.data, 2, x.data(), EK_F32, 7, y.data(), 4, EK_NONE, enough) == EK_ERROR_STRIDE);
  CHECK(call(packed.data, 2, x.data(), EK_F32, 8, y.data(), 3, EK_NONE, enough) == EK_ERROR_STRIDE);
  CHECK(call(packed.data, 2, x.data(), EK_F32, 8, y.data(), 4, 9, enough) == EK_ERROR_ACTIVATION);
  CHECK(call(packed.data, 2, x.data(), EK_F32, 8, y.data(), 4, EK_NONE, enough - 1) == EK_ERROR_WORKSPACE);
  for (float v : y) CHECK(v == -7.0f);
  CHECK(call(packed.data, 2, x.data(), EK_F32, 8, y.data(), 4, EK_NONE, enough) == EK_OK);
  CHECK(call(packed.data, 1, x.data(), EK_F32, 1, y.data(), 1, EK_NONE, enough) == EK_OK);  // one row has no stride
  CHECK(Api::workspace_size(isa, 3, 2, 8) == 0);
  CHECK(Api::workspace_size(isa, 1, -1, 8) == 0);
  for (size_t i = 0; i < ek_isa_count(); ++i)
    if (!ek_isa_supported(ek_isa_at(i))) CHECK(Api::workspace_size(ek_isa_at(i), 1, 2, 8) == 0);
}

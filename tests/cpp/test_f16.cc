// What is f16's own beside test_floats.cc: the power of two that a channel's weights and a row's activations are divided by.
#include <doctest/doctest.h>
#include <math.h>

#include "formats/f16/reference.h"
#include "support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

struct Layer {
  int64_t n, k;
  std::vector<float> w;  // [n][k]

  std::vector<char> storage;
  char* packed = nullptr;
  size_t size = 0;

  Layer(int64_t n_, int64_t k_, std::vector<float> w_) : n(n_), k(k_), w(std::move(w_)) {
    size = ek_f16_packed_size(1, n, k, w.data(), EK_F32, k, nullptr);
    storage.resize(size + 64);
    packed = storage.data() + (64 - reinterpret_cast<uintptr_t>(storage.data()) % 64) % 64;
    REQUIRE(ek_f16_pack(1, n, k, w.data(), EK_F32, k, nullptr, packed, size, nullptr) == EK_OK);
  }
  std::vector<float> unpacked() const {
    std::vector<float> back(w.size(), 5.0f);
    REQUIRE(ek_f16_unpack(packed, size, back.data(), k, nullptr, nullptr) == EK_OK);
    return back;
  }
  std::vector<float> run(const ek_isa* isa, int64_t m, const std::vector<float>& x) const {
    std::vector<float> y(m * n);
    std::vector<char> scratch(ek_f16_workspace_size(isa, 1, m, k));
    REQUIRE(ek_f16_linear(isa, packed, size, m, x.data(), EK_F32, k, y.data(), n, EK_NONE, scratch.data(), scratch.size(),
                          nullptr) == EK_OK);
    return y;
  }
  void check(int64_t m, const std::vector<float>& x) const {
    std::vector<float> rounded = f16::reference::round_weights(n, k, w.data());
    for (const ek_isa* isa : tested_isas()) {
      auto wanted = f16::reference::linear(m, n, k, x.data(), rounded.data(), nullptr, EK_NONE, ek_f16_halves(isa) != 0);
      std::vector<float> y = run(isa, m, x);
      for (int64_t i = 0; i < m * n; ++i)
        CHECK_MESSAGE(close(y[i], wanted.y[i], wanted.error[i], EK_NONE), ek_isa_name(isa), " ", i, ": ", y[i], " for ",
                      wanted.y[i]);
    }
  }
};

}  // namespace

TEST_CASE("f16: halves are multiplied where ARM's row in the ISA table says so") {
  for (const ek_isa* isa : tested_isas()) {
    std::string name = ek_isa_name(isa);
    CHECK((ek_f16_halves(isa) == 1) == (name == "neon_dotprod" || name == "neon_i8mm"));
  }
}

TEST_CASE("f16: the largest sums do not overflow") {
  for (int64_t k : {208, 209, 1000, 5000})
    for (float size : {1.0f, 1.9999f, 1e16f})
      Layer(17, k, std::vector<float>(17 * k, size)).check(9, std::vector<float>(9 * k, 1.9999f * size));
}

TEST_CASE("f16: rows and channels of any size, and of zeros") {
  constexpr int64_t m = 12, n = 20, k = 300;
  std::vector<float> w = Random(1).normals(n * k), x = Random(2).normals(m * k);
  for (int64_t i = 0; i < n * k; ++i) w[i] = i / k == 7 ? 0 : ldexpf(w[i], static_cast<int>(i / k % 5 - 2) * 30);
  for (int64_t i = 0; i < m * k; ++i) x[i] = i / k == 5 ? 0 : ldexpf(x[i], static_cast<int>(i / k % 3 - 1) * 30);
  Layer layer(n, k, w);
  layer.check(m, x);
  for (const ek_isa* isa : tested_isas()) {
    std::vector<float> y = layer.run(isa, m, x);
    for (int64_t i = 0; i < m * n; ++i) CHECK((y[i] == 0) == (i / n == 5 || i % n == 7));
  }
}

TEST_CASE("f16: one large activation or weight leaves the small ones their bits") {
  constexpr int64_t m = 9, n = 8, k = 200;
  std::vector<float> w = Random(3).normals(n * k), x = Random(4).normals(m * k);
  for (int64_t r = 0; r < m; ++r) x[r * k + 10] = 3e4f;
  for (int64_t c = 0; c < n; ++c) {
    w[c * k + 10] = 0;
    w[c * k + 20] = 1e3f;
  }
  Layer layer(n, k, w);
  std::vector<float> rounded = f16::reference::round_weights(n, k, w.data());
  layer.check(m, x);
  for (int64_t i = 0; i < n * k; ++i) CHECK(fabs(rounded[i] - w[i]) <= fmax(ldexp(fabs(w[i]), -11), ldexp(512, -25)));
  for (int64_t r = 0; r < m; ++r) x[r * k + 20] = 0;  // now neither of the large ones meets the other's small ones
  auto exact = f16::reference::linear(m, n, k, x.data(), w.data(), nullptr, EK_NONE, false);
  for (const ek_isa* isa : tested_isas()) {
    std::vector<float> y = layer.run(isa, m, x);
    for (int64_t i = 0; i < m * n; ++i) CHECK(fabs(y[i] - exact.y[i]) < 0.2);  // of sums of 198 products, about 14
  }
}

TEST_CASE("f16: by chance halves lose less than bf16 does") {
  constexpr int64_t m = 16, n = 64, k = 768;
  std::vector<float> w = Random(7).normals(n * k), x = Random(8).normals(m * k), chance = Random(9).uniforms(n * k);
  for (int64_t i = 0; i < n * k; ++i) w[i] = chance[i] < static_cast<float>(i / k) / n ? 0 : w[i];  // from all to few
  Layer layer(n, k, w);
  auto exact = f16::reference::linear(m, n, k, x.data(), w.data(), nullptr, EK_NONE, false);
  for (const ek_isa* isa : tested_isas()) {
    std::vector<float> y = layer.run(isa, m, x);
    double lost = 0, whole = 0;
    for (int64_t i = 0; i < m * n; ++i) {
      lost += (y[i] - exact.y[i]) * (y[i] - exact.y[i]);
      whole += exact.y[i] * exact.y[i];
    }
    CHECK_MESSAGE(sqrt(lost / whole) < (ek_f16_halves(isa) != 0 ? 1.5e-3 : 3e-4), ek_isa_name(isa));
  }
}

TEST_CASE("f16: weights that are f16 come back bit for bit, and what is too small stays kept") {
  std::vector<float> w = {1.9990234375f, 0.333251953125f, 5.9604645e-8f, 0, -6.1035156e-5f, 0, 0, 1.5f};
  CHECK(Layer(1, 8, w).unpacked() == w);
  Layer tiny(2, 2, {1.0f, 1e-30f, 1e-38f, 0});
  CHECK(tiny.unpacked() == std::vector<float>{1.0f, 0, 0, 0});
  ek_f16_shape shape;
  REQUIRE(ek_f16_describe(tiny.packed, tiny.size, &shape) == EK_OK);
  CHECK(shape.blocks == 3);
}

TEST_CASE("f16: what was rounded packs as it is") {
  // A largest weight that rounds up to a power of two takes the scale with it, and small ones lose a bit at once.
  std::vector<float> w = {1.9999f, ldexpf(3, -24), ldexpf(1, -24), 0.3f};
  for (const std::vector<float>& row : {w, Random(5).normals(40, 0, 1e-3f), Random(6).normals(40, 0, 1e6f)}) {
    int64_t k = static_cast<int64_t>(row.size());
    std::vector<float> once = Layer(1, k, row).unpacked();
    CHECK(once == f16::reference::round_weights(1, k, row.data()));
    CHECK(Layer(1, k, once).unpacked() == once);
  }
}

TEST_CASE("f16: weights that round beyond what floats hold are refused") {
  alignas(64) char packed[1024];
  for (float w : {0x1.ffdffep127f, 0x1.ffep127f}) {
    ek_status status = ek_f16_pack(1, 1, 1, &w, EK_F32, 1, nullptr, packed, sizeof(packed), nullptr);
    CHECK(status == (w < 0x1.ffep127f ? EK_OK : EK_ERROR_VALUE));
  }
}

TEST_CASE("f16: a matrix of the other format is refused") {
  Layer layer(3, 4, std::vector<float>(12, 1.0f));
  ek_f32_shape shape;
  CHECK(ek_f32_describe(layer.packed, layer.size, &shape) == EK_ERROR_PACKED);
}

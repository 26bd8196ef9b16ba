// Convolutions of pruned weights: every form on every ISA gives the very bits of the dense one, which test_conv2d.cc compares
// with the definition.
#include <doctest/doctest.h>

#include "base/half.h"
#include "conv2d_support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

// What goes in and comes out.
struct Ends {
  ek_image_order order;
  ek_dtype x = EK_F32, y = EK_F32;
  ek_activation activation = EK_NONE;

  bool given() const { return x == EK_U8 || y == EK_U8; }
  int64_t bytes(ek_dtype dtype) const { return dtype == EK_F32 ? 4 : dtype == EK_U8 ? 1 : 2; }
};

constexpr Ends kFloats[] = {{EK_NCHW}, {EK_NHWC}};
constexpr Ends kOthers[] = {{EK_NCHW, EK_F16, EK_F16},         {EK_NHWC, EK_BF16, EK_BF16, EK_HARDSWISH},
                            {EK_NHWC, EK_U8, EK_U8},           {EK_NHWC, EK_U8, EK_U8, EK_RELU6},
                            {EK_NHWC, EK_F32, EK_U8, EK_SILU}, {EK_NHWC, EK_U8, EK_F32, EK_RELU},
                            {EK_NHWC, EK_U8, EK_F16, EK_GELU}, {EK_NCHW, EK_F32, EK_F32, EK_SILU}};

// Images of a case as they go in.
std::vector<char> images_of(const Case& c, const Ends& ends) {
  const int64_t count = c.images * c.x_size();
  std::vector<char> bytes(count * ends.bytes(ends.x));
  if (ends.x == EK_U8) {
    std::vector<uint8_t> q = Random(6).integers<uint8_t>(count, 0, 255);
    memcpy(bytes.data(), q.data(), q.size());
    return bytes;
  }
  std::vector<float> values = Random(8).normals(count, 0.3f);
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t half = ends.x == EK_F16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    ends.x == EK_F32 ? memcpy(&bytes[4 * i], &values[i], 4) : memcpy(&bytes[2 * i], &half, 2);
  }
  return bytes;
}

// y of a layer. Everything ends where an unreadable page begins.
std::vector<char> run(const Layer& layer, const ek_isa* isa, ek_int8_form form, const Ends& ends,
                      const ek_parallel* parallel = nullptr) {
  const Case& c = layer.of;
  PackedLayer packed(layer, isa, form);
  const std::vector<char> given = images_of(c, ends);
  Guarded from(given.data(), given.size());
  int64_t height, width;
  REQUIRE(ek_conv2d_output(&c.shape, &c.window, c.height, c.width, &height, &width) == EK_OK);
  const size_t size = static_cast<size_t>(c.images * c.shape.out_channels * height * width * ends.bytes(ends.y));
  Guarded to(size);
  memset(to.as<char>(), 0xa5, size);
  ek_images x = floats(from.as<char>(), ends.order, ends.x), y = floats(to.as<char>(), ends.order, ends.y);
  if (ends.given()) x.range = {0.02f, 97};
  if (ends.y == EK_U8) y.range = {0.11f, 131};
  const size_t scratch_size = ek_int8_conv2d_workspace_size(isa, packed.data(), packed.size, &c.window, c.images, c.height,
                                                            c.width, &x, &y, ends.activation, parallel);
  REQUIRE(scratch_size > 0);
  Guarded scratch(scratch_size);
  memset(scratch.as<char>(), 0x5a, scratch_size);
  REQUIRE(ek_int8_conv2d(isa, packed.data(), packed.size, &c.window, c.images, c.height, c.width, &x, &y, ends.activation,
                         scratch.as<char>(), scratch_size, parallel) == EK_OK);
  return std::vector<char>(to.as<char>(), to.as<char>() + size);
}

void check_forms(const Case& c, double density, const Ends& ends, const ek_parallel* parallel = nullptr) {
  const Layer layer = Layer(c).keep(density);
  for (const ek_isa* isa : tested_isas()) {
    const std::vector<char> want = run(layer, isa, EK_INT8_DENSE, ends);
    for (ek_int8_form form : kForms) {
      if (form == EK_INT8_DENSE) continue;
      INFO(ek_isa_name(isa), " form ", int{form}, " density ", density, " order ", int{ends.order}, " x ", int{ends.x}, " y ",
           int{ends.y}, " activation ", int{ends.activation}, " in ", c.shape.in_channels, " out ", c.shape.out_channels,
           " groups ", c.shape.groups, " kernel ", c.shape.kernel_h, " image ", c.height, "x", c.width);
      CHECK(run(layer, isa, form, ends, parallel) == want);
    }
  }
}

}  // namespace

TEST_CASE("pruned convolutions: kernels, strides, dilations, padding and groups") {
  for (const Ends& ends : kFloats) {
    for (const Case& c : {square(20, 33, 1, 1, 7, window(1, 1, 0)), square(8, 18, 1, 3, 7, window(1, 1, 1)),
                          square(5, 18, 1, 3, 9, window(2, 1, 1)), square(6, 20, 1, 2, 9, window(1, 3, 2)),
                          square(24, 33, 1, 1, 6, window(3, 1, 1)), square(12, 40, 2, 3, 6, window(1, 1, 1)),
                          square(16, 64, 1, 1, 1, window(1, 1, 0))})
      check_forms(c, 0.2, ends);
    check_forms({{7, 3, 1, 3, 1}, {2, 1, 1, 4, 0, 3, 1, 0}, 1, 8, 11}, 0.3, ends);
  }
}

TEST_CASE("pruned convolutions: no weight at all, few, and all") {
  for (double density : {0.0, 0.02, 0.5, 1.0}) {
    check_forms(square(70, 65, 1, 1, 5, window(1, 1, 0), 1), density, {EK_NHWC});
    check_forms(square(9, 24, 1, 3, 5, window(1, 1, 1), 1), density, {EK_NCHW});
    check_forms(square(9, 24, 1, 3, 5, window(1, 1, 1), 1), density, {EK_NHWC, EK_U8, EK_U8, EK_RELU});
  }
}

TEST_CASE("pruned convolutions: channels around words and panels") {
  for (int64_t in : {1, 2, 3, 4, 7, 63, 65, 129})
    for (int64_t out : {1, 15, 17, 65}) check_forms(square(in, out, 1, 1, 3, window(1, 1, 0), 1), 0.3, {EK_NHWC});
  check_forms(square(1100, 20, 1, 1, 3, window(1, 1, 0), 1), 0.1, {EK_NHWC});  // several k panels
}

TEST_CASE("pruned convolutions: tiles of every width") {
  for (int64_t width : {1, 3, 8, 15, 17, 33, 63, 64, 65, 130})
    check_forms({{20, 12, 1, 1, 1}, window(1, 1, 0), 1, 1, width}, 0.3, {EK_NCHW});
  check_forms(square(8, 20, 1, 3, 20, window(1, 1, 1), 2), 0.2, {EK_NHWC});
}

TEST_CASE("pruned convolutions from and to every type") {
  for (const Ends& ends : kOthers) {
    check_forms(square(24, 70, 1, 1, 6, window(1, 1, 0)), 0.2, ends);
    check_forms(square(6, 17, 1, 3, 7, window(2, 1, 1)), 0.3, ends);
    check_forms(square(8, 12, 2, 3, 6, window(1, 1, 1)), 0.3, ends);
  }
}

TEST_CASE("pruned convolutions on several threads") {
  Pool pool(3);
  ek_parallel parallel = pool.parallel();
  check_forms(square(16, 80, 1, 3, 24, window(1, 1, 1), 3), 0.2, {EK_NCHW}, &parallel);
  check_forms(square(320, 256, 1, 1, 7, window(1, 1, 0), 1), 0.2, {EK_NHWC}, &parallel);  // one block of pixels, pieces of N
  check_forms(square(320, 256, 1, 1, 7, window(1, 1, 0), 1), 0.2, {EK_NHWC, EK_U8, EK_U8, EK_RELU}, &parallel);
}

TEST_CASE("pruned convolutions: an image with NaN gives NaN") {
  const Case c = square(6, 20, 1, 3, 5, window(1, 1, 1), 1);
  const Layer layer = Layer(c).keep(0.3);
  std::vector<float> x(c.x_size(), 1.0f), y(20 * 25);
  x[17] = NAN;
  for (const auto& [isa, form] : isas_and_forms()) {
    PackedLayer packed(layer, isa, form);
    ek_images in = floats(x.data(), EK_NHWC), out = floats(y.data(), EK_NHWC);
    std::vector<char> scratch(
        ek_int8_conv2d_workspace_size(isa, packed.data(), packed.size, &c.window, 1, 5, 5, &in, &out, EK_NONE, nullptr));
    REQUIRE(ek_int8_conv2d(isa, packed.data(), packed.size, &c.window, 1, 5, 5, &in, &out, EK_NONE, scratch.data(),
                           scratch.size(), nullptr) == EK_OK);
    int64_t wrong = 0;
    for (float v : y) wrong += !isnan(v);
    CHECK(wrong == 0);
  }
}

TEST_CASE("pruned convolutions unpack to what was packed") {
  for (const Case& c : {square(5, 18, 1, 3, 7, window(1, 1, 0)), square(12, 18, 3, 2, 6, window(1, 1, 1))})
    for (const auto& [isa, form] : isas_and_forms()) {
      const Layer layer = Layer(c).keep(0.4);
      PackedLayer packed(layer, isa, form);
      ek_int8_conv2d_packed found;
      REQUIRE(ek_int8_conv2d_describe(packed.data(), packed.size, &found) == EK_OK);
      CHECK(found.form == form);
      std::vector<int8_t> w(layer.w.size());
      std::vector<float> scale(layer.scale.size()), bias(layer.bias.size());
      REQUIRE(ek_int8_conv2d_unpack(packed.data(), packed.size, w.data(), scale.data(), bias.data(), nullptr) == EK_OK);
      CHECK(w == layer.w);
      CHECK(scale == layer.scale);
      CHECK(bias == layer.bias);
    }
}

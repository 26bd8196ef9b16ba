// Convolutions of pruned weights that stay floats, on every ISA, against their definition.
#include <doctest/doctest.h>
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "conv2d_support.h"
#include "formats/activation_reference.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

constexpr int64_t kChannels[] = {1, 2, 4, 8};

// Weights of a case, of which about a share is not zero.
struct Filters {
  Case of;
  std::vector<float> w, bias;

  explicit Filters(const Case& c, double density = 0.3, bool with_bias = true) : of(c) {
    w = Random(3).normals(c.weights());
    std::vector<float> chance = Random(4).uniforms(c.weights());
    for (size_t i = 0; i < w.size(); ++i)
      if (chance[i] >= density) w[i] = 0;
    if (with_bias) bias = Random(5).normals(c.shape.out_channels);
  }
  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
};

// At a 64-byte boundary, and ending where an unreadable page begins.
struct PackedFilters {
  size_t size;
  Guarded memory;
  PackedFilters(const Filters& filters, int64_t channels)
      : size(ek_f32_conv2d_packed_size(channels, &filters.of.shape, filters.w.data(), EK_F32, nullptr)), memory(size) {
    REQUIRE(size > 0);
    REQUIRE(size % 64 == 0);
    REQUIRE(ek_f32_conv2d_pack(channels, &filters.of.shape, filters.w.data(), EK_F32, filters.bias_or_null(), data(), size,
                               nullptr) == EK_OK);
  }
  char* data() { return memory.as<char>(); }
};

struct Wanted {
  int64_t height, width;
  std::vector<double> y, error;  // [images][out][height][width]; how far a sum may be off before the activation
};

// The layer as edgekern.h defines it, of x [images][in][height][width]. Zeros of w are not multiplied.
Wanted wanted(const Filters& filters, const std::vector<float>& x, ek_activation activation) {
  const Case& c = filters.of;
  const ek_conv2d_shape& shape = c.shape;
  Wanted out;
  REQUIRE(ek_conv2d_output(&shape, &c.window, c.height, c.width, &out.height, &out.width) == EK_OK);
  const int64_t group_in = c.group_in(), group_out = shape.out_channels / shape.groups;
  for (int64_t b = 0; b < c.images; ++b)
    for (int64_t o = 0; o < shape.out_channels; ++o)
      for (int64_t i = 0; i < out.height; ++i)
        for (int64_t j = 0; j < out.width; ++j) {
          double sum = 0, magnitude = 0;
          int64_t kept = 0;
          for (int64_t at = 0; at < shape.kernel_h * shape.kernel_w * group_in; ++at) {
            const float weight = filters.w[o * shape.kernel_h * shape.kernel_w * group_in + at];
            const int64_t r = at / group_in / shape.kernel_w, s = at / group_in % shape.kernel_w;
            const int64_t y = i * c.window.stride_h + r * c.window.dilation_h - c.window.top;
            const int64_t z = j * c.window.stride_w + s * c.window.dilation_w - c.window.left;
            kept += weight != 0;
            if (weight == 0 || y < 0 || y >= c.height || z < 0 || z >= c.width) continue;
            const int64_t channel = o / group_out * group_in + at % group_in;
            const double product = double{x[b * c.x_size() + (channel * c.height + y) * c.width + z]} * weight;
            sum += product;
            magnitude += fabs(product);
          }
          const double bias = filters.bias.empty() ? 0.0 : filters.bias[o];
          out.y.push_back(edgekern::reference::activate(sum + bias, activation));
          out.error.push_back(static_cast<double>(kept + 2) * ldexp(magnitude + fabs(bias), -23));
        }
  return out;
}

float value_of(const char* data, ek_dtype dtype, int64_t i) {
  if (dtype == EK_F32) return reinterpret_cast<const float*>(data)[i];
  const uint16_t half = reinterpret_cast<const uint16_t*>(data)[i];
  return dtype == EK_F16 ? f16_to_f32(half) : bf16_to_f32(half);
}

void put(char* data, ek_dtype dtype, int64_t i, float value) {
  if (dtype == EK_F32)
    reinterpret_cast<float*>(data)[i] = value;
  else
    reinterpret_cast<uint16_t*>(data)[i] = dtype == EK_F16 ? f32_to_f16(value) : f32_to_bf16(value);
}

struct Way {
  const ek_isa* isa;
  int64_t channels;
  ek_image_order order;
  ek_dtype dtype = EK_F32;
};

// y [images][out][height][width] as floats. Everything ends where an unreadable page begins.
std::vector<float> run(const Filters& filters, const Way& way, const std::vector<float>& x, int64_t height, int64_t width,
                       ek_activation activation, const ek_parallel* parallel) {
  const Case& c = filters.of;
  const int64_t bytes = way.dtype == EK_F32 ? 4 : 2, in = c.shape.in_channels, out = c.shape.out_channels;
  PackedFilters packed(filters, way.channels);
  Guarded from(x.size() * bytes), to(c.images * out * height * width * bytes);
  for (int64_t b = 0; b < c.images; ++b)
    for (int64_t i = 0; i < c.x_size(); ++i)
      put(from.as<char>(), way.dtype,
          b * c.x_size() + place(way.order, in, c.height, c.width, i / c.width / c.height, i / c.width % c.height, i % c.width),
          x[b * c.x_size() + i]);
  memset(to.as<char>(), 0xa5, c.images * out * height * width * bytes);
  ek_images images = floats(from.as<char>(), way.order, way.dtype), results = floats(to.as<char>(), way.order, way.dtype);
  const size_t scratch_size = ek_f32_conv2d_workspace_size(way.isa, packed.data(), packed.size, &c.window, c.images, c.height,
                                                           c.width, &images, &results, activation, parallel);
  Guarded scratch(scratch_size);
  memset(scratch.as<char>(), 0xa5, scratch_size);
  REQUIRE(ek_f32_conv2d(way.isa, packed.data(), packed.size, &c.window, c.images, c.height, c.width, &images, &results,
                        activation, scratch.as<char>(), scratch_size, parallel) == EK_OK);
  std::vector<float> y;
  for (int64_t b = 0; b < c.images; ++b)
    for (int64_t i = 0; i < out * height * width; ++i)
      y.push_back(value_of(
          to.as<char>(), way.dtype,
          b * out * height * width + place(way.order, out, height, width, i / width / height, i / width % height, i % width)));
  return y;
}

void check(const Filters& filters, const Way& way, const std::vector<float>& x, const Wanted& want, ek_activation activation,
           const ek_parallel* parallel = nullptr) {
  const Case& c = filters.of;
  const std::vector<float> y = run(filters, way, x, want.height, want.width, activation, parallel);
  REQUIRE(y.size() == want.y.size());
  int64_t wrong = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const double rounding = way.dtype == EK_F32 ? 0 : ldexp(fabs(want.y[i]), way.dtype == EK_F16 ? -11 : -8) + 6e-8;
    wrong += isnan(want.y[i]) ? !isnan(y[i]) : !close(y[i], want.y[i], want.error[i] + rounding, activation);
  }
  INFO(ek_isa_name(way.isa), " blocks of ", way.channels, " order ", int{way.order}, " dtype ", int{way.dtype}, " activation ",
       int{activation}, " in ", c.shape.in_channels, " out ", c.shape.out_channels, " groups ", c.shape.groups, " kernel ",
       c.shape.kernel_h, "x", c.shape.kernel_w, " stride ", c.window.stride_h, " dilation ", c.window.dilation_h, " padding ",
       c.window.top, " image ", c.height, "x", c.width);
  CHECK(wrong == 0);
}

void check_everywhere(const Case& c, ek_activation activation = EK_NONE, const ek_parallel* parallel = nullptr) {
  const Filters filters(c);
  const std::vector<float> x = Random(11).normals(c.images * c.x_size(), 0.4f);
  const Wanted want = wanted(filters, x, activation);
  for (const ek_isa* isa : tested_isas())
    for (int64_t channels : kChannels)
      for (ek_image_order order : {EK_NCHW, EK_NHWC}) check(filters, {isa, channels, order}, x, want, activation, parallel);
}

}  // namespace

TEST_CASE("float convolutions: kernels, strides, dilations and padding") {
  for (int64_t kernel : {1, 2, 3, 5})
    for (int64_t stride : {1, 2})
      for (int64_t padding : {0, 2}) check_everywhere(square(5, 18, 1, kernel, 7, window(stride, 1, padding)));
  check_everywhere(square(8, 16, 1, 3, 9, window(1, 3, 3)));
  check_everywhere(square(24, 33, 1, 1, 6, window(3, 1, 1)));
  check_everywhere({{7, 3, 1, 3, 1}, {2, 1, 1, 4, 0, 3, 1, 0}, 1, 8, 11});
  check_everywhere({{7, 3, 1, 2, 3}, {1, 3, 2, 1, 5, 0, 0, 2}, 1, 4, 9});
}

TEST_CASE("float convolutions: channels around vectors and panels") {
  for (int64_t in : {1, 3, 16, 33})
    for (int64_t out : {1, 15, 17, 65}) check_everywhere(square(in, out, 1, 3, 4, window(1, 1, 1), 1));
}

TEST_CASE("float convolutions: more pixels than a tile, more k than a panel, and lines of one pixel") {
  check_everywhere(square(8, 20, 1, 3, 20, window(1, 1, 1), 1));
  check_everywhere({{20, 12, 1, 1, 1}, window(1, 1, 0), 3, 3, 101});
  check_everywhere(square(140, 17, 1, 3, 3, window(1, 1, 1), 1));
  check_everywhere({{9, 4, 1, 3, 1}, {1, 1, 1, 1, 1, 1, 0, 0}, 2, 90, 1});
}

TEST_CASE("float convolutions: groups") {
  check_everywhere(square(12, 18, 3, 3, 6, window(1, 1, 1)));
  check_everywhere(square(6, 12, 6, 3, 6, window(2, 1, 1)));  // a depthwise one with two filters a channel
  check_everywhere(square(64, 96, 2, 1, 5, window(1, 1, 0)));
}

TEST_CASE("float convolutions of one pixel, of batches of them, and windows much larger than the image") {
  check_everywhere(square(9, 10, 1, 1, 1, window(1, 1, 0), 35));
  check_everywhere(square(3, 5, 1, 3, 2, window(1, 40, 40)));
  check_everywhere(square(3, 5, 1, 3, 2, window(7, 40, 40)));
  check_everywhere({{5, 3, 1, 3, 3}, window(1, 1, 2), 2, 0, 4});
}

TEST_CASE("float convolutions: every activation") {
  for (ek_activation activation : {EK_RELU, EK_GELU, EK_GELU_TANH, EK_SILU, EK_RELU6, EK_HARDSWISH})
    check_everywhere(square(6, 17, 1, 3, 5, window(1, 1, 1), 1), activation);
}

TEST_CASE("float convolutions on several threads, to the bit") {
  Pool pool(3);
  const ek_parallel parallel = pool.parallel();
  for (const Case& c : {square(16, 80, 1, 3, 24, window(1, 1, 1), 3), square(64, 128, 1, 1, 12, window(1, 1, 0), 5),
                        square(256, 400, 1, 3, 4, window(1, 1, 1), 1), square(32, 64, 2, 3, 30, window(2, 1, 1), 2)}) {
    check_everywhere(c, EK_NONE, &parallel);
    const Filters filters(c);
    const std::vector<float> x = Random(11).normals(c.images * c.x_size());
    const Wanted want = wanted(filters, x, EK_NONE);
    for (const ek_isa* isa : tested_isas())
      for (ek_image_order order : {EK_NCHW, EK_NHWC}) {
        const Way way{isa, 4, order};
        CHECK(run(filters, way, x, want.height, want.width, EK_NONE, nullptr) ==
              run(filters, way, x, want.height, want.width, EK_NONE, &parallel));
      }
  }
}

TEST_CASE("float convolutions of f16 and bf16") {
  for (const Case& c : {square(20, 20, 1, 3, 9, window(1, 1, 1)), square(20, 33, 1, 1, 6, window(1, 1, 0)),
                        square(12, 8, 2, 1, 7, window(2, 1, 0))}) {
    const Filters filters(c);
    // Halves that both types hold exactly.
    std::vector<float> x = Random(8).normals(c.images * c.x_size());
    for (float& v : x) v = roundf(v * 32) / 32;
    const Wanted want = wanted(filters, x, EK_NONE);
    for (const ek_isa* isa : tested_isas())
      for (ek_dtype dtype : {EK_F16, EK_BF16})
        for (ek_image_order order : {EK_NCHW, EK_NHWC}) check(filters, {isa, 2, order, dtype}, x, want, EK_NONE);
  }
}

TEST_CASE("float convolutions without a kept weight give the bias, and zeros let no NaN through") {
  const Case c = square(6, 9, 1, 3, 5, window(1, 1, 1));
  Filters filters(c, 0);
  std::vector<float> x = Random(9).normals(c.images * c.x_size());
  x[17] = NAN;
  x[c.x_size() + 3] = INFINITY;
  const Wanted want = wanted(filters, x, EK_NONE);
  for (const ek_isa* isa : tested_isas())
    for (ek_image_order order : {EK_NCHW, EK_NHWC}) check(filters, {isa, 8, order}, x, want, EK_NONE);
}

TEST_CASE("float convolutions unpack to what was packed") {
  for (const Case& c : {square(5, 18, 1, 3, 7, window(1, 1, 0)), square(12, 18, 3, 2, 6, window(1, 1, 1))})
    for (int64_t channels : kChannels)
      for (bool with_bias : {true, false}) {
        const Filters filters(c, 0.3, with_bias);
        PackedFilters packed(filters, channels);
        ek_f32_conv2d_packed found;
        REQUIRE(ek_f32_conv2d_describe(packed.data(), packed.size, &found) == EK_OK);
        CHECK(found.shape.out_channels == c.shape.out_channels);
        CHECK(found.shape.in_channels == c.shape.in_channels);
        CHECK(found.shape.groups == c.shape.groups);
        CHECK(found.shape.kernel_h == c.shape.kernel_h);
        CHECK(found.has_bias == with_bias);
        CHECK(found.channels == channels);
        int64_t kept = 0;
        for (float weight : filters.w) kept += weight != 0;
        CHECK((channels == 1 ? found.blocks == kept : found.blocks < kept));
        std::vector<float> w(filters.w.size(), NAN), bias(filters.bias.size());
        REQUIRE(ek_f32_conv2d_unpack(packed.data(), packed.size, w.data(), with_bias ? bias.data() : nullptr, nullptr) ==
                EK_OK);
        CHECK(w == filters.w);
        CHECK(bias == filters.bias);
      }
}

TEST_CASE("float convolutions refuse what they cannot do") {
  const Case c = square(6, 8, 1, 3, 5, window(1, 1, 1));
  Filters filters(c);
  PackedFilters packed(filters, 4);
  std::vector<float> x(c.images * c.x_size()), y(c.images * 8 * 25);
  ek_images in = floats(x.data(), EK_NCHW), out = floats(y.data(), EK_NCHW);
  std::vector<char> scratch(1 << 20);
  auto run = [&](size_t size, ek_window w, ek_images from, ek_images to, size_t scratch_size) {
    return ek_f32_conv2d(nullptr, packed.data(), size, &w, c.images, 5, 5, &from, &to, EK_NONE, scratch.data(), scratch_size,
                         nullptr);
  };
  CHECK(run(packed.size, c.window, in, out, scratch.size()) == EK_OK);
  CHECK(run(packed.size, c.window, in, out, 64) == EK_ERROR_WORKSPACE);
  CHECK(run(packed.size - 64, c.window, in, out, scratch.size()) == EK_ERROR_PACKED);
  CHECK(run(packed.size, window(0, 1, 1), in, out, scratch.size()) == EK_ERROR_WINDOW);
  CHECK(run(packed.size, window(1, 4, 1), in, out, scratch.size()) == EK_ERROR_WINDOW);
  CHECK(run(packed.size, c.window, in, floats(y.data(), EK_NHWC), scratch.size()) == EK_ERROR_IMAGES);
  CHECK(run(packed.size, c.window, in, floats(y.data(), EK_NCHW, EK_F16), scratch.size()) == EK_ERROR_IMAGES);
  CHECK(run(packed.size, c.window, {x.data(), EK_F32, EK_NCHW, {1, 0}}, out, scratch.size()) == EK_ERROR_IMAGES);
  CHECK(run(packed.size, c.window, {x.data(), EK_U8, EK_NHWC, {1, 0}}, out, scratch.size()) == EK_ERROR_DTYPE);
  CHECK(run(packed.size, c.window, floats(nullptr, EK_NCHW), out, scratch.size()) == EK_ERROR_NULL_POINTER);
  packed.data()[0] = 'x';
  CHECK(run(packed.size, c.window, in, out, scratch.size()) == EK_ERROR_PACKED);

  auto pack = [&](int64_t channels, const ek_conv2d_shape& shape) {
    return ek_f32_conv2d_pack(channels, &shape, filters.w.data(), EK_F32, nullptr, packed.data(), packed.size, nullptr);
  };
  CHECK(pack(3, c.shape) == EK_ERROR_FORM);
  CHECK(pack(4, {6, 6, 6, 3, 3}) == EK_ERROR_FORM);  // depthwise
  CHECK(pack(4, {8, 6, 4, 3, 3}) == EK_ERROR_GROUPS);
  CHECK(pack(1, {0, 6, 1, 3, 3}) == EK_ERROR_SHAPE);
  const ek_conv2d_shape depthwise{6, 6, 6, 3, 3};
  CHECK(ek_f32_conv2d_packed_size(4, &depthwise, filters.w.data(), EK_F32, nullptr) == 0);
  for (float& weight : filters.w)
    if (weight != 0) weight = NAN;  // as many blocks as before
  CHECK(pack(4, c.shape) == EK_ERROR_VALUE);
}

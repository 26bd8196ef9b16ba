// int8 convolutions on every ISA against their definition, in every shape of window.
#include <doctest/doctest.h>

#include <algorithm>

#include "base/half.h"
#include "conv2d_support.h"
#include "formats/activation_reference.h"
#include "formats/int8/reference.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

struct Wanted {
  int64_t height, width;
  std::vector<double> y, error;  // [images][out][height][width], before any activation is applied to the error
};

// The layer as edgekern.h defines it. x [images][in][height][width].
Wanted wanted(const Layer& layer, const std::vector<float>& x, ek_activation activation) {
  const Case& c = layer.of;
  Wanted out;
  REQUIRE(ek_conv2d_output(&c.shape, &c.window, c.height, c.width, &out.height, &out.width) == EK_OK);
  int8::reference::Quantized q = int8::reference::quantize_lhs(c.images, c.x_size(), x.data(), c.x_size());
  const int64_t group_in = c.group_in(), group_out = c.shape.out_channels / c.shape.groups;
  for (int64_t b = 0; b < c.images; ++b)
    for (int64_t o = 0; o < c.shape.out_channels; ++o)
      for (int64_t i = 0; i < out.height; ++i)
        for (int64_t j = 0; j < out.width; ++j) {
          int64_t sum = 0;
          for (int64_t r = 0; r < c.shape.kernel_h; ++r)
            for (int64_t s = 0; s < c.shape.kernel_w; ++s) {
              int64_t y = i * c.window.stride_h + r * c.window.dilation_h - c.window.top;
              int64_t z = j * c.window.stride_w + s * c.window.dilation_w - c.window.left;
              if (y < 0 || y >= c.height || z < 0 || z >= c.width) continue;
              for (int64_t k = 0; k < group_in; ++k) {
                int64_t channel = o / group_out * group_in + k;
                int32_t value = q.q[b * c.x_size() + (channel * c.height + y) * c.width + z] - q.zero_point[b];
                sum += value * layer.w[((o * c.shape.kernel_h + r) * c.shape.kernel_w + s) * group_in + k];
              }
            }
          double bias = layer.bias.empty() ? 0.0 : layer.bias[o];
          double product = static_cast<double>(sum) * q.scale[b] * layer.scale[o];
          out.y.push_back(edgekern::reference::activate(product + bias, activation));
          out.error.push_back(4 * ldexp(1.0, -23) * (fabs(product) + fabs(bias)));
        }
  return out;
}

// Runs a case and compares. Everything ends where an unreadable page begins.
void check(const Layer& layer, const ek_isa* isa, ek_int8_form form, ek_image_order order, const std::vector<float>& x,
           const Wanted& want, ek_activation activation, const ek_parallel* parallel = nullptr) {
  const Case& c = layer.of;
  PackedLayer packed(layer, isa, form);
  Guarded from(x.size() * 4);
  for (int64_t b = 0; b < c.images; ++b)
    for (int64_t k = 0; k < c.shape.in_channels; ++k)
      for (int64_t i = 0; i < c.height; ++i)
        for (int64_t j = 0; j < c.width; ++j)
          from.as<float>()[b * c.x_size() + place(order, c.shape.in_channels, c.height, c.width, k, i, j)] =
              x[b * c.x_size() + (k * c.height + i) * c.width + j];
  Guarded to(want.y.size() * 4);
  ek_images in = floats(from.as<float>(), order), out = floats(to.as<float>(), order);
  size_t scratch_size = ek_int8_conv2d_workspace_size(isa, packed.data(), packed.size, &c.window, c.images, c.height, c.width,
                                                      &in, &out, activation, parallel);
  Guarded scratch(scratch_size);
  memset(scratch.as<char>(), 0xa5, scratch_size);
  REQUIRE(ek_int8_conv2d(isa, packed.data(), packed.size, &c.window, c.images, c.height, c.width, &in, &out, activation,
                         scratch.as<char>(), scratch_size, parallel) == EK_OK);
  int64_t wrong = 0, at = 0;
  for (int64_t b = 0; b < c.images; ++b)
    for (int64_t o = 0; o < c.shape.out_channels; ++o)
      for (int64_t i = 0; i < want.height; ++i)
        for (int64_t j = 0; j < want.width; ++j, ++at) {
          int64_t start = b * c.shape.out_channels * want.height * want.width;
          float got = to.as<float>()[start + place(order, c.shape.out_channels, want.height, want.width, o, i, j)];
          bool right = isnan(want.y[at]) ? isnan(got) : close(got, want.y[at], want.error[at], activation);
          wrong += !right;
        }
  INFO(ek_isa_name(isa), " form ", int{form}, " order ", int{order}, " activation ", int{activation}, " in ",
       c.shape.in_channels, " out ", c.shape.out_channels, " groups ", c.shape.groups, " kernel ", c.shape.kernel_h, "x",
       c.shape.kernel_w, " stride ", c.window.stride_h, " dilation ", c.window.dilation_h, " padding ", c.window.top, " image ",
       c.height, "x", c.width);
  CHECK(wrong == 0);
}

void check_everywhere(const Case& c, ek_activation activation = EK_NONE, const ek_parallel* parallel = nullptr) {
  Layer layer(c);
  std::vector<float> x = Random(11).normals(c.images * c.x_size(), 0.4f);
  Wanted want = wanted(layer, x, activation);
  for (const ek_isa* isa : tested_isas())
    for (ek_image_order order : {EK_NCHW, EK_NHWC}) check(layer, isa, EK_INT8_DENSE, order, x, want, activation, parallel);
}

}  // namespace

TEST_CASE("convolutions: kernels, strides, dilations and padding") {
  for (int64_t kernel : {1, 2, 3, 5})
    for (int64_t stride : {1, 2})
      for (int64_t padding : {0, 2}) check_everywhere(square(5, 18, 1, kernel, 7, window(stride, 1, padding)));
  check_everywhere(square(8, 16, 1, 3, 9, window(1, 3, 3)));
  check_everywhere(square(16, 70, 1, 1, 6, window(1, 1, 0)));
  check_everywhere(square(24, 33, 1, 1, 6, window(3, 1, 1)));
  check_everywhere({{7, 3, 1, 3, 1}, {2, 1, 1, 4, 0, 3, 1, 0}, 1, 8, 11});
}

TEST_CASE("convolutions: channels around the lines and panels") {
  for (int64_t in : {1, 3, 4, 7, 8, 64})
    for (int64_t out : {1, 15, 17, 65}) check_everywhere(square(in, out, 1, 3, 4, window(1, 1, 1), 1));
}

TEST_CASE("convolutions: many pixels, more than a block of them and than a run") {
  check_everywhere(square(8, 20, 1, 3, 20, window(1, 1, 1), 1));
  check_everywhere({{40, 40, 40, 3, 3}, window(1, 1, 1), 1, 3, 101});
  check_everywhere({{12, 20, 1, 1, 1}, window(1, 1, 0), 1, 3, 101});
}

TEST_CASE("convolutions of images without negative numbers: lines of windows outside of them are left out") {
  for (const Case& c : {square(8, 18, 1, 3, 7, window(1, 1, 1)), square(16, 70, 1, 5, 9, window(2, 1, 2)),
                        square(8, 16, 1, 3, 9, window(1, 3, 3)), square(16, 12, 2, 3, 6, window(1, 1, 1)),
                        square(8, 5, 1, 3, 1, window(1, 1, 4)), square(24, 33, 1, 1, 6, window(3, 1, 2)),
                        Case{{9, 8, 1, 4, 1}, {2, 1, 3, 1, 5, 9, 1, 0}, 2, 8, 11}}) {
    Layer layer(c);
    std::vector<float> x = Random(11).uniforms(c.images * c.x_size());
    Wanted want = wanted(layer, x, EK_NONE);
    for (const ek_isa* isa : tested_isas())
      for (ek_image_order order : {EK_NCHW, EK_NHWC}) check(layer, isa, EK_INT8_DENSE, order, x, want, EK_NONE);
  }
}

TEST_CASE("depthwise convolutions") {
  for (int64_t channels : {2, 16, 17, 70})
    for (int64_t kernel : {1, 3, 5})
      for (int64_t stride : {1, 2})
        check_everywhere(square(channels, channels, channels, kernel, 9, window(stride, 1, kernel / 2), 1));
  check_everywhere(square(19, 19, 19, 3, 12, window(1, 4, 4)));
  check_everywhere({{6, 6, 6, 7, 2}, {3, 2, 1, 2, 0, 5, 2, 1}, 2, 9, 10});
}

TEST_CASE("grouped convolutions") {
  check_everywhere(square(12, 18, 3, 3, 6, window(1, 1, 1)));
  check_everywhere(square(6, 12, 6, 3, 6, window(2, 1, 1)));  // a depthwise one with two filters a channel
  check_everywhere(square(64, 96, 2, 1, 5, window(1, 1, 0)));
}

TEST_CASE("convolutions of one pixel, and windows much larger than the image") {
  check_everywhere(square(9, 10, 1, 1, 1, window(1, 1, 0)));
  check_everywhere(square(4, 4, 4, 3, 1, window(1, 1, 1)));
  check_everywhere(square(3, 5, 1, 3, 2, window(1, 40, 40)));
  check_everywhere(square(5, 5, 5, 3, 2, window(7, 40, 40)));
}

TEST_CASE("convolutions: every activation") {
  for (ek_activation activation : {EK_RELU, EK_GELU, EK_GELU_TANH, EK_SILU, EK_RELU6, EK_HARDSWISH}) {
    check_everywhere(square(6, 17, 1, 3, 5, window(1, 1, 1), 1), activation);
    check_everywhere(square(17, 17, 17, 3, 5, window(1, 1, 1), 1), activation);
  }
}

TEST_CASE("convolutions on several threads") {
  Pool pool(3);
  ek_parallel parallel = pool.parallel();
  check_everywhere(square(16, 80, 1, 3, 24, window(1, 1, 1), 3), EK_NONE, &parallel);
  check_everywhere(square(96, 96, 96, 5, 33, window(1, 1, 2), 2), EK_NONE, &parallel);
  check_everywhere(square(64, 128, 1, 1, 12, window(1, 1, 0), 5), EK_NONE, &parallel);
}

TEST_CASE("convolutions of bitmap forms, and their round trip") {
  for (ek_int8_form form : {EK_INT8_DENSE, EK_INT8_BITMAP, EK_INT8_BITMAP_4}) {
    Case c = square(20, 33, 1, 3, 6, window(1, 1, 1));
    Layer layer(c);
    for (size_t i = 0; i < layer.w.size(); ++i)
      if (i % 5 != 0) layer.w[i] = 0;
    std::vector<float> x = Random(4).normals(c.images * c.x_size());
    Wanted want = wanted(layer, x, EK_NONE);
    for (const ek_isa* isa : tested_isas()) check(layer, isa, form, EK_NHWC, x, want, EK_NONE);
  }
}

TEST_CASE("convolutions unpack to what was packed") {
  for (const Case& c : {square(5, 18, 1, 3, 7, window(1, 1, 0)), square(12, 18, 3, 2, 6, window(1, 1, 1)),
                        square(17, 17, 17, 5, 6, window(1, 1, 1))})
    for (const ek_isa* isa : tested_isas())
      for (bool with_bias : {true, false}) {
        Layer layer(c, 5, with_bias);
        PackedLayer packed(layer, isa, EK_INT8_DENSE);
        ek_int8_conv2d_packed found;
        REQUIRE(ek_int8_conv2d_describe(packed.data(), packed.size, &found) == EK_OK);
        CHECK(found.shape.out_channels == c.shape.out_channels);
        CHECK(found.shape.in_channels == c.shape.in_channels);
        CHECK(found.shape.groups == c.shape.groups);
        CHECK(found.has_bias == with_bias);
        CHECK(found.depthwise == (c.shape.groups == 17));
        std::vector<int8_t> w(layer.w.size());
        std::vector<float> scale(layer.scale.size()), bias(layer.bias.size());
        REQUIRE(ek_int8_conv2d_unpack(packed.data(), packed.size, w.data(), scale.data(), with_bias ? bias.data() : nullptr,
                                      nullptr) == EK_OK);
        CHECK(w == layer.w);
        CHECK(scale == layer.scale);
        CHECK(bias == layer.bias);
      }
}

TEST_CASE("an image with NaN or Inf gives NaN, and only it; an image of zeros gives the bias") {
  for (int64_t groups : {1, 6}) {
    Case c = square(6, 6, groups, 3, 5, window(1, 1, 1), 4);
    Layer layer(c);
    std::vector<float> x = Random(9).normals(c.images * c.x_size());
    x[17] = NAN;
    x[2 * c.x_size() + 3] = INFINITY;
    std::fill(x.begin() + 3 * c.x_size(), x.end(), 0.0f);
    Wanted want = wanted(layer, x, EK_NONE);
    for (const ek_isa* isa : tested_isas())
      for (ek_image_order order : {EK_NCHW, EK_NHWC}) check(layer, isa, EK_INT8_DENSE, order, x, want, EK_NONE);
  }
}

TEST_CASE("convolutions of f16 and bf16") {
  for (int64_t groups : {1, 20}) {
    Case c = square(20, 20, groups, 3, 9, window(1, 1, 1));
    Layer layer(c);
    // Halves that both types hold exactly.
    std::vector<float> x = Random(8).normals(c.images * c.x_size());
    for (float& v : x) v = roundf(v * 32) / 32;
    Wanted want = wanted(layer, x, EK_NONE);
    for (const ek_isa* isa : tested_isas())
      for (ek_dtype dtype : {EK_F16, EK_BF16})
        for (ek_image_order order : {EK_NCHW, EK_NHWC}) {
          PackedLayer packed(layer, isa, EK_INT8_DENSE);
          std::vector<uint16_t> from(x.size()), to(want.y.size());
          for (int64_t b = 0; b < c.images; ++b)
            for (int64_t i = 0; i < c.x_size(); ++i) {
              int64_t channel = i / 81, y = i / 9 % 9, z = i % 9;
              float value = x[b * c.x_size() + i];
              from[b * c.x_size() + place(order, 20, 9, 9, channel, y, z)] =
                  dtype == EK_F16 ? f32_to_f16(value) : f32_to_bf16(value);
            }
          ek_images in = floats(from.data(), order, dtype), out = floats(to.data(), order, dtype);
          std::vector<char> scratch(ek_int8_conv2d_workspace_size(isa, packed.data(), packed.size, &c.window, c.images, 9, 9,
                                                                  &in, &out, EK_NONE, nullptr));
          REQUIRE(ek_int8_conv2d(isa, packed.data(), packed.size, &c.window, c.images, 9, 9, &in, &out, EK_NONE, scratch.data(),
                                 scratch.size(), nullptr) == EK_OK);
          int64_t wrong = 0;
          for (int64_t i = 0; i < static_cast<int64_t>(want.y.size()); ++i) {
            int64_t b = i / (20 * 81), at = b * 20 * 81 + place(order, 20, 9, 9, i / 81 % 20, i / 9 % 9, i % 9);
            float got = dtype == EK_F16 ? f16_to_f32(to[at]) : bf16_to_f32(to[at]);
            double rounding = ldexp(fabs(want.y[i]), dtype == EK_F16 ? -11 : -8);
            wrong += !close(got, want.y[i], want.error[i] + rounding, EK_NONE);
          }
          CHECK(wrong == 0);
        }
  }
}

// A zero point of 0, which images without negative numbers have, leaves out what lies outside of them.
TEST_CASE("convolutions with given ranges, from and to u8") {
  std::vector<std::pair<Case, int32_t>> cases;
  for (int32_t x_zero : {97, 0})
    for (const Case& c : {square(16, 24, 1, 1, 6, window(1, 1, 0), 3), square(5, 70, 1, 1, 6, window(1, 1, 0)),
                          square(6, 17, 1, 3, 7, window(2, 1, 1)), square(8, 12, 2, 3, 6, window(1, 1, 1)),
                          square(16, 130, 1, 3, 12, window(1, 1, 1)), square(24, 20, 1, 5, 9, window(2, 1, 2)),
                          square(8, 9, 1, 3, 5, window(1, 1, 4)), square(70, 70, 70, 3, 7, window(1, 1, 1)),
                          square(150, 150, 150, 5, 9, window(2, 1, 2)), square(64, 64, 64, 3, 40, window(1, 1, 1), 1),
                          square(24, 24, 24, 2, 6, window(1, 1, 1))})
      cases.emplace_back(c, x_zero);
  for (const auto& [c, x_zero] : cases) {
    Layer layer(c);
    const float x_scale = 0.02f, y_scale = 0.11f;
    const int32_t y_zero = 131;
    std::vector<uint8_t> q = Random(6).integers<uint8_t>(c.images * c.x_size(), 0, 255);  // [images][height][width][in]
    std::vector<double> want;
    int64_t height, width;
    REQUIRE(ek_conv2d_output(&c.shape, &c.window, c.height, c.width, &height, &width) == EK_OK);
    const int64_t in = c.shape.in_channels, out = c.shape.out_channels, group_in = c.group_in(),
                  group_out = out / c.shape.groups;
    for (int64_t b = 0; b < c.images; ++b)
      for (int64_t i = 0; i < height; ++i)
        for (int64_t j = 0; j < width; ++j)
          for (int64_t o = 0; o < out; ++o) {
            int64_t sum = 0;
            for (int64_t r = 0; r < c.shape.kernel_h; ++r)
              for (int64_t s = 0; s < c.shape.kernel_w; ++s) {
                int64_t y = i * c.window.stride_h + r - c.window.top, z = j * c.window.stride_w + s - c.window.left;
                if (y < 0 || y >= c.height || z < 0 || z >= c.width) continue;
                for (int64_t k = 0; k < group_in; ++k)
                  sum += (q[b * c.x_size() + (y * c.width + z) * in + o / group_out * group_in + k] - x_zero) *
                         layer.w[((o * c.shape.kernel_h + r) * c.shape.kernel_w + s) * group_in + k];
              }
            want.push_back(std::max(0.0, static_cast<double>(sum) * x_scale * layer.scale[o] + layer.bias[o]));
          }
    for (const ek_isa* isa : tested_isas())
      for (ek_dtype from : {EK_U8, EK_F32})
        for (ek_dtype to : {EK_U8, EK_F32}) {
          PackedLayer packed(layer, isa, EK_INT8_DENSE);
          Guarded x(q.size() * (from == EK_U8 ? 1 : 4)), y(want.size() * (to == EK_U8 ? 1 : 4));
          for (size_t i = 0; i < q.size(); ++i)
            if (from == EK_U8)
              x.as<uint8_t>()[i] = q[i];
            else  // and beyond the range, which moves them to its ends
              x.as<float>()[i] = x_scale * (static_cast<float>(q[i] - x_zero) + (q[i] == 255 ? 1e12f
                                                                                 : q[i] == 0 ? -1e12f
                                                                                             : 0.0f));
          ek_images images{x.as<char>(), from, EK_NHWC, {x_scale, x_zero}},
              results{y.as<char>(), to, EK_NHWC, {y_scale, y_zero}};
          size_t scratch_size = ek_int8_conv2d_workspace_size(isa, packed.data(), packed.size, &c.window, c.images, c.height,
                                                              c.width, &images, &results, EK_RELU, nullptr);
          Guarded scratch(scratch_size);
          REQUIRE(ek_int8_conv2d(isa, packed.data(), packed.size, &c.window, c.images, c.height, c.width, &images, &results,
                                 EK_RELU, scratch.as<char>(), scratch_size, nullptr) == EK_OK);
          int64_t wrong = 0;
          for (size_t i = 0; i < want.size(); ++i) {
            double error = 1e-6 * (1 + fabs(want[i]));
            if (to == EK_F32) {
              wrong += fabs(y.as<float>()[i] - want[i]) > error;
            } else {
              double exact = std::clamp(want[i] / y_scale + y_zero, 0.0, 255.0);
              wrong += fabs(y.as<uint8_t>()[i] - exact) > 0.5 + error / y_scale;
            }
          }
          INFO(ek_isa_name(isa), " from ", int{from}, " to ", int{to}, " in ", in, " out ", out, " groups ", c.shape.groups);
          CHECK(wrong == 0);
        }
  }
}

TEST_CASE("convolutions refuse what they cannot do") {
  Case c = square(6, 8, 1, 3, 5, window(1, 1, 1));
  Layer layer(c);
  PackedLayer packed(layer, nullptr, EK_INT8_DENSE);
  std::vector<float> x(c.images * c.x_size()), y(c.images * 8 * 25);
  ek_images in = floats(x.data(), EK_NCHW), out = floats(y.data(), EK_NCHW);
  std::vector<char> scratch(1 << 20);
  auto run = [&](size_t size, ek_window w, ek_images from, ek_images to, size_t scratch_size) {
    return ek_int8_conv2d(nullptr, packed.data(), size, &w, c.images, 5, 5, &from, &to, EK_NONE, scratch.data(), scratch_size,
                          nullptr);
  };
  CHECK(run(packed.size, c.window, in, out, scratch.size()) == EK_OK);
  CHECK(run(packed.size, c.window, in, out, 64) == EK_ERROR_WORKSPACE);
  CHECK(run(packed.size - 64, c.window, in, out, scratch.size()) == EK_ERROR_PACKED);
  CHECK(run(packed.size, window(0, 1, 1), in, out, scratch.size()) == EK_ERROR_WINDOW);
  CHECK(run(packed.size, window(1, 0, 1), in, out, scratch.size()) == EK_ERROR_WINDOW);
  CHECK(run(packed.size, window(1, 1, -1), in, out, scratch.size()) == EK_ERROR_WINDOW);
  CHECK(run(packed.size, window(1, 4, 1), in, out, scratch.size()) == EK_ERROR_WINDOW);
  CHECK(run(packed.size, c.window, in, floats(y.data(), EK_NHWC), scratch.size()) == EK_ERROR_IMAGES);
  CHECK(run(packed.size, c.window, in, floats(y.data(), EK_NCHW, EK_F16), scratch.size()) == EK_ERROR_IMAGES);
  CHECK(run(packed.size, c.window, floats(nullptr, EK_NCHW), out, scratch.size()) == EK_ERROR_NULL_POINTER);
  CHECK(run(packed.size, c.window, floats(x.data(), EK_NCHW, static_cast<ek_dtype>(9)), out, scratch.size()) == EK_ERROR_DTYPE);
  CHECK(run(packed.size, c.window, {x.data(), EK_U8, EK_NHWC, {}}, floats(y.data(), EK_NHWC), scratch.size()) ==
        EK_ERROR_IMAGES);
  CHECK(run(packed.size, c.window, {x.data(), EK_F32, EK_NCHW, {-1, 0}}, out, scratch.size()) == EK_ERROR_IMAGES);
  CHECK(run(packed.size, c.window, {x.data(), EK_F32, EK_NCHW, {1, 256}}, out, scratch.size()) == EK_ERROR_IMAGES);

  ek_conv2d_shape shape = c.shape;
  shape.groups = 4;
  CHECK(ek_int8_conv2d_packed_size(nullptr, EK_INT8_DENSE, &shape, layer.w.data(), nullptr) == 0);
  CHECK(ek_int8_conv2d_pack(nullptr, EK_INT8_DENSE, &shape, layer.w.data(), layer.scale.data(), nullptr, packed.data(),
                            packed.size, nullptr) == EK_ERROR_GROUPS);
  CHECK(ek_int8_conv2d_pack(nullptr, static_cast<ek_int8_form>(3), &c.shape, layer.w.data(), layer.scale.data(), nullptr,
                            packed.data(), packed.size, nullptr) == EK_ERROR_FORM);
  const ek_conv2d_shape depthwise{6, 6, 6, 3, 3};  // has a kernel of its own, which takes zeros as they come
  CHECK(ek_int8_conv2d_packed_size(nullptr, EK_INT8_BLOCKS_4, &depthwise, layer.w.data(), nullptr) == 0);
  CHECK(ek_int8_conv2d_pack(nullptr, EK_INT8_BLOCKS_4, &depthwise, layer.w.data(), layer.scale.data(), nullptr, packed.data(),
                            packed.size, nullptr) == EK_ERROR_FORM);
  layer.scale[1] = NAN;
  CHECK(ek_int8_conv2d_pack(nullptr, EK_INT8_DENSE, &c.shape, layer.w.data(), layer.scale.data(), nullptr, packed.data(),
                            packed.size, nullptr) == EK_ERROR_VALUE);
}

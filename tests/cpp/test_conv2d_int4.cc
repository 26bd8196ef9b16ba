// int4 convolutions on every ISA against their definition.
#include <doctest/doctest.h>

#include "conv2d_support.h"
#include "formats/activation_reference.h"
#include "int4_support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

struct Int4Layer {
  Case of;
  Int4Weights weights;  // [out][kernel_h * kernel_w * in / groups]

  Int4Layer(const Case& c, int64_t group_size, bool symmetric, double density = 1)
      : of(c), weights(c.shape.out_channels, c.weights() / c.shape.out_channels, group_size, density, symmetric) {}
};

struct PackedInt4 {
  size_t size;
  Guarded memory;

  PackedInt4(const Int4Layer& layer, const ek_isa* isa, ek_int4_form form) : size(size_of(layer, isa, form)), memory(size) {
    REQUIRE(size > 0);
    const Int4Weights& w = layer.weights;
    REQUIRE(ek_int4_conv2d_pack(isa, form, &layer.of.shape, w.group_size, w.w.data(), w.row_bytes(), w.scale.data(),
                                w.zero_or_null(), w.bias_or_null(), data(), size, nullptr) == EK_OK);
  }
  static size_t size_of(const Int4Layer& layer, const ek_isa* isa, ek_int4_form form) {
    const Int4Weights& w = layer.weights;
    return ek_int4_conv2d_packed_size(isa, form, &layer.of.shape, w.group_size, w.w.data(), w.row_bytes(), w.zero_or_null(),
                                      nullptr);
  }
  char* data() { return memory.as<char>(); }
};

struct Wanted {
  int64_t height, width;
  std::vector<double> y, error;  // [images][height][width][out]
};

// The layer as edgekern.h defines it, of u8 images [images][height][width][in].
Wanted wanted(const Int4Layer& layer, const std::vector<uint8_t>& q, const std::vector<float>& scale,
              const std::vector<int32_t>& zero_point, ek_activation activation) {
  const Case& c = layer.of;
  Wanted out;
  REQUIRE(ek_conv2d_output(&c.shape, &c.window, c.height, c.width, &out.height, &out.width) == EK_OK);
  const int64_t in = c.shape.in_channels, group_in = c.group_in(), group_out = c.shape.out_channels / c.shape.groups;
  for (int64_t b = 0; b < c.images; ++b)
    for (int64_t i = 0; i < out.height; ++i)
      for (int64_t j = 0; j < out.width; ++j)
        for (int64_t o = 0; o < c.shape.out_channels; ++o) {
          double sum = 0, size = 0;
          for (int64_t k = 0; k < layer.weights.k; ++k) {
            const int64_t r = k / group_in / c.shape.kernel_w, s = k / group_in % c.shape.kernel_w;
            const int64_t y = i * c.window.stride_h + r * c.window.dilation_h - c.window.top;
            const int64_t x = j * c.window.stride_w + s * c.window.dilation_w - c.window.left;
            const double weight = layer.weights.value(o, k);
            size += fabs(weight);
            if (y < 0 || y >= c.height || x < 0 || x >= c.width) continue;
            const int64_t channel = o / group_out * group_in + k % group_in;
            sum += weight * (q[b * c.x_size() + (y * c.width + x) * in + channel] - zero_point[b]);
          }
          const double bias = layer.weights.bias[o];
          out.y.push_back(edgekern::reference::activate(sum * scale[b] + bias, activation));
          out.error.push_back(static_cast<double>(layer.weights.groups() + 3) * ldexp(1.0, -23) *
                              (scale[b] * 255 * size + fabs(bias)));
        }
  return out;
}

// y of images that end, as everything does, where an unreadable page begins.
std::vector<char> run(const Int4Layer& layer, const ek_isa* isa, ek_int4_form form, ek_images x, const void* from,
                      size_t from_size, ek_images y, size_t y_size, ek_activation activation,
                      const ek_parallel* parallel = nullptr) {
  const Case& c = layer.of;
  PackedInt4 packed(layer, isa, form);
  Guarded in(from, from_size), out(y_size);
  x.data = in.as<char>();
  y.data = out.as<char>();
  const size_t scratch_size = ek_int4_conv2d_workspace_size(isa, packed.data(), packed.size, &c.window, c.images, c.height,
                                                            c.width, &x, &y, activation, parallel);
  REQUIRE(scratch_size > 0);
  Guarded scratch(scratch_size);
  memset(scratch.as<char>(), 0x5a, scratch_size);
  REQUIRE(ek_int4_conv2d(isa, packed.data(), packed.size, &c.window, c.images, c.height, c.width, &x, &y, activation,
                         scratch.as<char>(), scratch_size, parallel) == EK_OK);
  return std::vector<char>(out.as<char>(), out.as<char>() + y_size);
}

void check(const Case& c, int64_t group_size, bool symmetric, double density = 1, ek_activation activation = EK_NONE,
           const ek_parallel* parallel = nullptr) {
  const Int4Layer layer(c, group_size, symmetric, density);
  // [images][height][width][in], and the same channel by channel.
  const std::vector<float> pixels = Random(11).normals(c.images * c.x_size(), 0.4f);
  std::vector<float> planes(pixels.size());
  for (int64_t b = 0; b < c.images; ++b)
    for (int64_t i = 0; i < c.x_size(); ++i)
      planes[b * c.x_size() + i % c.shape.in_channels * c.height * c.width + i / c.shape.in_channels] =
          pixels[b * c.x_size() + i];
  const int8::reference::Quantized q = int8::reference::quantize_lhs(c.images, c.x_size(), pixels.data(), c.x_size());
  const Wanted want = wanted(layer, q.q, q.scale, q.zero_point, activation);
  const int64_t out = c.shape.out_channels, plane = want.height * want.width;
  for (const ek_isa* isa : tested_isas())
    for (ek_int4_form form : kInt4Forms)
      for (ek_image_order order : {EK_NCHW, EK_NHWC}) {
        const std::vector<float>& x = order == EK_NCHW ? planes : pixels;
        const std::vector<char> bytes = run(layer, isa, form, floats(nullptr, order), x.data(), x.size() * 4,
                                            floats(nullptr, order), want.y.size() * 4, activation, parallel);
        std::vector<float> y(want.y.size());
        memcpy(y.data(), bytes.data(), bytes.size());
        int64_t wrong = 0;
        for (int64_t i = 0; i < static_cast<int64_t>(y.size()); ++i) {
          const int64_t b = i / (plane * out), at = i % (plane * out);
          const float got = order == EK_NHWC ? y[i] : y[b * plane * out + at % out * plane + at / out];
          wrong += !close(got, want.y[i], want.error[i], activation);
        }
        INFO(ek_isa_name(isa), " form ", int{form}, " order ", int{order}, " group_size ", group_size, " in ",
             c.shape.in_channels, " out ", out, " groups ", c.shape.groups, " kernel ", c.shape.kernel_h);
        CHECK(wrong == 0);
      }
}

}  // namespace

TEST_CASE("int4 convolutions: kernels, strides, padding, groups, and groups of k around them") {
  for (int64_t group_size : {32, 64, 128}) {
    check(square(40, 33, 1, 1, 5, window(1, 1, 0)), group_size, true);
    check(square(20, 18, 1, 3, 6, window(2, 1, 1)), group_size, false);
  }
  check(square(64, 70, 1, 1, 1, window(1, 1, 0)), 64, true);
  check(square(5, 16, 1, 3, 7, window(1, 2, 2), 1), 32, true);
  check(square(12, 40, 2, 3, 5, window(1, 1, 1)), 32, false);
  check(square(6, 12, 6, 3, 5, window(1, 1, 1), 1), 32, true);  // two filters a channel
  check({{7, 3, 1, 3, 1}, {2, 1, 1, 4, 0, 3, 1, 0}, 1, 8, 11}, 32, true);
  check(square(8, 20, 1, 3, 16, window(1, 1, 1), 1), 64, true);  // more than a block of pixels
}

TEST_CASE("int4 convolutions: pruned, activated and on several threads") {
  for (double density : {0.0, 0.2}) check(square(40, 33, 1, 1, 5, window(1, 1, 0)), 32, false, density);
  for (ek_activation activation : {EK_RELU, EK_SILU, EK_RELU6, EK_HARDSWISH})
    check(square(40, 17, 1, 1, 4, window(1, 1, 0), 1), 64, true, 1, activation);
  Pool pool(3);
  const ek_parallel parallel = pool.parallel();
  check(square(32, 140, 1, 3, 20, window(1, 1, 1)), 64, true, 1, EK_NONE, &parallel);
}

TEST_CASE("int4 convolutions: images of zeros give the bias, and such with NaN give NaN") {
  const Case c = square(40, 20, 1, 3, 4, window(1, 1, 1), 2);
  const Int4Layer layer(c, 32, false);
  std::vector<float> x(2 * c.x_size());
  x[c.x_size() + 5] = NAN;
  for (const ek_isa* isa : tested_isas()) {
    const std::vector<char> bytes = run(layer, isa, EK_INT4_DENSE, floats(nullptr, EK_NHWC), x.data(), x.size() * 4,
                                        floats(nullptr, EK_NHWC), 2 * 16 * 20 * 4, EK_NONE);
    int64_t wrong = 0;
    for (int64_t i = 0; i < 2 * 16 * 20; ++i) {
      float y;
      memcpy(&y, &bytes[4 * i], 4);
      wrong += i < 16 * 20 ? y != layer.weights.bias[i % 20] : !isnan(y);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("int4 convolutions from and to u8") {
  const float x_scale = 0.02f, y_scale = 0.11f;
  const int32_t x_zero = 97, y_zero = 31;
  for (const Case& c : {square(40, 70, 1, 1, 5, window(1, 1, 0)), square(6, 17, 1, 3, 6, window(1, 1, 1))})
    for (ek_activation activation : {EK_NONE, EK_RELU6, EK_SILU}) {
      const Int4Layer layer(c, 32, true);
      const std::vector<uint8_t> q = Random(6).integers<uint8_t>(c.images * c.x_size(), 0, 255);
      const Wanted want =
          wanted(layer, q, std::vector<float>(c.images, x_scale), std::vector<int32_t>(c.images, x_zero), activation);
      const ek_images x{nullptr, EK_U8, EK_NHWC, {x_scale, x_zero}}, y{nullptr, EK_U8, EK_NHWC, {y_scale, y_zero}};
      for (const ek_isa* isa : tested_isas()) {
        const std::vector<char> got = run(layer, isa, EK_INT4_DENSE, x, q.data(), q.size(), y, want.y.size(), activation);
        int64_t wrong = 0;
        for (size_t i = 0; i < got.size(); ++i) {
          const double exact = fmin(fmax(want.y[i] / y_scale + y_zero, 0.0), 255.0);
          const double error = (1.2 * want.error[i] + 1e-5 * (1 + fabs(want.y[i]))) / y_scale;
          wrong += fabs(static_cast<uint8_t>(got[i]) - exact) > 0.5 + error;
        }
        INFO(ek_isa_name(isa), " in ", c.shape.in_channels, " activation ", int{activation});
        CHECK(wrong == 0);
      }
    }
}

TEST_CASE("int4 convolutions unpack to what was packed, and refuse what they cannot do") {
  for (const Case& c : {square(5, 18, 1, 3, 7, window(1, 1, 0)), square(12, 18, 3, 2, 6, window(1, 1, 1))})
    for (const ek_isa* isa : tested_isas())
      for (ek_int4_form form : kInt4Forms)
        for (bool symmetric : {true, false}) {
          const Int4Layer layer(c, 32, symmetric, 0.5);
          PackedInt4 packed(layer, isa, form);
          ek_int4_conv2d_packed found;
          REQUIRE(ek_int4_conv2d_describe(packed.data(), packed.size, &found) == EK_OK);
          CHECK(found.form == form);
          CHECK(found.has_bias == 1);
          CHECK(found.has_zero == !symmetric);
          CHECK(found.group_size == 32);
          CHECK(found.shape.groups == c.shape.groups);
          const Int4Weights& want = layer.weights;
          std::vector<uint8_t> w(want.w.size()), zero(want.scale.size());
          std::vector<uint16_t> scale(want.scale.size());
          std::vector<float> bias(want.bias.size());
          REQUIRE(ek_int4_conv2d_unpack(packed.data(), packed.size, w.data(), want.row_bytes(), scale.data(), zero.data(),
                                        bias.data(), nullptr) == EK_OK);
          CHECK(w == want.w);
          CHECK(scale == want.scale);
          CHECK(bias == want.bias);
          if (!symmetric) CHECK(zero == want.zero);
        }
  const Case c = square(6, 8, 1, 3, 5, window(1, 1, 1));
  const Int4Layer layer(c, 32, true);
  const Int4Weights& w = layer.weights;
  PackedInt4 packed(layer, nullptr, EK_INT4_DENSE);
  auto pack = [&](const ek_conv2d_shape& shape, int64_t group_size, int64_t ld_w, size_t size) {
    return ek_int4_conv2d_pack(nullptr, EK_INT4_DENSE, &shape, group_size, w.w.data(), ld_w, w.scale.data(), nullptr, nullptr,
                               packed.data(), size, nullptr);
  };
  CHECK(pack(c.shape, 32, w.row_bytes(), packed.size) == EK_OK);
  CHECK(pack(c.shape, 48, w.row_bytes(), packed.size) == EK_ERROR_GROUP);
  CHECK(pack(c.shape, 32, w.row_bytes() - 1, packed.size) == EK_ERROR_STRIDE);
  CHECK(pack(c.shape, 32, w.row_bytes(), packed.size - 64) == EK_ERROR_PACKED);
  CHECK(pack({6, 6, 6, 3, 3}, 32, w.row_bytes(), packed.size) == EK_ERROR_FORM);
  CHECK(pack({8, 6, 4, 3, 3}, 32, w.row_bytes(), packed.size) == EK_ERROR_GROUPS);
  ek_int8_conv2d_packed int8_layer;
  CHECK(ek_int8_conv2d_describe(packed.data(), packed.size, &int8_layer) == EK_ERROR_PACKED);
}

// What tests of convolutions share: cases, their layers, and these packed.
#pragma once

#include <vector>

#include "support.h"

namespace edgekern::test {

struct Case {
  ek_conv2d_shape shape;
  ek_window window;
  int64_t images, height, width;

  int64_t group_in() const { return shape.in_channels / shape.groups; }
  int64_t weights() const { return shape.out_channels * group_in() * shape.kernel_h * shape.kernel_w; }
  int64_t x_size() const { return shape.in_channels * height * width; }
};

inline ek_window window(int64_t stride, int64_t dilation, int64_t padding) {
  return {stride, stride, dilation, dilation, padding, padding, padding, padding};
}

inline Case square(int64_t in, int64_t out, int64_t groups, int64_t kernel, int64_t size, ek_window w, int64_t images = 2) {
  return {{out, in, groups, kernel, kernel}, w, images, size, size};
}

// Weights of a case, and how they are packed.
struct Layer {
  Case of;
  std::vector<int8_t> w;
  std::vector<float> scale, bias;

  explicit Layer(const Case& c, uint32_t seed = 3, bool with_bias = true) : of(c) {
    Random random(seed);
    w = random.integers<int8_t>(c.weights(), -128, 127);
    for (float v : random.normals(c.shape.out_channels)) scale.push_back(0.001f + 0.01f * v * v);
    if (with_bias) bias = random.normals(c.shape.out_channels);
  }
  // The same with about this share of the weights, picked at random, not zero.
  Layer& keep(double density, uint32_t seed = 4) {
    std::vector<float> chance = Random(seed).uniforms(static_cast<int64_t>(w.size()));
    for (size_t i = 0; i < w.size(); ++i)
      if (chance[i] >= density) w[i] = 0;
    return *this;
  }
  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
  size_t size(const ek_isa* isa, ek_int8_form form) const {
    return ek_int8_conv2d_packed_size(isa, form, &of.shape, w.data(), nullptr);
  }
};

// At a 64-byte boundary, and ending where an unreadable page begins.
struct PackedLayer {
  size_t size;
  Guarded memory;
  PackedLayer(const Layer& layer, const ek_isa* isa, ek_int8_form form) : size(layer.size(isa, form)), memory(size) {
    REQUIRE(size > 0);
    REQUIRE(size % 64 == 0);
    REQUIRE(ek_int8_conv2d_pack(isa, form, &layer.of.shape, layer.w.data(), layer.scale.data(), layer.bias_or_null(), data(),
                                size, nullptr) == EK_OK);
  }
  char* data() { return memory.as<char>(); }
};

// Element (c, y, x) of an image in one order or the other.
inline int64_t place(ek_image_order order, int64_t channels, int64_t height, int64_t width, int64_t c, int64_t y, int64_t x) {
  return order == EK_NCHW ? (c * height + y) * width + x : (y * width + x) * channels + c;
}

inline ek_images floats(void* data, ek_image_order order, ek_dtype dtype = EK_F32) { return {data, dtype, order, {}}; }

}  // namespace edgekern::test

// What programs do beside convolutions, in pieces that threads take.
#include <math.h>

#include "formats/int8/row_scale.h"
#include "isa/kernels.h"
#include "ops/int8_conv2d_program.h"

namespace edgekern::int8::program {
namespace {

constexpr int64_t kTicketElements = 32 * 1024;

// How values of a dtype are stored, and what they are.
struct F32 {
  using Bits = float;
  static float value(float bits) { return bits; }
  static float bits(float value) { return value; }
};
struct F16 {
  using Bits = uint16_t;
  static float value(uint16_t bits) { return f16_to_f32(bits); }
  static uint16_t bits(float value) { return f32_to_f16(value); }
};
struct BF16 {
  using Bits = uint16_t;
  static float value(uint16_t bits) { return bf16_to_f32(bits); }
  static uint16_t bits(float value) { return f32_to_bf16(value); }
};

struct Pooling {
  ek_window window;
  int64_t kernel_h, kernel_w;
  ek_image_shape x, y;
};

// Rows [begin, end) of y, counted through all images. Of equal numbers the first one stays, as in torch.
template <class Type>
void pool_rows(const Pooling& pool, const void* x, void* y, int64_t begin, int64_t end) {
  using Bits = typename Type::Bits;
  const ek_window& w = pool.window;
  const int64_t channels = pool.x.channels, width = pool.x.width, height = pool.x.height;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / pool.y.height, oy = row % pool.y.height;
    const Bits* image = static_cast<const Bits*>(x) + b * height * width * channels;
    Bits* out = static_cast<Bits*>(y) + row * pool.y.width * channels;
    for (int64_t ox = 0; ox < pool.y.width; ++ox, out += channels) {
      for (int64_t c = 0; c < channels; ++c) out[c] = Type::bits(-INFINITY);
      for (int64_t r = 0; r < pool.kernel_h; ++r) {
        const int64_t iy = oy * w.stride_h + r * w.dilation_h - w.top;
        if (iy < 0 || iy >= height) continue;
        for (int64_t s = 0; s < pool.kernel_w; ++s) {
          const int64_t ix = ox * w.stride_w + s * w.dilation_w - w.left;
          if (ix < 0 || ix >= width) continue;
          const Bits* from = image + (iy * width + ix) * channels;
          for (int64_t c = 0; c < channels; ++c) {
            const float value = Type::value(from[c]);
            out[c] = !(value <= Type::value(out[c])) ? from[c] : out[c];
          }
        }
      }
    }
  }
}

void pool_type(const Pooling& pool, const void* x, void* y, int64_t begin, int64_t end) {
  if (pool.x.dtype == EK_F32) return pool_rows<F32>(pool, x, y, begin, end);
  if (pool.x.dtype == EK_F16) return pool_rows<F16>(pool, x, y, begin, end);
  pool_rows<BF16>(pool, x, y, begin, end);
}

// Steps from one value to the next, in elements.
struct Steps {
  int64_t pixel, channel;
};

// Pixels [begin, end) of one image, from one order to the other: a few at a time, so that both sides stay in L1.
template <class Bits>
void reorder(const void* from, Steps f, void* to, Steps t, int64_t channels, int64_t begin, int64_t end) {
  constexpr int64_t kPixels = 16;
  for (int64_t p0 = begin; p0 < end; p0 += kPixels)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t p = p0; p < min_of(end, p0 + kPixels); ++p)
        static_cast<Bits*>(to)[p * t.pixel + c * t.channel] = static_cast<const Bits*>(from)[p * f.pixel + c * f.channel];
}

// body(image, first pixel, pixel after the last) for pixels [begin, end), counted through all images.
template <class Body>
void by_images(int64_t pixels, int64_t begin, int64_t end, const Body& body) {
  while (begin < end) {
    const int64_t b = begin / pixels, p0 = begin % pixels, p1 = min_of(pixels, p0 + end - begin);
    body(b, p0, p1);
    begin += p1 - p0;
  }
}

void reorder_pixels(const char* from, Steps f, char* to, Steps t, const Image& image, int64_t begin, int64_t end) {
  const int64_t bytes = image.bytes(), channels = image.shape.channels;
  by_images(image.pixels(), begin, end, [&](int64_t b, int64_t p0, int64_t p1) {
    (image.shape.dtype == EK_F32 ? reorder<uint32_t> : reorder<uint16_t>)(from + b * bytes, f, to + b * bytes, t, channels, p0,
                                                                          p1);
  });
}

void round_pixels(const Run& run, int64_t begin, int64_t end) {
  const Program& program = run.program;
  const Image& image = program.images[0];
  const RowScale scale = scale_of(*image.one_range);
  const int64_t channels = image.shape.channels, pixels = image.pixels();
  const bool planes = program.x_order == EK_NCHW;
  uint8_t* q = reinterpret_cast<uint8_t*>(run.at(0));
  by_images(pixels, begin, end, [&](int64_t b, int64_t p0, int64_t p1) {
    const int64_t start = b * image.elements() + p0 * (planes ? 1 : channels);
    program.kernels->int8_images.quantize(run.x, program.x_dtype, start, planes ? pixels : 0, p1 - p0, channels, scale,
                                          q + b * image.elements() + p0 * channels);
  });
}

void add_elements(const Run& run, int64_t i, int64_t begin, int64_t end) {
  const Program& program = run.program;
  const ek_conv2d_step& step = program.steps[i];
  const ek_dtype x_dtype = program.images[step.x].shape.dtype;
  const ek_dtype floats = floats_of(step, x_dtype, program.images[step.other].shape.dtype);
  Sum sum = sum_of(program, i, false);
  sum.other.data = run.at(step.other);
  sum.y.data = run.at(i + 1);
  const Addend x = addend_of({run.at(step.x), x_dtype, EK_NHWC, step.x_range}, begin, 0);
  program.kernels->int8_images.add(sum_args(x, floats, sum, begin, 0), 1, end - begin);
}

void pool_images(const Run& run, int64_t i, int64_t begin, int64_t end) {
  const ek_conv2d_step& step = run.program.steps[i];
  const ek_image_shape &from = run.program.images[step.x].shape, &to = run.program.images[i + 1].shape;
  const ek_window window = window_of(step, from, step.kernel_h, step.kernel_w);
  const char* x = run.at(step.x);
  char* y = run.at(i + 1);
  if (from.dtype != EK_U8) return pool_type({window, step.kernel_h, step.kernel_w, from, to}, x, y, begin, end);
  run.program.kernels->int8_images.max_pool({.x = reinterpret_cast<const uint8_t*>(x),
                                             .y = reinterpret_cast<uint8_t*>(y),
                                             .channels = from.channels,
                                             .height = from.height,
                                             .width = from.width,
                                             .out_height = to.height,
                                             .out_width = to.width,
                                             .kernel_h = step.kernel_h,
                                             .kernel_w = step.kernel_w,
                                             .window = window},
                                            begin, end);
}

// So many of `count`, each of so much work.
Pieces cut(int64_t count, int64_t elements_each) { return {count, max_of(1, kTicketElements / max_of(1, elements_each))}; }

}  // namespace

Pieces pieces_of_entry(const Program& program, int64_t images) {
  const Image& x = program.images[0];
  return cut(program.entry == Entry::kAsItIs ? 0 : images * x.pixels(), x.shape.channels);
}

void run_entry(const Run& run, int64_t begin, int64_t end) {
  const Image& x = run.program.images[0];
  if (run.program.entry == Entry::kToU8) return round_pixels(run, begin, end);
  reorder_pixels(run.x, {1, x.pixels()}, run.at(0), {x.shape.channels, 1}, x, begin, end);
}

Pieces pieces_of_exit(const Program& program, int64_t images) {
  const Image& y = program.images[program.count];
  return cut(program.to_planes ? images * y.pixels() : 0, y.shape.channels);
}

void run_exit(const Run& run, int64_t begin, int64_t end) {
  const Image& y = run.program.images[run.program.count];
  reorder_pixels(run.at(run.program.count), {y.shape.channels, 1}, run.y, {1, y.pixels()}, y, begin, end);
}

Pieces pieces_of_step(const Program& program, int64_t i, int64_t images) {
  const ek_conv2d_step& step = program.steps[i];
  const ek_image_shape& y = program.images[i + 1].shape;
  if (step.kind == EK_ADD) return cut(images * program.images[i + 1].elements(), 1);
  // Four bytes are as much work as a float.
  const int64_t row = y.width * y.channels * step.kernel_h * step.kernel_w;
  return cut(images * y.height, y.dtype == EK_U8 ? row / 4 : row);
}

void run_step(const Run& run, int64_t i, int64_t begin, int64_t end) {
  if (run.program.steps[i].kind == EK_ADD) return add_elements(run, i, begin, end);
  pool_images(run, i, begin, end);
}

}  // namespace edgekern::int8::program

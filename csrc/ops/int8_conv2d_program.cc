// Programs of convolutions, run: for each slab of images whose buffers stay in cache, one step after the other.
#include "ops/int8_conv2d_program.h"

#include <math.h>

#include "base/parallel.h"
#include "formats/int8/row_scale.h"
#include "isa/kernels.h"
#include "ops/tickets.h"

namespace edgekern::int8::program {
namespace {

constexpr int64_t kTicketElements = 32 * 1024;

// body(begin, end) over pieces of [0, count), each element of which is so much work.
template <class Body>
void in_pieces(const ek_parallel* parallel, int64_t count, int64_t elements_each, const Body& body) {
  const int64_t piece = max_of(1, kTicketElements / max_of(1, elements_each));
  parallel_for(parallel, ceil_div(count, piece),
               [&](int64_t begin, int64_t end) { body(begin * piece, min_of(count, end * piece)); });
}

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

// One call, from a slab's first image on.
struct Run {
  const Program& program;
  const ek_isa* isa;
  const ek_parallel* parallel;
  const char* x;
  char* y;
  char *buffers, *scratch;

  // Where an image of the program is, in its slab.
  char* at(int64_t i) const {
    const Image& image = program.images[i];
    if (image.offset != kOutside) return buffers + image.offset * program.slab_images;
    return i == 0 ? const_cast<char*>(x) : y;  // x is only read
  }
  int64_t x_bytes() const { return program.images[0].elements() * bytes_of(program.x_dtype); }
};

void reorder_all(const Run& run, const char* from, Steps f, char* to, Steps t, const Image& image, int64_t images) {
  const int64_t bytes = image.bytes(), channels = image.shape.channels;
  in_pieces(run.parallel, images * image.pixels(), channels, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t b = begin / image.pixels(), p0 = begin % image.pixels(), p1 = min_of(image.pixels(), p0 + end - begin);
      (image.shape.dtype == EK_F32 ? reorder<uint32_t> : reorder<uint16_t>)(from + b * bytes, f, to + b * bytes, t, channels,
                                                                            p0, p1);
      begin += p1 - p0;
    }
  });
}

void round_all(const Run& run, int64_t images) {
  const Program& program = run.program;
  const Image& image = program.images[0];
  const ek_conv2d_step* reader = program.steps;
  while (reader->x != 0) ++reader;  // all readers have one range
  const RowScale scale = scale_of(reader->x_range);
  const int64_t channels = image.shape.channels, pixels = image.pixels();
  const bool planes = program.x_order == EK_NCHW;
  uint8_t* q = reinterpret_cast<uint8_t*>(run.at(0));
  in_pieces(run.parallel, images * pixels, channels, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t b = begin / pixels, p0 = begin % pixels, p1 = min_of(pixels, p0 + end - begin);
      const int64_t start = b * image.elements() + p0 * (planes ? 1 : channels);
      program.kernels->int8_images.quantize(run.x, program.x_dtype, start, planes ? pixels : 0, p1 - p0, channels, scale,
                                            q + b * image.elements() + p0 * channels);
      begin += p1 - p0;
    }
  });
}

// With the sum that is part of it, if one is.
ek_status run_convolution(const Run& run, int64_t i, int64_t images) {
  const Program& program = run.program;
  const ek_conv2d_step& step = program.steps[i];
  Convolution conv = convolution_of(program, i);
  conv.x.data = run.at(step.x);
  if (conv.adds) {
    const int64_t at = program.images[i + 1].sum;
    const ek_conv2d_step& sum = program.steps[at];
    conv.sum.other.data = run.at(sum.other == i + 1 ? sum.x : sum.other);
    conv.sum.y.data = run.at(at + 1);
  } else {
    conv.y.data = run.at(i + 1);
  }
  return run_conv2d(conv.given(run.isa, step, images, run.parallel), run.scratch, static_cast<size_t>(program.scratch_bytes));
}

ek_status run_sum(const Run& run, int64_t i, int64_t images) {
  const Program& program = run.program;
  const ek_conv2d_step& step = program.steps[i];
  const ek_dtype x_dtype = program.images[step.x].shape.dtype;
  const ek_dtype floats = floats_of(step, x_dtype, program.images[step.other].shape.dtype);
  const ek_images x{run.at(step.x), x_dtype, EK_NHWC, step.x_range};
  Sum sum = sum_of(program, i, false);
  sum.other.data = run.at(step.other);
  sum.y.data = run.at(i + 1);
  in_pieces(run.parallel, images * program.images[i + 1].elements(), 1, [&](int64_t begin, int64_t end) {
    program.kernels->int8_images.add(sum_args(addend_of(x, begin, 0), floats, sum, begin, 0), 1, end - begin);
  });
  return EK_OK;
}

ek_status run_pooling(const Run& run, int64_t i, int64_t images) {
  const ek_conv2d_step& step = run.program.steps[i];
  const ek_image_shape &from = run.program.images[step.x].shape, &to = run.program.images[i + 1].shape;
  const ek_window window = window_of(step, from, step.kernel_h, step.kernel_w);
  const char* x = run.at(step.x);
  char* y = run.at(i + 1);
  const Pooling floats{window, step.kernel_h, step.kernel_w, from, to};
  const PoolArgs bytes{.x = reinterpret_cast<const uint8_t*>(x),
                       .y = reinterpret_cast<uint8_t*>(y),
                       .channels = from.channels,
                       .height = from.height,
                       .width = from.width,
                       .out_height = to.height,
                       .out_width = to.width,
                       .kernel_h = step.kernel_h,
                       .kernel_w = step.kernel_w,
                       .window = window};
  in_pieces(run.parallel, images * to.height, to.width * to.channels * step.kernel_h * step.kernel_w * bytes_of(from.dtype) / 4,
            [&](int64_t begin, int64_t end) {
              if (from.dtype == EK_U8) return run.program.kernels->int8_images.max_pool(bytes, begin, end);
              pool_type(floats, x, y, begin, end);
            });
  return EK_OK;
}

ek_status run_step(const Run& run, int64_t i, int64_t images) {
  const Program& program = run.program;
  const Image& to = program.images[i + 1];
  switch (program.steps[i].kind) {
    case EK_ADD:
      return to.conv == kNone ? run_sum(run, i, images) : run_convolution(run, to.conv, images);
    case EK_MAX_POOL:
      return run_pooling(run, i, images);
    default:
      return to.sum == kNone ? run_convolution(run, i, images) : EK_OK;
  }
}

ek_status run_slab(const Run& run, int64_t images) {
  const Program& program = run.program;
  const Image &first = program.images[0], &last = program.images[program.count];
  if (program.entry == Entry::kToU8) round_all(run, images);
  if (program.entry == Entry::kToPixels)
    reorder_all(run, run.x, {1, first.pixels()}, run.at(0), {first.shape.channels, 1}, first, images);
  for (int64_t i = 0; i < program.count; ++i) {
    ek_status status = run_step(run, i, images);
    if (status != EK_OK) return status;
  }
  if (program.to_planes)
    reorder_all(run, run.at(program.count), {last.shape.channels, 1}, run.y, {1, last.pixels()}, last, images);
  return EK_OK;
}

}  // namespace
}  // namespace edgekern::int8::program

using namespace edgekern;
using namespace edgekern::int8::program;

extern "C" ek_status ek_int8_conv2d_program(const ek_isa* isa, const ek_conv2d_step* steps, int64_t count, int64_t images,
                                            const ek_image_shape* x_shape, const void* x, ek_image_order x_order, void* y,
                                            ek_image_order y_order, void* workspace, size_t workspace_size,
                                            const ek_parallel* parallel) {
  if (x_shape == nullptr) return EK_ERROR_NULL_POINTER;
  Program program{};
  ek_status status = open_program(isa, steps, count, images, *x_shape, x_order, y_order, parallel, &program);
  if (status != EK_OK || images == 0) return status;
  const bool empty = program.images[0].pixels() == 0;  // all that windows meet are zeros
  if ((x == nullptr && !empty) || y == nullptr || workspace == nullptr) return EK_ERROR_NULL_POINTER;
  if (static_cast<int64_t>(workspace_size) < program.bytes()) return EK_ERROR_WORKSPACE;
  char* start = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(workspace) + 63) & ~uintptr_t{63});
  Run run{program, isa, parallel, static_cast<const char*>(x), static_cast<char*>(y), start, start + program.buffer_bytes()};
  for (int64_t b = 0; b < images && status == EK_OK; b += program.slab_images) {
    status = run_slab(run, min_of(program.slab_images, images - b));
    run.x += program.slab_images * run.x_bytes();
    run.y += program.slab_images * program.images[count].bytes();
  }
  return status;
}

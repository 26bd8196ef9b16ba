// Programs of convolutions: everything is looked at, and every image gets its place, before the first step runs.
#include <algorithm>
#include <new>

#include "formats/int8/conv2d_layout.h"
#include "isa/kernels.h"
#include "ops/int8_conv2d_program.h"

namespace edgekern::int8::program {
namespace {

constexpr int64_t kMostSteps = 1 << 14;
constexpr double kMostBytes = 0x1p48;  // of one image: the sum over all of them is then within 62 bits

// Zeros before and after `size` pixels with which a convolution gives ceil(size / stride) results; an odd one goes to the end.
void same(int64_t size, int64_t kernel, int64_t stride, int64_t dilation, int64_t* before, int64_t* after) {
  const int64_t all = max_of(0, (ceil_div(size, stride) - 1) * stride + dilation * (kernel - 1) + 1 - size);
  *before = all / 2;
  *after = all - all / 2;
}

bool is_floats(ek_dtype dtype) { return valid_dtype(dtype); }

ek_status after_convolution(const ek_conv2d_step& step, const ek_image_shape& x, ek_image_shape* y) {
  Conv2dPacked layer{};
  ek_status status = open_conv2d(step.packed, step.packed_size, &layer);
  if (status != EK_OK) return status;
  const ek_conv2d_shape& shape = layer.layout.shape;
  if (!valid_range(step.x_range) || (step.range.scale != 0 && !valid_range(step.range))) return EK_ERROR_IMAGES;
  if (!is_floats(step.dtype)) return EK_ERROR_DTYPE;
  if (x.channels != shape.in_channels) return EK_ERROR_STEP;
  const ek_window window = window_of(step, x, shape.kernel_h, shape.kernel_w);
  *y = {shape.out_channels, 0, 0, step.range.scale != 0 ? EK_U8 : x.dtype == EK_U8 ? step.dtype : x.dtype};
  return ek_conv2d_output(&shape, &window, x.height, x.width, &y->height, &y->width);
}

ek_status after_pooling(const ek_conv2d_step& step, const ek_image_shape& x, ek_image_shape* y) {
  const ek_conv2d_shape shape{x.channels, x.channels, x.channels, step.kernel_h, step.kernel_w};
  const ek_window window = window_of(step, x, step.kernel_h, step.kernel_w);
  *y = x;
  return ek_conv2d_output(&shape, &window, x.height, x.width, &y->height, &y->width);
}

ek_status after_sum(const ek_conv2d_step& step, const ek_image_shape& x, const ek_image_shape& other, ek_image_shape* y) {
  if (step.activation != EK_NONE && step.activation != EK_RELU && step.activation != EK_RELU6) return EK_ERROR_ACTIVATION;
  const ek_dtype floats = floats_of(step, x.dtype, other.dtype);
  if (!is_floats(floats)) return EK_ERROR_DTYPE;
  if ((x.dtype == EK_U8 && !valid_range(step.x_range)) || (other.dtype == EK_U8 && !valid_range(step.other_range)) ||
      (step.range.scale != 0 && !valid_range(step.range)))
    return EK_ERROR_IMAGES;
  const bool alike = x.channels == other.channels && x.height == other.height && x.width == other.width;
  *y = x;
  y->dtype = step.range.scale != 0 ? EK_U8 : floats;
  const bool one_dtype = x.dtype == other.dtype || x.dtype == EK_U8 || other.dtype == EK_U8;
  return alike && one_dtype ? EK_OK : EK_ERROR_STEP;
}

ek_status after(const ek_conv2d_step& step, int64_t index, Image* images) {
  const bool adds = step.kind == EK_ADD;
  if (step.x < 0 || step.x > index || (adds && (step.other < 0 || step.other > index))) return EK_ERROR_STEP;
  const ek_image_shape& x = images[step.x].shape;
  ek_image_shape* y = &images[index + 1].shape;
  if (step.kind == EK_CONV2D) return after_convolution(step, x, y);
  if (step.kind == EK_MAX_POOL) return after_pooling(step, x, y);
  return adds ? after_sum(step, x, images[step.other].shape, y) : EK_ERROR_STEP;
}

bool same_range(const ek_int8_range& a, const ek_int8_range& b) { return a.scale == b.scale && a.zero_point == b.zero_point; }

void find_readers(Program* program) {
  Image* images = program->images.get();
  for (int64_t i = 0; i <= program->count; ++i) {
    Image& image = images[i];
    image.readers = 0;
    image.one_range = nullptr;
    image.last_reader = max_of(0, i - 1);
    image.sum = image.conv = kNone;
    if (i > 0) image.range = program->steps[i - 1].range;
  }
  auto read = [images](int64_t number, const ek_conv2d_step& step, int64_t i) {
    Image& image = images[number];
    image.last_reader = i;
    const bool first = image.readers++ == 0, rounds = step.kind == EK_CONV2D;
    if (first && rounds) image.one_range = &step.x_range;
    if (!rounds || (image.one_range != nullptr && !same_range(*image.one_range, step.x_range))) image.one_range = nullptr;
  };
  for (int64_t i = 0; i < program->count; ++i) {
    const ek_conv2d_step& step = program->steps[i];
    read(step.x, step, i);
    if (step.kind == EK_ADD) read(step.other, step, i);
  }
  images[program->count].last_reader = program->count;  // whoever called
}

Entry entry_of(const Program& program) {
  const Image& x = program.images[0];
  if (x.shape.dtype == EK_U8) return Entry::kAsItIs;
  const bool planes = program.x_order == EK_NCHW && !x.one_order();
  if (x.one_range != nullptr && (planes || x.readers > 1)) return Entry::kToU8;
  return planes ? Entry::kToPixels : Entry::kAsItIs;
}

// Sums become part of the later one of the convolutions whose result they alone read: what else they add is there by then. And
// what only convolutions with one range read of sums is rounded once, when it is made.
void plan_sums(Program* program) {
  Image* images = program->images.get();
  for (int64_t i = 0; i < program->count; ++i) {
    const ek_conv2d_step& step = program->steps[i];
    if (step.kind != EK_ADD) continue;
    Image& y = images[i + 1];
    if (i + 1 < program->count && is_floats(y.shape.dtype) && y.one_range != nullptr) {
      y.shape.dtype = EK_U8;
      y.range = *y.one_range;
    }
    for (int64_t from : {min_of(step.x, step.other), max_of(step.x, step.other)}) {
      const Image& image = images[from];
      if (from > 0 && program->steps[from - 1].kind == EK_CONV2D && image.readers == 1 && is_floats(image.shape.dtype))
        y.conv = from - 1;
    }
    if (y.conv == kNone) continue;
    images[y.conv + 1].sum = i;
    Image& x = images[program->steps[y.conv].x];
    x.last_reader = max_of(x.last_reader, i);
  }
}

// First fit, in the order of the steps: an image takes the lowest room that none of those takes which are still to be read.
// `alive` has room for count + 1, and holds them by their offsets.
void place_images(Program* program, Image** alive) {
  Image* images = program->images.get();
  int64_t living = 0;
  program->room = 0;
  for (int64_t i = 0; i <= program->count; ++i) {
    Image& image = images[i];
    const int64_t made_by = i - 1;
    const bool outside =
        (i == 0 && program->entry == Entry::kAsItIs) || (i == program->count && !program->to_planes) || image.sum != kNone;
    living = std::remove_if(alive, alive + living, [&](Image* other) { return other->last_reader < made_by; }) - alive;
    image.offset = kOutside;
    if (outside) continue;
    int64_t at = 0, place = 0;
    for (; place < living && alive[place]->offset - at < image.room(); ++place)
      at = alive[place]->offset + alive[place]->room();
    std::move_backward(alive + place, alive + living, alive + living + 1);
    alive[place] = &image;
    ++living;
    image.offset = at;
    program->room = max_of(program->room, at + image.room());
  }
}

// Every convolution's call, once; the bytes of the largest u8 image that one makes of its x.
ek_status open_calls(Program* program, const ek_isa* isa, const ek_parallel* parallel, int64_t* most_bytes) {
  for (int64_t i = 0; i < program->count; ++i) {
    const ek_conv2d_step& step = program->steps[i];
    if (step.kind != EK_CONV2D) continue;
    const Convolution conv = convolution_of(*program, i);
    Call* call = &program->calls[i];
    const ek_status status = open_call(conv.given(isa, step, 1, parallel), call);
    if (status != EK_OK) return status;
    *most_bytes = max_of(*most_bytes, call->plan.geometry.image_bytes());
  }
  return EK_OK;
}

}  // namespace

ek_window window_of(const ek_conv2d_step& step, const ek_image_shape& x, int64_t kernel_h, int64_t kernel_w) {
  ek_window window = step.window;
  // Strides and dilations that cannot be are found by whoever is given the window.
  if (step.same_padding == 0 || window.stride_h < 1 || window.stride_w < 1) return window;
  same(x.height, kernel_h, window.stride_h, window.dilation_h, &window.top, &window.bottom);
  same(x.width, kernel_w, window.stride_w, window.dilation_w, &window.left, &window.right);
  return window;
}

Convolution convolution_of(const Program& program, int64_t i) {
  const ek_conv2d_step& step = program.steps[i];
  const Image &x = program.images[step.x], &y = program.images[i + 1];
  Conv2dPacked layer{};
  open_conv2d(step.packed, step.packed_size, &layer);
  Convolution conv{window_of(step, x.shape, layer.layout.shape.kernel_h, layer.layout.shape.kernel_w),
                   x.shape.height,
                   x.shape.width,
                   {nullptr, x.shape.dtype, EK_NHWC, step.x_range},
                   {nullptr, y.shape.dtype, EK_NHWC, step.range},
                   {},
                   y.sum != kNone};
  if (conv.adds) conv.sum = sum_of(program, y.sum, program.steps[y.sum].other == i + 1);
  return conv;
}

Sum sum_of(const Program& program, int64_t i, bool to_other) {
  const ek_conv2d_step& step = program.steps[i];
  const Image &other = program.images[to_other ? step.x : step.other], &y = program.images[i + 1];
  return {{nullptr, other.shape.dtype, EK_NHWC, to_other ? step.x_range : step.other_range},
          {nullptr, y.shape.dtype, EK_NHWC, y.range},
          step.activation};
}

ek_dtype floats_of(const ek_conv2d_step& step, ek_dtype x, ek_dtype other) {
  return x != EK_U8 ? x : other != EK_U8 ? other : step.dtype;
}

ek_status find_shapes(const ek_conv2d_step* steps, int64_t count, Image* images) {
  constexpr int64_t kLimit = int64_t{1} << 24;
  const ek_image_shape& x = images[0].shape;
  if (x.channels < 1 || x.channels > kLimit || x.height < 0 || x.height > kLimit || x.width < 0 || x.width > kLimit)
    return EK_ERROR_SHAPE;
  if (!is_floats(x.dtype) && x.dtype != EK_U8) return EK_ERROR_DTYPE;
  for (int64_t i = 0; i < count; ++i) {
    ek_status status = after(steps[i], i, images);
    if (status != EK_OK) return status;
    const ek_image_shape& y = images[i + 1].shape;
    if (4.0 * static_cast<double>(y.channels) * static_cast<double>(y.height) * static_cast<double>(y.width) > kMostBytes)
      return EK_ERROR_SHAPE;
  }
  return EK_OK;
}

ek_status open_program(const ek_isa* isa, const ek_conv2d_step* steps, int64_t count, int64_t images, const ek_image_shape& x,
                       ek_image_order x_order, ek_image_order y_order, const ek_parallel* parallel, Program* program) {
  if (steps == nullptr) return EK_ERROR_NULL_POINTER;
  if (count < 1 || count > kMostSteps) return EK_ERROR_STEP;
  if (images < 0 || images > (int64_t{1} << 24)) return EK_ERROR_SHAPE;
  for (ek_image_order order : {x_order, y_order})
    if (order != EK_NCHW && order != EK_NHWC) return EK_ERROR_IMAGES;
  ek_status status = resolve_isa(isa, &program->kernels);
  if (status != EK_OK) return status;
  program->images.reset(new (std::nothrow) Image[static_cast<size_t>(count) + 1]);
  const std::unique_ptr<Image*[]> alive(new (std::nothrow) Image*[static_cast<size_t>(count) + 1]);
  program->calls.reset(new (std::nothrow) Call[static_cast<size_t>(count)]);
  program->phases.reset(new (std::nothrow) Phase[static_cast<size_t>(most_phases(count))]);
  if (program->images == nullptr || alive == nullptr || program->calls == nullptr || program->phases == nullptr)
    return EK_ERROR_OUT_OF_MEMORY;
  program->steps = steps;
  program->count = count;
  program->x_dtype = x.dtype;
  program->x_order = x_order;
  program->y_order = y_order;
  program->images[0].shape = x;
  status = find_shapes(steps, count, program->images.get());
  if (status != EK_OK) return status;
  const Image& y = program->images[count];
  if ((x.dtype == EK_U8 && x_order != EK_NHWC) || (y.shape.dtype == EK_U8 && y_order != EK_NHWC)) return EK_ERROR_IMAGES;
  program->to_planes = y_order == EK_NCHW && !y.one_order();
  find_readers(program);
  program->entry = entry_of(*program);
  if (program->entry == Entry::kToU8) program->images[0].shape.dtype = EK_U8;
  plan_sums(program);
  place_images(program, alive.get());
  int64_t most_bytes = 1;
  status = open_calls(program, isa, parallel, &most_bytes);
  if (status != EK_OK) return status;
  // No more than what a single call takes at once, either.
  program->slab_images = max_of(1, min_of(images, kSlabBytes / max_of(most_bytes, program->room)));
  const int64_t rest = images % program->slab_images;
  if (rest != 0) program->scratch_bytes = plan_calls(program, rest);
  program->scratch_bytes = max_of(program->scratch_bytes, plan_calls(program, program->slab_images));
  return EK_OK;
}

int64_t plan_calls(Program* program, int64_t images) {
  int64_t most = 0;
  for (int64_t i = 0; i < program->count; ++i) {
    if (program->steps[i].kind != EK_CONV2D) continue;
    plan_call(&program->calls[i], images);
    most = max_of(most, program->calls[i].plan.bytes());
  }
  return most;
}

}  // namespace edgekern::int8::program

using namespace edgekern;
using namespace edgekern::int8::program;

extern "C" ek_status ek_int8_conv2d_program_shapes(const ek_conv2d_step* steps, int64_t count, const ek_image_shape* x,
                                                   ek_image_shape* shapes) {
  if (steps == nullptr || x == nullptr || shapes == nullptr) return EK_ERROR_NULL_POINTER;
  if (count < 1 || count > kMostSteps) return EK_ERROR_STEP;
  std::unique_ptr<Image[]> images(new (std::nothrow) Image[static_cast<size_t>(count) + 1]);
  if (images == nullptr) return EK_ERROR_OUT_OF_MEMORY;
  images[0].shape = *x;
  ek_status status = find_shapes(steps, count, images.get());
  for (int64_t i = 0; i <= count && status == EK_OK; ++i) shapes[i] = images[i].shape;
  return status;
}

// A program of convolutions: the shapes of its images, and where each stands in the workspace.
#pragma once

#include <stdint.h>

#include <memory>

#include "base/dtype.h"
#include "base/math.h"
#include "edgekern/edgekern.h"
#include "isa/kernels.h"
#include "ops/int8_conv2d_call.h"
#include "ops/tickets.h"

namespace edgekern::int8::program {

inline constexpr int64_t kOutside = -1, kNone = -1;

struct Image {
  ek_image_shape shape;
  ek_int8_range range;  // by which the step that makes it rounds it, to u8
  int64_t readers;
  const ek_int8_range* one_range;  // by which all readers round it, being convolutions; nullptr where there is none
  int64_t last_reader;             // a step; the one that makes it where nobody reads it
  int64_t offset;                  // bytes into the workspace, for one image of a slab; kOutside: elsewhere than there
  // A convolution whose result a sum alone reads makes the sum too, when that is due, and what it sums is in no memory.
  int64_t sum;   // of a convolution's image, that sum; kNone
  int64_t conv;  // of a sum's image, that convolution; kNone

  int64_t pixels() const { return shape.height * shape.width; }
  int64_t elements() const { return pixels() * shape.channels; }
  int64_t bytes() const { return elements() * bytes_of(shape.dtype); }
  // One image's share of a buffer. A slab of images takes as many times this, at as many times the offset.
  int64_t room() const { return round_up(bytes(), 64); }
  // Pixel by pixel and channel by channel are the same memory.
  bool one_order() const { return shape.channels <= 1 || pixels() <= 1; }
};

// What becomes of x before the first step.
enum class Entry {
  kAsItIs,
  kToPixels,  // floats, channel by channel, are put pixel by pixel
  kToU8       // all that reads them are convolutions with one range: they are rounded once, and pixel by pixel after
};

struct Program {
  const edgekern::Kernels* kernels;
  const ek_conv2d_step* steps;
  int64_t count;
  ek_dtype x_dtype;
  ek_image_order x_order, y_order;
  Entry entry;
  bool to_planes;                   // y is made in the workspace, and put channel by channel after
  std::unique_ptr<Image[]> images;  // count + 1
  int64_t room;                     // bytes of the buffers of one image
  std::unique_ptr<Call[]> calls;    // of the steps that are convolutions, planned for slab_images
  std::unique_ptr<Phase[]> phases;  // room for most_phases(count)
  int64_t slab_images;
  int64_t scratch_bytes;  // of the step that needs most

  int64_t buffer_bytes() const { return room * slab_images; }
  int64_t bytes() const { return 64 + buffer_bytes() + scratch_bytes; }
};

// The window of a step, with the zeros that "SAME" padding gives for this x.
ek_window window_of(const ek_conv2d_step& step, const ek_image_shape& x, int64_t kernel_h, int64_t kernel_w);

// Shapes of all images, the first of them given.
ek_status find_shapes(const ek_conv2d_step* steps, int64_t count, Image* images);

// A convolution has at most so many, another step one; x and y may have one of their own.
inline int64_t most_phases(int64_t steps) { return kCallPhases * steps + 2; }

// Looks at everything, and plans.
ek_status open_program(const ek_isa* isa, const ek_conv2d_step* steps, int64_t count, int64_t images, const ek_image_shape& x,
                       ek_image_order x_order, ek_image_order y_order, const ek_parallel* parallel, Program* program);

// Plans all calls for so many images; the workspace that one of them needs at most.
int64_t plan_calls(Program* program, int64_t images);

// A step's call, but for addresses of images. Its weights are of either format.
struct Convolution {
  ek_window window;
  int64_t height, width;
  ek_images x, y;
  Sum sum;  // what is done with y before it is stored, if anything is
  bool adds;

  Given given(const ek_isa* isa, const ek_conv2d_step& step, int64_t images, const ek_parallel* parallel) const {
    return {isa, step.packed,     step.packed_size, Weights::kEither,     &window, images, height, width, &x,
            &y,  step.activation, parallel,         adds ? &sum : nullptr};
  }
};
Convolution convolution_of(const Program& program, int64_t step);

// A sum, but for addresses: what is added to x, or to `other` of the step, and what comes of it.
Sum sum_of(const Program& program, int64_t step, bool to_other);
// What it is rounded to before its activation.
ek_dtype floats_of(const ek_conv2d_step& step, ek_dtype x, ek_dtype other);

// A call of a program, from a slab's first image on.
struct Run {
  const Program& program;
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

// Work of a slab that is cut into pieces of `each`.
struct Pieces {
  int64_t count = 0, each = 1;

  struct Range {
    int64_t begin, end;
  };
  int64_t tickets() const { return ceil_div(count, each); }
  Range piece(int64_t ticket) const { return {ticket * each, min_of(count, (ticket + 1) * each)}; }
};

// What becomes of x before the first step, of the result after the last, and of steps that are sums by themselves or poolings.
Pieces pieces_of_entry(const Program& program, int64_t images);
Pieces pieces_of_exit(const Program& program, int64_t images);
Pieces pieces_of_step(const Program& program, int64_t step, int64_t images);
void run_entry(const Run& run, int64_t begin, int64_t end);
void run_exit(const Run& run, int64_t begin, int64_t end);
void run_step(const Run& run, int64_t step, int64_t begin, int64_t end);

}  // namespace edgekern::int8::program

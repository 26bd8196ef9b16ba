// A call of a convolution whose pruned weights stay floats: how its work is cut, and where its parts stand in the workspace.
#pragma once

#include <stdint.h>

#include "base/dtype.h"
#include "base/math.h"
#include "formats/f32/conv2d_layout.h"
#include "isa/kernels.h"
#include "ops/conv2d.h"

namespace edgekern::f32 {

inline constexpr int64_t kSlack = 64;  // bytes that may be read, and for copies written, beyond the last

// How a call's work is cut.
struct Plan {
  conv2d::Geometry geometry;
  ek_dtype dtype;       // of x and y
  bool planes;          // x and y are channel by channel
  bool in_place;        // windows are met where x lies: they are single pixels, and there are no zeros around it
  ek_dtype met;         // what windows meet: f32 where that is planes, which go to tiles as they are
  int64_t slab_images;  // whose copies with zeros around them stay in cache; all where there are none
  int64_t threads;
  blocks::Tiles tiles;                 // of a ticket of pixels
  int64_t gather_rows, gather_stride;  // windows that become rows at a time, and bytes from one to the next
  int64_t tile_stride;                 // elements, of results that are on their way to planes

  // What windows meet, image by image: lines of pixels with a channel each, or with all of them.
  int64_t pixel() const { return planes ? 1 : geometry.shape.in_channels; }
  int64_t met_width() const { return in_place ? geometry.width : geometry.met_width(); }
  int64_t met_height() const { return in_place ? geometry.height : geometry.met_height(); }
  int64_t lines() const { return (planes ? geometry.shape.in_channels : 1) * met_height(); }
  int64_t image_bytes() const { return geometry.shape.in_channels * met_height() * met_width() * bytes_of(met); }

  bool gathers() const { return !planes && !in_place; }
  int64_t images_bytes() const { return in_place ? 0 : round_up(slab_images * image_bytes() + kSlack, 64); }
  int64_t lhs_bytes() const { return round_up(tiles.tile_rows * tiles.depth * 4 + kSlack, 64); }
  int64_t gathered_bytes() const { return gathers() ? round_up(gather_rows * gather_stride + kSlack, 64) : 0; }
  int64_t result_bytes() const { return planes ? round_up(round_up(tiles.rows, 16) * tile_stride * bytes_of(dtype), 64) : 0; }
  int64_t slot_bytes() const { return lhs_bytes() + gathered_bytes() + result_bytes(); }
  int64_t bytes() const { return kSlack + images_bytes() + threads * slot_bytes(); }
};

// What one thread works in.
struct Slot {
  float* lhs;
  char* gathered;
  char* results;
};

// One call, with all that its tickets share.
struct Call {
  const edgekern::Kernels* kernels;
  Conv2dPacked packed;
  blocks::Layout matrix;  // of every group, but for how many blocks it holds
  Plan plan;
  int64_t images;
  ek_images x, y;  // from the slab's first image on
  ek_activation activation;
  const ek_parallel* parallel;
  char* met;  // what windows meet
  char* slots;

  int64_t x_elements() const { return plan.geometry.shape.in_channels * plan.geometry.height * plan.geometry.width; }
  int64_t y_elements() const { return plan.geometry.shape.out_channels * plan.geometry.out_pixels(); }
};

// Lines [begin, end) of image b with the zeros around them.
void copy_lines(const Call& call, int64_t b, int64_t begin, int64_t end);

// The windows of pixels [p0, p0 + tiles.rows) of image b and a group, turned to tiles.
void fill_tiles(const Call& call, const Slot& slot, const blocks::Tiles& tiles, int64_t b, int64_t group, int64_t p0);

}  // namespace edgekern::f32

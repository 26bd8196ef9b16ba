// Images on their way into a convolution of floats: zeros around them, and windows to tiles, where a vector holds one k of
// neighbouring pixels.
#include <string.h>

#include "formats/blocks/row_tile.h"
#include "ops/float_conv2d.h"
#include "ops/kept_blocks.h"

namespace edgekern::f32 {
namespace {

// Neighbouring pixels of a tile whose windows lie `stride_w` pixels apart in one line.
struct Run {
  int64_t to, from, count;
};

// Several floats at a time: what is copied too much is overwritten by the next run, or lies beyond the last.
void copy_by_steps(float* to, const float* from, int64_t count) {
  constexpr int64_t kStep = 16;
  int64_t i = 0;
  do memcpy(to + i, from + i, kStep * sizeof(float));
  while ((i += kStep) < count);
}

// Those that lie `stride` apart: by vectors where that is 2, as it mostly is.
void copy_apart(float* __restrict to, const float* __restrict from, int64_t count, int64_t stride) {
  if (stride == 2)
    for (int64_t i = 0; i < count; ++i) to[i] = from[2 * i];
  else
    for (int64_t i = 0; i < count; ++i) to[i] = from[stride * i];
}

// What planes have at a place of their windows, of `channels` of them, to neighbouring k of a tile.
struct PlaneCopy {
  int64_t plane, stride_w;
  bool exact;             // nothing may be read or written beyond a run
  int64_t width, pixels;  // of the tile, and those of them that there are

  void operator()(const float* from, int64_t channels, float* to, const Run* runs, int64_t count) const {
    for (int64_t c = 0; c < channels; ++c, from += plane, to += width) {
      for (int64_t i = 0; i < count; ++i) {
        const Run& run = runs[i];
        if (stride_w != 1)
          copy_apart(to + run.to, from + run.from, run.count, stride_w);
        else if (exact)
          memcpy(to + run.to, from + run.from, static_cast<size_t>(run.count) * sizeof(float));
        else
          copy_by_steps(to + run.to, from + run.from, run.count);
      }
      // What becomes of the rest goes nowhere, but would take its time if it happened to be subnormal.
      if (pixels < width) memset(to + pixels, 0, static_cast<size_t>(width - pixels) * sizeof(float));
    }
  }
};

// One tile from planes of f32. A k is a plane seen from a place of the window: no window is gathered, and nothing turned.
void fill_from_planes(const Plan& plan, const float* image, int64_t p0, int64_t pixels, int64_t width, float* to) {
  const conv2d::Geometry& g = plan.geometry;
  const int64_t met_width = plan.met_width();
  // Rows of y whose windows follow each other without a gap are one.
  const bool whole = g.window.stride_h == 1 && g.window.stride_w == 1 && met_width == g.out_width;
  const int64_t row = whole ? g.out_pixels() : g.out_width;
  constexpr int64_t kMostRuns = 64;  // more are copied in turns, none of which may touch what those before it have copied
  Run runs[kMostRuns];
  const PlaneCopy copy{plan.met_height() * met_width, g.window.stride_w, plan.in_place || width > kMostRuns, width, pixels};
  for (int64_t done = 0; done < pixels;) {
    int64_t count = 0;
    for (; done < pixels && count < kMostRuns; ++count) {
      const int64_t y = (p0 + done) / row, x = (p0 + done) % row;
      runs[count] = {done, y * g.window.stride_h * met_width + x * g.window.stride_w, min_of(row - x, pixels - done)};
      done += runs[count].count;
    }
    float* at = to;
    for (int64_t r = 0; r < g.shape.kernel_h; ++r)
      for (int64_t s = 0; s < g.shape.kernel_w; ++s, at += g.group_in() * width)
        copy(image + r * g.window.dilation_h * met_width + s * g.window.dilation_w, g.group_in(), at, runs, count);
  }
}

// The windows of pixels [p0, p1) to slot.gathered, one after the other.
void gather(const Call& call, const Slot& slot, const char* image, int64_t p0, int64_t p1) {
  const conv2d::Geometry& g = call.plan.geometry;
  const int64_t bytes = bytes_of(call.plan.met), channels = g.group_in() * bytes, pixel = g.shape.in_channels * bytes,
                line = call.plan.met_width() * pixel;
  const bool whole = g.lines_are_runs();
  call.kernels->int8_images.gather({.image = reinterpret_cast<const uint8_t*>(image),
                                    .next_line = g.window.stride_h * line,
                                    .next_pixel = g.window.stride_w * pixel,
                                    .width = g.out_width,
                                    .lines = g.shape.kernel_h,
                                    .next_line_of_window = g.window.dilation_h * line,
                                    .runs = whole ? 1 : g.shape.kernel_w,
                                    .next_run = g.window.dilation_w * pixel,
                                    .run = whole ? g.shape.kernel_w * channels : channels,
                                    .rows = reinterpret_cast<uint8_t*>(slot.gathered),
                                    .stride = call.plan.gather_stride},
                                   p0, p1);
}

}  // namespace

void copy_lines(const Call& call, int64_t b, int64_t begin, int64_t end) {
  const Plan& plan = call.plan;
  const conv2d::Geometry& g = plan.geometry;
  const int64_t met = g.met_width(), pixel = plan.pixel(), bytes = bytes_of(plan.met), left = min_of(g.window.left, met);
  for (int64_t line = begin; line < end; ++line) {
    const int64_t plane = line / g.met_height(), y = line % g.met_height() - g.window.top;
    const int64_t used = y < 0 || y >= g.height ? 0 : min_of(g.width, met - left);
    char* to = call.met + b * plan.image_bytes() + line * met * pixel * bytes;
    char* rest = to + (left + used) * pixel * bytes;
    memset(to, 0, static_cast<size_t>(left * pixel * bytes));
    memset(rest, 0, static_cast<size_t>((met - left - used) * pixel * bytes));
    if (used == 0) continue;
    to += left * pixel * bytes;
    const int64_t from = b * call.x_elements() + (plane * g.height + y) * g.width * pixel;
    if (plan.met == plan.dtype)
      memcpy(to, static_cast<const char*>(call.x.data) + from * bytes, static_cast<size_t>(used * pixel * bytes));
    else
      for (int64_t i = 0; i < used; ++i) reinterpret_cast<float*>(to)[i] = float_at(call.x.data, plan.dtype, from + i);
  }
}

void fill_tiles(const Call& call, const Slot& slot, const blocks::Tiles& tiles, int64_t b, int64_t group, int64_t p0) {
  const Plan& plan = call.plan;
  const conv2d::Geometry& g = plan.geometry;
  const int64_t bytes = bytes_of(plan.met), channels = g.shape.in_channels;
  const char* image = call.met + b * plan.image_bytes();
  if (plan.planes) {
    image += group * g.group_in() * plan.met_height() * plan.met_width() * bytes;
    return blocks::for_each_tile(tiles, [&](blocks::RowTile tile) {
      fill_from_planes(plan, reinterpret_cast<const float*>(image), p0 + tile.start,
                       min_of(tile.width, tiles.rows - tile.start), tile.width, slot.lhs + tile.start * tiles.depth);
    });
  }
  image += group * g.group_in() * bytes;
  const floats::LhsTiles lhs{tiles, slot.lhs, nullptr};
  const auto load = call.kernels->f32.load;
  if (plan.in_place) return load(image + p0 * channels * bytes, plan.met, channels, g.k(), 0, tiles.rows, lhs);
  for (int64_t m = 0; m < tiles.rows; m += plan.gather_rows) {
    const int64_t end = min_of(tiles.rows, m + plan.gather_rows);
    gather(call, slot, image, p0 + m, p0 + end);
    load(slot.gathered - m * plan.gather_stride, plan.met, plan.gather_stride / bytes, g.k(), m, end, lhs);
  }
}

}  // namespace edgekern::f32

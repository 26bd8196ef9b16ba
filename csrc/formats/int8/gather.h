// Rows of activations of a convolution: the window of each pixel of y, its runs of bytes side by side.
#pragma once

#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int8 {
namespace {

// By whole vectors: what is copied too much is overwritten by the next run, or lies after the last row.
template <class Isa>
void gather(const GatherArgs& args, int64_t p0, int64_t p1) {
  constexpr int64_t kVector = Isa::kLanes * 4;
  const GatherArgs g = args;
  int64_t y = p0 / g.width, x = p0 % g.width;
  uint8_t* row = g.rows;
  for (int64_t p = p0; p < p1; ++p, row += g.stride) {
    const uint8_t* line = g.image + y * g.next_line + x * g.next_pixel;
    uint8_t* to = row;
    for (int64_t r = 0; r < g.lines; ++r, line += g.next_line_of_window) {
      const uint8_t* from = line;
      for (int64_t s = 0; s < g.runs; ++s, from += g.next_run, to += g.run) {
        int64_t i = 0;
        do Isa::store_i32(reinterpret_cast<int32_t*>(to + i), Isa::load_i32(reinterpret_cast<const int32_t*>(from + i)));
        while ((i += kVector) < g.run);
      }
    }
    if (++x == g.width) x = 0, ++y;
  }
}

}  // namespace
}  // namespace edgekern::int8

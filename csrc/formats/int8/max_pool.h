// Max pooling of u8 pixels: lanes are channels, whose largest stay in a vector for the whole of a window.
//
// Bytes of one range are in the order of the floats that they stand for, so that this is the pooling of these. What lies outside
// of the image takes no part; of a window that meets nothing, it is the range's lower end.
#pragma once

#include <string.h>

#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int8 {
namespace {

// The rows, or columns, of a window that are in the image: [first, end) of the kernel, of which 0 is at `start`.
struct Met {
  int64_t start, first, end;

  EK_INLINE Met(int64_t start_, int64_t kernel, int64_t dilation, int64_t size) : start(start_), first(0), end(kernel) {
    while (first < end && start + first * dilation < 0) ++first;
    while (end > first && start + (end - 1) * dilation >= size) --end;
  }
};

template <class Isa>
EK_INLINE void pool_pixel(const PoolArgs& a, const uint8_t* image, const Met& down, const Met& across, uint8_t* y) {
  constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  const int64_t next_row = a.window.dilation_h * a.width * a.channels, next_column = a.window.dilation_w * a.channels;
  const uint8_t* from = image + (down.start * a.width + across.start) * a.channels + down.first * next_row;
  alignas(64) uint8_t none[kStep] = {};
  int64_t c = 0;
  for (; c + kStep <= a.channels; c += kStep) {
    typename Isa::Bytes most = Isa::load_bytes(none);
    const uint8_t* row = from + c;
    for (int64_t r = down.first; r < down.end; ++r, row += next_row)
      for (int64_t s = across.first; s < across.end; ++s) most = Isa::max_bytes(Isa::load_bytes(row + s * next_column), most);
    Isa::store_bytes(y + c, most);
  }
  if (c == a.channels) return;
  // Fewer than a step: one by one, by channels within a pixel, which compilers turn to narrower vectors.
  memset(y + c, 0, static_cast<size_t>(a.channels - c));
  const uint8_t* row = from;
  for (int64_t r = down.first; r < down.end; ++r, row += next_row)
    for (int64_t s = across.first; s < across.end; ++s)
      for (int64_t i = c; i < a.channels; ++i) {
        const uint8_t q = row[s * next_column + i];
        y[i] = q > y[i] ? q : y[i];
      }
}

template <class Isa>
void max_pool(const PoolArgs& args, int64_t begin, int64_t end) {
  const PoolArgs a = args;  // by value: y may alias what is behind a reference
  const ek_window& w = a.window;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / a.out_height, oy = row % a.out_height;
    const uint8_t* image = a.x + b * a.height * a.width * a.channels;
    uint8_t* y = a.y + row * a.out_width * a.channels;
    const Met down(oy * w.stride_h - w.top, a.kernel_h, w.dilation_h, a.height);
    for (int64_t ox = 0; ox < a.out_width; ++ox, y += a.channels)
      pool_pixel<Isa>(a, image, down, Met(ox * w.stride_w - w.left, a.kernel_w, w.dilation_w, a.width), y);
  }
}

}  // namespace
}  // namespace edgekern::int8

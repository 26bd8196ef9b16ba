// Depthwise convolution of u8 pixels: lanes are channels, and a product takes a few rows of the filter at once.
//
// Rows of the image that meet the filter are put side by side, byte by byte, for a run of columns and 64 channels:
//
//   columns[g][x]:   | r0 c0 | r1 c0 | r2 c0 | r3 c0 | r0 c1 | r1 c1 | ...       r: rows oy * stride + (4g ..) * dilation
//
// Each such word serves all columns of the filter, at as many pixels of y. Sums go through a tile in L1 as those of a
// matrix do, and are finished alike.
#pragma once

#include <string.h>

#include "formats/int8/finish.h"
#include "formats/int8/quantize_tiles.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int8 {
namespace {

constexpr int64_t kTilePixels = 32;

// Columns [x0, x0 + count) of the rows of the image that row oy of y needs, channels [c0, c0 + channels), by sixteens. What lies
// beyond the image's edges is zero, which its zero point stands for.
template <class Isa>
void join_columns(const DepthwiseArgs& a, int64_t oy, int64_t x0, int64_t count, int64_t c0, int64_t channels) {
  constexpr int kDepth = Isa::kBlockOrder.line_depth;
  constexpr int64_t kColumnBytes = kTileColumns * kDepth;
  const int64_t before = min_of(count, max_of(0, -x0)), end = min_of(count, max_of(before, a.width - x0));
  for (int64_t g = 0; g < a.row_groups; ++g) {
    const uint8_t* rows[kDepth];
    for (int d = 0; d < kDepth; ++d) {
      int64_t r = min_of(g * kDepth + d, a.kernel_h - 1);  // beyond the filter weights are zero, whatever the activation
      int64_t y = oy * a.stride_h + r * a.dilation_h - a.top;
      rows[d] = (y < 0 || y >= a.height ? a.zeros : a.image + y * a.row_bytes) + c0;
    }
    uint8_t* out = a.columns + g * a.span * kColumnBytes;
    memset(out, a.zero_point, static_cast<size_t>(before * kColumnBytes));
    for (int64_t x = before; x < end; ++x)
      for (int64_t c = 0; c < channels; c += 16)
        Isa::join_rows(rows, (x0 + x) * a.pixel_bytes + c, out + x * kColumnBytes + c * kDepth);
    memset(out + end * kColumnBytes, a.zero_point, static_cast<size_t>((count - end) * kColumnBytes));
  }
}

// Where the sums of a run of pixels come from, and go: kLanes channels.
struct LaneSums {
  const uint8_t* columns;  // of the first pixel
  const int32_t* words;
  const int32_t* column_sum;
  int32_t* tile;
  int64_t pixels;
};

// A filter of known size, its weights in registers: G groups of rows x KW columns.
template <class Isa, int G, int KW>
EK_INLINE void sum_filter(const DepthwiseArgs& a, const LaneSums& s, typename Isa::I32 owed) {
  constexpr int64_t kColumnBytes = kTileColumns * Isa::kBlockOrder.line_depth;
  typename Isa::I32 weights[G * KW];
  unroll<G * KW>([&](auto i) EK_LAMBDA_INLINE { weights[i] = Isa::load_i32(s.words + i * a.padded_channels); });
  for (int64_t m = 0; m < s.pixels; ++m) {
    const uint8_t* columns = s.columns + m * a.stride_w * kColumnBytes;
    typename Isa::BlockAcc acc = Isa::block_zero();
    unroll<G * KW>([&](auto i) EK_LAMBDA_INLINE {
      const uint8_t* at = columns + ((i / KW) * a.span + (i % KW) * a.dilation_w) * kColumnBytes;
      acc = Isa::multiply_lanes(acc, Isa::spread_blocks(at, a.zero_point), weights[i]);
    });
    Isa::store_i32(s.tile + m * kTileColumns, Isa::sub_i32(Isa::block_sum(acc), owed));
  }
}

template <class Isa>
EK_INLINE void sum_any_filter(const DepthwiseArgs& a, const LaneSums& s, typename Isa::I32 owed) {
  constexpr int64_t kColumnBytes = kTileColumns * Isa::kBlockOrder.line_depth;
  for (int64_t m = 0; m < s.pixels; ++m) {
    const uint8_t* columns = s.columns + m * a.stride_w * kColumnBytes;
    const int32_t* words = s.words;
    typename Isa::BlockAcc acc = Isa::block_zero();
    for (int64_t g = 0; g < a.row_groups; ++g, columns += a.span * kColumnBytes)
      for (int64_t r = 0; r < a.kernel_w; ++r, words += a.padded_channels)
        acc = Isa::multiply_lanes(acc, Isa::spread_blocks(columns + r * a.dilation_w * kColumnBytes, a.zero_point),
                                  Isa::load_i32(words));
    Isa::store_i32(s.tile + m * kTileColumns, Isa::sub_i32(Isa::block_sum(acc), owed));
  }
}

template <class Isa>
EK_INLINE void sum_lanes(const DepthwiseArgs& a, const LaneSums& s) {
  using I32 = typename Isa::I32;
  constexpr int64_t kThree = Isa::kBlockOrder.line_depth == 4 ? 1 : 2, kFive = kThree + 1;  // groups of so many rows
  const I32 owed = Isa::mul_i32(Isa::set_i32(owed_zero_point<Isa>(a.zero_point)), Isa::load_i32(s.column_sum));
  if (a.row_groups == kThree && a.kernel_w == 3) return sum_filter<Isa, kThree, 3>(a, s, owed);
  if (a.row_groups == kFive && a.kernel_w == 5) return sum_filter<Isa, kFive, 5>(a, s, owed);
  sum_any_filter<Isa>(a, s, owed);
}

// Pixels [ox, ox + pixels) of row oy of y, at most a run, in channels [c0, c0 + 64) that exist.
template <class Isa>
void depthwise(const DepthwiseArgs& a, int64_t oy, int64_t ox, int64_t pixels, int64_t c0) {
  constexpr int64_t kDepth = Isa::kBlockOrder.line_depth, kColumnBytes = kTileColumns * kDepth;
  const int64_t channels = min_of(kTileColumns, a.channels - c0);
  join_columns<Isa>(a, oy, ox * a.stride_w - a.left, (pixels - 1) * a.stride_w + (a.kernel_w - 1) * a.dilation_w + 1, c0,
                    channels);
  alignas(64) int32_t tile[kTilePixels * kTileColumns];
  float scale[kTilePixels];
  for (float& each : scale) each = a.scale;
  Finish finish_tile = choose_finish<Isa>(a.output);
  for (int64_t p = 0; p < pixels; p += kTilePixels) {
    const int64_t rows = min_of(kTilePixels, pixels - p);
    for (int64_t c = 0; c < channels; c += Isa::kLanes)
      sum_lanes<Isa>(
          a, {a.columns + p * a.stride_w * kColumnBytes + c * kDepth, a.words + c0 + c, a.column_sum + c0 + c, tile + c, rows});
    finish_tile({tile,
                 nullptr,
                 scale,
                 a.rhs_scale + c0,
                 a.bias + c0,
                 {a.output.y, p * a.output.ld_y + c0, a.output.ld_y, rows, channels, a.output.u8}});
  }
}

}  // namespace
}  // namespace edgekern::int8

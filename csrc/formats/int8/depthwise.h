// Depthwise convolution of u8 pixels: lanes are channels, and a product takes a few rows of the filter at once.
//
// Rows of the image that meet the filter are put side by side, byte by byte, for a run of columns and 64 channels:
//
//   columns[g][x]:   | r0 c0 | r1 c0 | r2 c0 | r3 c0 | r0 c1 | r1 c1 | ...       r: rows oy * stride + (4g ..) * dilation
//
// Each such word serves all columns of the filter, at as many pixels of y. Sums go through a tile in L1 as those of a
// matrix do, and are finished alike.
#pragma once

#include "formats/int8/finish.h"
#include "formats/int8/quantize_tiles.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int8 {
namespace {

constexpr int64_t kTilePixels = 8;

// 64 channels of `depth` rows for columns [x0, x0 + count) of the image, from row pointers that start at x0.
template <int kDepth>
EK_INLINE void join_rows(const uint8_t* const (&rows)[kDepth], int64_t pixel_bytes, int64_t count, uint8_t* out) {
  for (int64_t x = 0; x < count; ++x, out += kTileColumns * kDepth)
    for (int64_t c = 0; c < kTileColumns; ++c)
      for (int d = 0; d < kDepth; ++d) out[c * kDepth + d] = rows[d][x * pixel_bytes + c];
}

template <class Isa>
void join_columns(const DepthwiseArgs& a, int64_t oy, int64_t x0, int64_t count, int64_t c0) {
  constexpr int kDepth = Isa::kBlockOrder.line_depth;
  for (int64_t g = 0; g < a.row_groups; ++g) {
    const uint8_t* rows[kDepth];
    for (int d = 0; d < kDepth; ++d) {
      int64_t r = min_of(g * kDepth + d, a.kernel_h - 1);  // beyond the filter weights are zero, whatever the activation
      rows[d] = a.image + (oy * a.stride_h + r * a.dilation_h) * a.row_bytes + x0 * a.pixel_bytes + c0;
    }
    join_rows<kDepth>(rows, a.pixel_bytes, count, a.columns + g * a.span * kTileColumns * kDepth);
  }
}

// Sums of kLanes channels at one pixel of y.
template <class Isa>
EK_INLINE typename Isa::I32 sum_pixel(const DepthwiseArgs& a, const uint8_t* columns, const int32_t* words) {
  constexpr int64_t kDepth = Isa::kBlockOrder.line_depth, kColumnBytes = kTileColumns * kDepth;
  typename Isa::BlockAcc acc = Isa::block_zero();
  for (int64_t g = 0; g < a.row_groups; ++g, columns += a.span * kColumnBytes)
    for (int64_t s = 0; s < a.kernel_w; ++s, words += a.padded_channels)
      acc = Isa::multiply_lanes(acc, Isa::spread_blocks(columns + s * a.dilation_w * kColumnBytes, a.zero_point),
                                Isa::load_i32(words));
  return Isa::block_sum(acc);
}

// Pixels [ox, ox + pixels) of row oy of y, at most a run, in channels [c0, c0 + 64) that exist.
template <class Isa>
void depthwise(const DepthwiseArgs& a, int64_t oy, int64_t ox, int64_t pixels, int64_t c0) {
  using I32 = typename Isa::I32;
  constexpr int64_t kDepth = Isa::kBlockOrder.line_depth, kColumnBytes = kTileColumns * kDepth;
  join_columns<Isa>(a, oy, ox * a.stride_w, (pixels - 1) * a.stride_w + (a.kernel_w - 1) * a.dilation_w + 1, c0);
  const int64_t channels = min_of(kTileColumns, a.channels - c0);
  const I32 zero_point = Isa::set_i32(owed_zero_point<Isa>(a.zero_point));
  alignas(64) int32_t tile[kTilePixels * kTileColumns];
  float scale[kTilePixels];
  for (float& each : scale) each = a.scale;
  Finish finish_tile = choose_finish<Isa>(a.output);
  for (int64_t p = 0; p < pixels; p += kTilePixels) {
    const int64_t rows = min_of(kTilePixels, pixels - p);
    for (int64_t m = 0; m < rows; ++m) {
      const uint8_t* columns = a.columns + (p + m) * a.stride_w * kColumnBytes;
      for (int64_t c = 0; c < channels; c += Isa::kLanes) {
        I32 sum = sum_pixel<Isa>(a, columns + c * kDepth, a.words + c0 + c);
        I32 owed = Isa::mul_i32(zero_point, Isa::load_i32(a.column_sum + c0 + c));
        Isa::store_i32(tile + m * kTileColumns + c, Isa::sub_i32(sum, owed));
      }
    }
    finish_tile({tile,
                 nullptr,
                 scale,
                 a.rhs_scale + c0,
                 a.bias + c0,
                 {a.output.y, p * a.output.ld_y + c0, a.output.ld_y, rows, channels, a.output.inverse, a.output.zero_point}});
  }
}

}  // namespace
}  // namespace edgekern::int8

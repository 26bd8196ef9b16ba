// Depthwise convolution of u8 pixels: lanes are channels, and a product takes a few rows of the filter at once.
//
// Rows of the image that meet the filter are put side by side, byte by byte, for a run of columns and 64 channels:
//
//   columns[g][x]:   | r0 c0 | r1 c0 | r2 c0 | r3 c0 | r0 c1 | r1 c1 | ...       r: rows oy * stride + (4g ..) * dilation
//
// Each such word serves all columns of the filter, at as many pixels of y. Sums become u8 in registers where everything is folded
// (U8Output) and the filter is one of the usual; else they go through a tile in L1 as those of a matrix do, and are finished alike.
//
// An ISA may join 64 channels at once in an order of its own (kJoinsWide), in which their weights are brought then:
//   join_wide(rows, at, out)     64 bytes from rows[d] + at, one of each row in turn
//   wide_order(v)                kParts vectors of words from the order of channels to that one
//   store_rounded_wide           store_rounded, of vectors in that order
#pragma once

#include <string.h>

#include "formats/int8/finish.h"
#include "formats/int8/quantize_tiles.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int8 {
namespace {

constexpr int64_t kTilePixels = 32;

template <class Isa>
constexpr bool kJoinsWide =
    requires(uint8_t* out, const uint8_t* const (&rows)[Isa::kBlockOrder.line_depth]) { Isa::join_wide(rows, 0, out); };

// Columns [x0, x0 + count) of the rows of the image that row oy of y needs, channels [c0, c0 + channels), by sixteens. What lies
// beyond the image's edges is zero, which its zero point stands for.
template <class Isa, bool kWide>
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
    for (int64_t x = before; x < end; ++x) {
      if constexpr (kWide) {
        Isa::join_wide(rows, (x0 + x) * a.pixel_bytes, out + x * kColumnBytes);
      } else {
        for (int64_t c = 0; c < channels; c += 16)
          Isa::join_rows(rows, (x0 + x) * a.pixel_bytes + c, out + x * kColumnBytes + c * kDepth);
      }
    }
    memset(out + end * kColumnBytes, a.zero_point, static_cast<size_t>((count - end) * kColumnBytes));
  }
}

// Groups of rows of the filters that have kernels of their own.
template <class Isa>
constexpr int kGroupsOfThree = Isa::kBlockOrder.line_depth == 4 ? 1 : 2;
template <class Isa>
constexpr int kGroupsOfFive = kGroupsOfThree<Isa> + 1;

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
  constexpr int kThree = kGroupsOfThree<Isa>, kFive = kGroupsOfFive<Isa>;
  const I32 owed = Isa::mul_i32(Isa::set_i32(owed_zero_point<Isa>(a.zero_point)), Isa::load_i32(s.column_sum));
  if (a.row_groups == kThree && a.kernel_w == 3) return sum_filter<Isa, kThree, 3>(a, s, owed);
  if (a.row_groups == kFive && a.kernel_w == 5) return sum_filter<Isa, kFive, 5>(a, s, owed);
  sum_any_filter<Isa>(a, s, owed);
}

// What P vectors of channels are multiplied by, and finished with.
template <class Isa, int W, int P>
struct LaneNumbers {
  typename Isa::I32 words[W][P], owed[P];
  typename Isa::F32 scale[P], bias[P];

  template <bool kWide>
  static EK_INLINE LaneNumbers at(const DepthwiseArgs& a, int64_t c) {
    LaneNumbers n;
    auto load = [&](const int32_t* p, typename Isa::I32(&v)[P]) EK_LAMBDA_INLINE {
      unroll<P>([&](auto part) EK_LAMBDA_INLINE { v[part] = Isa::load_i32(p + part * Isa::kLanes); });
      if constexpr (kWide) Isa::wide_order(v);
    };
    auto load_floats = [&](const float* p, typename Isa::F32(&v)[P]) EK_LAMBDA_INLINE {
      typename Isa::I32 bits[P];
      unroll<P>([&](auto part) EK_LAMBDA_INLINE { bits[part] = Isa::as_i32(Isa::load(p + part * Isa::kLanes)); });
      if constexpr (kWide) Isa::wide_order(bits);
      unroll<P>([&](auto part) EK_LAMBDA_INLINE { v[part] = Isa::as_f32(bits[part]); });
    };
    unroll<W>([&](auto i) EK_LAMBDA_INLINE { load(a.words + i * a.padded_channels + c, n.words[i]); });
    load(a.column_sum + c, n.owed);
    const auto zero = Isa::set_i32(owed_zero_point<Isa>(a.zero_point));
    unroll<P>([&](auto part) EK_LAMBDA_INLINE { n.owed[part] = Isa::mul_i32(zero, n.owed[part]); });
    load_floats(a.rhs_scale + c, n.scale);
    load_floats(a.bias + c, n.bias);
    return n;
  }
};

// A filter of known size by P vectors of channels, from channel c of y and of `columns` on, straight to u8.
template <class Isa, int G, int KW, int P, bool kWide>
void filter_to_u8(const DepthwiseArgs& args, const uint8_t* columns, int64_t pixels, int64_t c) {
  constexpr int64_t kDepth = Isa::kBlockOrder.line_depth, kColumnBytes = kTileColumns * kDepth;
  const DepthwiseArgs a = args;  // by value: y may alias what is behind a reference
  const auto numbers = LaneNumbers<Isa, G * KW, P>::template at<kWide>(a, c);
  const int64_t count = min_of(P * Isa::kLanes, a.channels - c);
  uint8_t* y = static_cast<uint8_t*>(a.output.y) + c;
  for (int64_t m = 0; m < pixels; ++m, y += a.output.ld_y, columns += a.stride_w * kColumnBytes) {
    typename Isa::BlockAcc acc[P];
    unroll<P>([&](auto part) EK_LAMBDA_INLINE { acc[part] = Isa::block_zero(); });
    unroll<G * KW>([&](auto i) EK_LAMBDA_INLINE {
      const uint8_t* at = columns + ((i / KW) * a.span + (i % KW) * a.dilation_w) * kColumnBytes;
      unroll<P>([&](auto part) EK_LAMBDA_INLINE {
        const auto joined = Isa::spread_blocks(at + part * Isa::kLanes * kDepth, a.zero_point);
        acc[part] = Isa::multiply_lanes(acc[part], joined, numbers.words[i][part]);
      });
    });
    typename Isa::F32 v[Isa::kParts];
    unroll<Isa::kParts>([&](auto part) EK_LAMBDA_INLINE {
      if constexpr (part < P) {
        const auto sum = Isa::to_f32(Isa::sub_i32(Isa::block_sum(acc[part]), numbers.owed[part]));
        v[part] = Isa::fma(sum, numbers.scale[part], numbers.bias[part]);
      } else {
        v[part] = Isa::set(0.0f);
      }
    });
    if constexpr (kWide)
      Isa::store_rounded_wide(y, v, a.output.u8.low, a.output.u8.high);
    else
      Isa::store_rounded(y, v, a.output.u8.low, a.output.u8.high, count);
  }
}

// All channels that were joined, as many vectors at a time as there are.
template <class Isa, int G, int KW>
void filters_to_u8(const DepthwiseArgs& a, int64_t pixels, int64_t c0, int64_t channels) {
  constexpr int64_t kDepth = Isa::kBlockOrder.line_depth;
  for (int64_t c = 0, vectors; c < channels; c += vectors * Isa::kLanes) {
    const int64_t left = ceil_div(channels - c, Isa::kLanes);
    const uint8_t* columns = a.columns + c * kDepth;
    vectors = left >= 4 ? 4 : left >= 2 ? 2 : 1;
    if (vectors == 4)
      filter_to_u8<Isa, G, KW, 4, false>(a, columns, pixels, c0 + c);
    else if (vectors == 2)
      filter_to_u8<Isa, G, KW, 2, false>(a, columns, pixels, c0 + c);
    else
      filter_to_u8<Isa, G, KW, 1, false>(a, columns, pixels, c0 + c);
  }
}

// Pixels [ox, ox + pixels) of row oy of y, at most a run, in channels [c0, c0 + 64) that exist.
template <class Isa>
void depthwise(const DepthwiseArgs& a, int64_t oy, int64_t ox, int64_t pixels, int64_t c0) {
  constexpr int64_t kDepth = Isa::kBlockOrder.line_depth, kColumnBytes = kTileColumns * kDepth;
  constexpr int kThree = kGroupsOfThree<Isa>, kFive = kGroupsOfFive<Isa>;
  const int64_t channels = min_of(kTileColumns, a.channels - c0);
  const int64_t x0 = ox * a.stride_w - a.left, met = (pixels - 1) * a.stride_w + (a.kernel_w - 1) * a.dilation_w + 1;
  const bool three = a.row_groups == kThree && a.kernel_w == 3, five = a.row_groups == kFive && a.kernel_w == 5;
  const bool folded = a.output.dtype == EK_U8 && a.output.u8.folded && (three || five);
  if constexpr (kJoinsWide<Isa>) {
    if (folded && channels == kTileColumns) {
      join_columns<Isa, true>(a, oy, x0, met, c0, channels);
      if (three) return filter_to_u8<Isa, kThree, 3, Isa::kParts, true>(a, a.columns, pixels, c0);
      return filter_to_u8<Isa, kFive, 5, Isa::kParts, true>(a, a.columns, pixels, c0);
    }
  }
  join_columns<Isa, false>(a, oy, x0, met, c0, channels);
  if (folded && three) return filters_to_u8<Isa, kThree, 3>(a, pixels, c0, channels);
  if (folded) return filters_to_u8<Isa, kFive, 5>(a, pixels, c0, channels);
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

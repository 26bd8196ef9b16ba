// Images on their way in and out of a convolution. In between an image is u8, pixel by pixel with all channels together:
//
//   x  [C][H][W] or [H][W][C] floats  ->  u8 [H][W][C]  ->  rows of activations, one a pixel of y  ->  y
//
// One scale and zero point serve an image; else numbers are made as everywhere (quantize.h).
#pragma once

#include <string.h>

#include "formats/int8/quantize.h"

namespace edgekern::int8 {
namespace {

template <class Of>
EK_INLINE auto with_dtype(ek_dtype dtype, Of&& of) {
  if (dtype == EK_F32) return of(Index<EK_F32>{});
  if (dtype == EK_F16) return of(Index<EK_F16>{});
  return of(Index<EK_BF16>{});
}

template <class Isa>
RowRange image_range(const void* x, ek_dtype dtype, int64_t start, int64_t count) {
  return with_dtype(dtype, [&](auto d) EK_LAMBDA_INLINE {
    constexpr ek_dtype D = static_cast<ek_dtype>(int{d});
    const char* from = static_cast<const char*>(x) + start * (D == EK_F32 ? 4 : 2);
    return find_range<typename Isa::template Range<D>, D>(from, count);
  });
}

// `count` floats side by side to u8. Writes whole steps where they fit, and nothing past the last.
template <class Isa, ek_dtype D>
EK_INLINE void round_run(const void* x, int64_t start, int64_t count, const RowScale& scale, uint8_t* q) {
  constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  const char* from = static_cast<const char*>(x) + start * (D == EK_F32 ? 4 : 2);
  round_row<Isa, D>(from, count, scale, [&](typename Isa::Bytes bytes, int64_t i) EK_LAMBDA_INLINE {
    alignas(64) uint8_t step[kStep];
    Isa::store_bytes(step, bytes);
    if (i + kStep <= count)
      memcpy(q + i, step, kStep);
    else
      memcpy(q + i, step, static_cast<size_t>(count - i));
  });
}

constexpr int64_t kPixelRun = 64;  // of a channel that are quantised before they are spread over their pixels

// Bytes of four channels to where they belong in each pixel.
EK_INLINE void spread_four(const uint8_t (&planes)[4][kPixelRun], int64_t pixels, int64_t channels, uint8_t* q) {
  alignas(64) uint8_t words[kPixelRun * 4];
  for (int64_t i = 0; i < kPixelRun; ++i)
    for (int64_t c = 0; c < 4; ++c) words[4 * i + c] = planes[c][i];
  for (int64_t i = 0; i < pixels; ++i) memcpy(q + i * channels, words + 4 * i, 4);
}

// Pixels [0, pixels) from element `start` on: side by side with all their channels where `plane` is 0, else each channel by
// itself, `plane` elements from the next.
template <class Isa>
void quantize_pixels(const void* x, ek_dtype dtype, int64_t start, int64_t plane, int64_t pixels, int64_t channels,
                     const RowScale& scale, uint8_t* q) {
  with_dtype(dtype, [&](auto d) EK_LAMBDA_INLINE {
    constexpr ek_dtype D = static_cast<ek_dtype>(int{d});
    if (plane == 0) return round_run<Isa, D>(x, start, pixels * channels, scale, q);
    alignas(64) uint8_t planes[4][kPixelRun] = {};
    for (int64_t i = 0; i < pixels; i += kPixelRun) {
      const int64_t run = min_of(kPixelRun, pixels - i);
      int64_t c = 0;
      for (; c + 4 <= channels; c += 4) {
        for (int64_t j = 0; j < 4; ++j) round_run<Isa, D>(x, start + (c + j) * plane + i, run, scale, planes[j]);
        spread_four(planes, run, channels, q + i * channels + c);
      }
      for (; c < channels; ++c) {
        round_run<Isa, D>(x, start + c * plane + i, run, scale, planes[0]);
        for (int64_t j = 0; j < run; ++j) q[(i + j) * channels + c] = planes[0][j];
      }
    }
  });
}

// The way back, of results: pixels [0, rows) of `columns` channels, ld_tile elements from one to the next, to planes of y.
template <class Word>
EK_INLINE void turn_words(const Word* tile, int64_t ld_tile, int64_t rows, int64_t columns, Word* y, int64_t plane) {
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t m = 0; m < rows; ++m) y[c * plane + m] = tile[m * ld_tile + c];
}

template <class Isa>
void store_planes(const void* tile, int64_t ld_tile, int64_t rows, int64_t columns, ek_dtype dtype, void* y, int64_t start,
                  int64_t plane) {
  if (dtype != EK_F32)
    return turn_words(static_cast<const uint16_t*>(tile), ld_tile, rows, columns, static_cast<uint16_t*>(y) + start, plane);
  constexpr int64_t kLanes = Isa::kLanes;
  const int32_t* from = static_cast<const int32_t*>(tile);
  int32_t* to = static_cast<int32_t*>(y) + start;
  const int64_t whole_rows = rows / kLanes * kLanes, whole_columns = columns / kLanes * kLanes;
  for (int64_t c = 0; c < whole_columns; c += kLanes)
    for (int64_t m = 0; m < whole_rows; m += kLanes) {
      typename Isa::I32 v[kLanes];
      unroll<Isa::kLanes>([&](auto i) EK_LAMBDA_INLINE { v[i] = Isa::load_i32(from + (m + i) * ld_tile + c); });
      Isa::transpose(v);
      unroll<Isa::kLanes>([&](auto i) EK_LAMBDA_INLINE { Isa::store_i32(to + (c + i) * plane + m, v[i]); });
    }
  turn_words(from + whole_rows * ld_tile, ld_tile, rows - whole_rows, whole_columns, to + whole_rows, plane);
  turn_words(from + whole_columns, ld_tile, rows, columns - whole_columns, to + whole_columns * plane, plane);
}

}  // namespace
}  // namespace edgekern::int8

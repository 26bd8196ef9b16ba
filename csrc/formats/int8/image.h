// Images on their way in and out of a convolution. In between an image is u8, pixel by pixel with all channels together:
//
//   x  [C][H][W] or [H][W][C] floats  ->  u8 [H][W][C]  ->  rows of activations, one a pixel of y  ->  y
//
// One scale and zero point serve an image; else numbers are made as everywhere (quantize.h). Where they are given beforehand, the
// image may hold more than they do.
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

// `count` floats side by side to u8, and nothing past the last.
template <class Isa, ek_dtype D>
EK_INLINE void round_run(const void* x, int64_t start, int64_t count, const RowScale& scale, uint8_t* q) {
  constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  const char* from = static_cast<const char*>(x) + start * (D == EK_F32 ? 4 : 2);
  round_row_within<Isa, D>(from, count, scale, [&](typename Isa::Bytes bytes, int64_t i) EK_LAMBDA_INLINE {
    if (i + kStep <= count) {
      Isa::store_bytes(q + i, bytes);
    } else {
      alignas(64) uint8_t step[kStep];
      Isa::store_bytes(step, bytes);
      copy_bytes(q + i, step, count - i);
    }
  });
}

// Up to kLanes neighbouring pixels of kParts = 4 planes: of every pixel, the bytes of these channels side by side.
template <class Isa, ek_dtype D>
EK_INLINE void round_planes(const void* x, const int64_t (&planes)[4], int64_t pixels, const RowScale& scale,
                            uint8_t (&words)[4 * Isa::kLanes]) {
  static_assert(Isa::kParts == 4);
  constexpr int64_t kBytes = D == EK_F32 ? 4 : 2;
  typename Isa::F32 v[4];
  unroll<4>([&](auto c) EK_LAMBDA_INLINE {
    if (pixels == Isa::kLanes) {
      v[c] = Isa::template load_as<D>(x, planes[c]);
    } else {
      alignas(64) char tail[Isa::kLanes * kBytes] = {};
      copy_bytes(reinterpret_cast<uint8_t*>(tail), static_cast<const uint8_t*>(x) + planes[c] * kBytes, pixels * kBytes);
      v[c] = Isa::template load_as<D>(tail, 0);
    }
  });
  Bounds<Isa>(scale.scale).hold(v);
  alignas(64) uint8_t bytes[4 * Isa::kLanes];
  Isa::store_bytes(bytes, Isa::to_bytes(v, Isa::set(scale.inverse), Isa::set_i32(scale.zero_point)));
  for (int64_t i = 0; i < Isa::kLanes; ++i)
    for (int64_t c = 0; c < 4; ++c) words[4 * i + c] = bytes[c * Isa::kLanes + i];
}

// Pixels [0, pixels) from element `start` on: side by side with all their channels where `plane` is 0, else each channel by
// itself, `plane` elements from the next.
template <class Isa>
void quantize_pixels(const void* x, ek_dtype dtype, int64_t start, int64_t plane, int64_t pixels, int64_t channels,
                     const RowScale& scale, uint8_t* q) {
  if (scale.zero) {
    memset(q, scale.zero_point, static_cast<size_t>(pixels * channels));
    return;
  }
  with_dtype(dtype, [&](auto d) EK_LAMBDA_INLINE {
    constexpr ek_dtype D = static_cast<ek_dtype>(int{d});
    if (plane == 0) return round_run<Isa, D>(x, start, pixels * channels, scale, q);
    alignas(64) uint8_t words[4 * Isa::kLanes];
    for (int64_t i = 0; i < pixels; i += Isa::kLanes) {
      const int64_t run = min_of(Isa::kLanes, pixels - i);
      for (int64_t c = 0; c < channels; c += 4) {
        int64_t planes[4];
        for (int64_t j = 0; j < 4; ++j) planes[j] = start + min_of(c + j, channels - 1) * plane + i;
        round_planes<Isa, D>(x, planes, run, scale, words);
        uint8_t* to = q + i * channels + c;
        if (c + 4 <= channels)
          for (int64_t p = 0; p < run; ++p) __builtin_memcpy(to + p * channels, words + 4 * p, 4);
        else
          for (int64_t p = 0; p < run; ++p) copy_bytes(to + p * channels, words + 4 * p, channels - c);
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
  // Squares of words. Beyond the last row and column the tile has room, and what stands there is not stored.
  constexpr int64_t kLanes = Isa::kLanes;
  const int32_t* from = static_cast<const int32_t*>(tile);
  for (int64_t c = 0; c < columns; c += kLanes)
    for (int64_t m = 0; m < rows; m += kLanes) {
      typename Isa::I32 v[kLanes];
      unroll<Isa::kLanes>([&](auto i) EK_LAMBDA_INLINE { v[i] = Isa::load_i32(from + (m + i) * ld_tile + c); });
      Isa::transpose(v);
      const int64_t left = min_of(kLanes, rows - m);
      unroll<Isa::kLanes>([&](auto i) EK_LAMBDA_INLINE {
        if (c + i < columns) Isa::template store_as<EK_F32>(y, start + (c + i) * plane + m, Isa::as_f32(v[i]), left);
      });
    }
}

}  // namespace
}  // namespace edgekern::int8

// Activations for the block forms: rows are quantised as everywhere (quantize.h), then turned, so that a vector holds the
// same few k of neighbouring rows. blocks::Tiles has the picture.
#pragma once

#include "formats/blocks/row_tile.h"
#include "formats/int8/quantize.h"

namespace edgekern::int8 {
namespace {

// kLanes rows from m0 on into their tile. read(r, i, bytes) gives row m0 + r's kStep values from k = i on, as u8.
template <class Isa, class Read>
EK_INLINE void fill_tiles(int64_t k, int64_t m0, int64_t rows, const int32_t (&zero_point)[Isa::kLanes], const LhsTiles& out,
                          Read&& read) {
  constexpr int64_t kLanes = Isa::kLanes, kStep = Isa::kParts * kLanes, kDepth = Isa::kBlockOrder.line_depth;
  static_assert(kStep / kDepth % kLanes == 0);
  blocks::RowTile tile = blocks::tile_of(out.tiles, m0);
  int32_t* to = out.data + tile.start * out.tiles.depth + m0 - tile.start;
  alignas(64) uint8_t bytes[kLanes][kStep] = {};
  for (int64_t i = 0; i < k; i += kStep) {
    for (int64_t r = 0; r < rows; ++r) read(r, i, bytes[r]);
    for (int64_t b = 0; b < kStep / kDepth; b += kLanes) {
      typename Isa::I32 v[kLanes];
      unroll<Isa::kLanes>([&](auto r) EK_LAMBDA_INLINE { v[r] = Isa::spread_blocks(bytes[r] + b * kDepth, zero_point[r]); });
      Isa::transpose(v);
      unroll<Isa::kLanes>([&](auto j) EK_LAMBDA_INLINE { Isa::store_i32(to + (i / kDepth + b + j) * tile.width, v[j]); });
    }
  }
}

// What is left to subtract from the sums, where the tiles hold activations with their zero point.
template <class Isa>
constexpr int32_t owed_zero_point(int32_t zero_point) {
  if constexpr (Isa::kBlockOrder.line_depth == 2)
    return 0;
  else
    return zero_point - Isa::kBlockZeroOffset;
}

// How a row's values are held within a range that was found beforehand; where each row has its own, nothing needs to be.
template <class Isa, bool kGiven>
struct RowGuard {
  EK_INLINE void hold(const Bounds<Isa>&, typename Isa::F32 (&)[Isa::kParts]) {}
  EK_INLINE bool finite() const { return true; }
};
template <class Isa>
struct RowGuard<Isa, true> {
  Poison<Isa> poison;

  EK_INLINE void hold(const Bounds<Isa>& bounds, typename Isa::F32 (&v)[Isa::kParts]) {
    poison.look_at(v);
    bounds.hold(v);
  }
  EK_INLINE bool finite() const { return poison.none(); }
};

template <class Isa, ek_dtype D, bool kGiven>
void quantize_tiles_as(const void* x, int64_t ld_x, int64_t k, const ek_int8_range* range, int64_t m0, int64_t m1,
                       const LhsTiles& out) {
  constexpr int64_t kBytes = D == EK_F32 ? 4 : 2;
  using F32 = typename Isa::F32;
  const Bounds<Isa> bounds(kGiven ? range->scale : 1.0f);
  for (int64_t m = m0; m < m1; m += Isa::kLanes) {
    int64_t rows = min_of(Isa::kLanes, m1 - m);
    const char* row = static_cast<const char*>(x) + m * ld_x * kBytes;
    RowScale scale[Isa::kLanes];
    RowGuard<Isa, kGiven> guards[Isa::kLanes];
    int32_t zero_point[Isa::kLanes] = {};
    for (int64_t r = 0; r < rows; ++r) {
      if constexpr (kGiven)
        scale[r] = scale_of(*range);
      else
        scale[r] = scale_of(find_range<typename Isa::template Range<D>, D>(row + r * ld_x * kBytes, k));
      zero_point[r] = scale[r].zero_point;
      out.scale[m + r] = scale[r].scale;
      out.zero_point[m + r] = owed_zero_point<Isa>(zero_point[r]);
    }
    fill_tiles<Isa>(k, m, rows, zero_point, out, [&](int64_t r, int64_t i, uint8_t* bytes) EK_LAMBDA_INLINE {
      if (scale[r].zero) return;  // bytes are zero, and stay so
      F32 v[Isa::kParts];
      load_parts<Isa, D>(row + r * ld_x * kBytes, i, k, v);
      guards[r].hold(bounds, v);
      Isa::store_bytes(bytes, Isa::to_bytes(v, Isa::set(scale[r].inverse), Isa::set_i32(scale[r].zero_point)));
    });
    for (int64_t r = 0; r < rows; ++r)
      if (!guards[r].finite()) out.scale[m + r] = kNoScale.scale;
  }
}

template <class Isa, bool kGiven>
void quantize_tiles_by(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, const ek_int8_range* range, int64_t m0,
                       int64_t m1, const LhsTiles& out) {
  if (dtype == EK_F32) return quantize_tiles_as<Isa, EK_F32, kGiven>(x, ld_x, k, range, m0, m1, out);
  if (dtype == EK_F16) return quantize_tiles_as<Isa, EK_F16, kGiven>(x, ld_x, k, range, m0, m1, out);
  return quantize_tiles_as<Isa, EK_BF16, kGiven>(x, ld_x, k, range, m0, m1, out);
}

template <class Isa>
void quantize_tiles(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, const ek_int8_range* range, int64_t m0, int64_t m1,
                    const LhsTiles& out) {
  if (range == nullptr) return quantize_tiles_by<Isa, false>(x, dtype, ld_x, k, range, m0, m1, out);
  quantize_tiles_by<Isa, true>(x, dtype, ld_x, k, range, m0, m1, out);
}

template <class Isa>
void load_tiles_u8(const uint8_t* q, int64_t ld_q, const int32_t* zero_points, int64_t k, int64_t m0, int64_t m1,
                   const LhsTiles& out) {
  constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  for (int64_t m = m0; m < m1; m += Isa::kLanes) {
    int64_t rows = min_of(Isa::kLanes, m1 - m);
    int32_t zero_point[Isa::kLanes] = {};
    for (int64_t r = 0; r < rows; ++r) {
      zero_point[r] = zero_points[m + r];
      out.zero_point[m + r] = owed_zero_point<Isa>(zero_point[r]);
    }
    fill_tiles<Isa>(k, m, rows, zero_point, out, [&](int64_t r, int64_t i, uint8_t* bytes) EK_LAMBDA_INLINE {
      const uint8_t* from = q + (m + r) * ld_q + i;
      if (i + kStep <= k)
        Isa::store_bytes(bytes, Isa::load_bytes(from));
      else
        copy_bytes(bytes, from, k - i);
    });
  }
}

}  // namespace
}  // namespace edgekern::int8

// Activations by kept f16 weights, in one of two ways:
//
//   where an ISA multiplies halves (Isa::Halves)   a row of lhs is scaled by a power of two, rounded to f16 and turned; products
//                                                  are f16 fused multiply-adds, eight a vector, and sums of 64 are added up
//                                                  in f32 (layout.h: they cannot overflow)
//   elsewhere                                      as f32's, by weights that are widened where they are loaded, if the ISA
//                                                  multiplies by lanes of a register (Isa::load_f16_weights), or else a
//                                                  group at a time beforehand, since spreading a word is then part of a load
#pragma once

#include "formats/f16/layout.h"
#include "formats/f32/spmm.h"
#include "formats/int8/quantize.h"

namespace edgekern::f16 {
namespace {

template <class Isa>
concept MultipliesHalves = requires { typename Isa::Halves; };
template <class Isa>
concept WidensWeights = requires(const uint16_t* p) { Isa::template load_f16_weights<1, 1>(p); };

// A group's weights are made f32 before they are multiplied.
template <class Isa>
struct Expanded {
  using Word = float;
  using Weight = uint16_t;
  using Sum = float;
  static constexpr int64_t kMostBlocks = 0;
  static constexpr int kLanes = Isa::kLanes;

  template <int R>
  struct Scratch {
    float words[kLanes + R * blocks::longest_panel(R)];
  };
  // In whole vectors from the last weight on backwards: what is read too much stands before them, in the packed matrix.
  template <int R>
  static EK_INLINE const float* open(const uint16_t* p, int64_t count, Scratch<R>& scratch) {
    for (int64_t i = count - kLanes; i > -kLanes; i -= kLanes)
      Isa::template store_as<EK_F32>(scratch.words, kLanes + i, Isa::template load_as<EK_F16>(p, i));
    return scratch.words + kLanes;
  }
};

template <class Isa>
struct Product : f32::Product<Isa, Expanded<Isa>> {};

template <WidensWeights Isa>
struct Product<Isa> : f32::Product<Isa, blocks::AsPacked<float, uint16_t>> {
  template <int R, int B>
  static EK_INLINE auto load_weights(const uint16_t* p) {
    return Isa::template load_f16_weights<R, B>(p);
  }
};

template <MultipliesHalves Isa>
struct Product<Isa> : blocks::AsPacked<uint16_t, uint16_t, float> {
  static constexpr int64_t kMostBlocks = f16::kMostBlocks;
  using Halves = typename Isa::Halves;
  using Vector = typename Halves::Vector;
  static constexpr int kLanes = Halves::kLanes;

  static EK_INLINE Vector load(const uint16_t* p) { return Halves::load(p); }
  static EK_INLINE void store(uint16_t* p, Vector v) { Halves::store(p, v); }
  static EK_INLINE void transpose(Vector (&v)[kLanes]) { Halves::transpose(v); }

  using Acc = Vector;
  static EK_INLINE Acc zero() { return Halves::zero(); }
  static EK_INLINE Acc merge(Acc a, Acc b) { return Halves::add(a, b); }
  template <int R, int B>
  static EK_INLINE auto load_weights(const uint16_t* p) {
    return Halves::template load_weights<R, B>(p);
  }
  template <int kWeight, class Weights>
  static EK_INLINE Acc multiply(Acc acc, Vector a, const Weights& weights) {
    return Halves::template multiply<kWeight>(acc, a, weights);
  }
  static constexpr int vectors(int channels) { return Isa::f32_vectors(channels); }
  static constexpr int phases(int channels, int vectors) { return f32::Product<Isa>::phases(channels, vectors); }

  struct Sums {
    typename Isa::F32 low, high;
  };
  static EK_INLINE Sums sum(Acc acc) { return {Halves::low(acc), Halves::high(acc)}; }
  static EK_INLINE Sums load(const float* p) { return {Isa::load(p), Isa::load(p + Isa::kLanes)}; }
  static EK_INLINE void store(float* p, Sums v) {
    Isa::template store_as<EK_F32>(p, 0, v.low);
    Isa::template store_as<EK_F32>(p, Isa::kLanes, v.high);
  }
  static EK_INLINE Sums add(Sums a, Sums b) { return {Isa::add(a.low, b.low), Isa::add(a.high, b.high)}; }
};

struct LhsScale {
  float scale, inverse;
};

EK_INLINE LhsScale lhs_scale_of(int8::RowRange range) {
  if (!range.finite) return {__builtin_nanf(""), 0.0f};  // makes NaN of the row's outputs
  float largest = range.high > -range.low ? range.high : -range.low;
  if (largest < 7.8886090522101181e-31f) return {1.0f, 0.0f};  // 2^-100: as zero
  float scale = power_of_two(largest) * (1 / kLhsHeadroom);
  return {scale, 1.0f / scale};
}

template <class Isa, ek_dtype D>
void load_halves_as(const void* x, int64_t ld_x, int64_t k, int64_t m0, int64_t m1, const floats::LhsTiles& out) {
  constexpr int64_t kBytes = D == EK_F32 ? 4 : 2;
  using Tile = Product<Isa>;
  for (int64_t m = m0; m < m1; m += Tile::kLanes) {
    int64_t rows = min_of(Tile::kLanes, m1 - m);
    const char* from = static_cast<const char*>(x) + m * ld_x * kBytes;
    float inverse[Tile::kLanes] = {};
    for (int64_t r = 0; r < rows; ++r) {
      LhsScale scale = lhs_scale_of(int8::find_range<typename Isa::template Range<D>, D>(from + r * ld_x * kBytes, k));
      out.row_scale[m + r] = scale.scale;
      inverse[r] = scale.inverse;
    }
    blocks::RowTile tile = blocks::tile_of(out.tiles, m);
    uint16_t* to = static_cast<uint16_t*>(out.data) + tile.start * out.tiles.depth + m - tile.start;
    f32::turn_rows<Tile, D>(from, ld_x * kBytes, k, rows, to, tile.width,
                            [&](const char* row, int64_t i, int r) EK_LAMBDA_INLINE {
                              typename Isa::F32 by = Isa::set(inverse[r]);
                              return Isa::Halves::round(Isa::mul(Isa::template load_as<D>(row, i), by),
                                                        Isa::mul(Isa::template load_as<D>(row, i + Isa::kLanes), by));
                            });
  }
}

template <class Isa>
void load_tiles(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, int64_t m0, int64_t m1, const floats::LhsTiles& out) {
  if constexpr (!MultipliesHalves<Isa>) {
    f32::load_tiles<Isa>(x, dtype, ld_x, k, m0, m1, out);
  } else {
    if (dtype == EK_F32) return load_halves_as<Isa, EK_F32>(x, ld_x, k, m0, m1, out);
    if (dtype == EK_F16) return load_halves_as<Isa, EK_F16>(x, ld_x, k, m0, m1, out);
    return load_halves_as<Isa, EK_BF16>(x, ld_x, k, m0, m1, out);
  }
}

// Sums [channels][w] of a tile on their way out.
struct FinishTurnedArgs {
  const float* sums;
  int64_t w;
  const float* row_scale;  // of the tile's rows, or null where none was scaled
  const float* scale;      // of the tile's channels, as is the next
  const float* bias;
  TileOut to;
};

template <class Isa, ek_dtype D, ek_activation A>
void finish_turned(const FinishTurnedArgs& args) {
  using F32 = typename Isa::F32;
  const FinishTurnedArgs f = args;  // see TileOut
  blocks::store_turned<Isa, f32::Product<Isa>, D, A>(f.sums, f.w, f.to, [&](int64_t c) EK_LAMBDA_INLINE {
    F32 scale = Isa::load(f.scale + c), bias = Isa::load(f.bias + c);
    return [&f, scale, bias](F32 sum, int64_t m) EK_LAMBDA_INLINE {
      // By the channel's first: a tiny row's scale could bring a sum below what f32 holds.
      return Isa::fma(Isa::mul(sum, scale), Isa::set(f.row_scale == nullptr ? 1.0f : f.row_scale[m]), bias);
    };
  });
}

template <class Isa, int R>
void spmm(const floats::SpmmArgs<uint16_t>& args, int64_t m0, int64_t w, int64_t p0, int64_t p1) {
  using Finish = void (*)(const FinishTurnedArgs&);
  using Tile = Product<Isa>;
  const Output& output = args.output;
  Finish finish = choose_output(output.dtype, output.activation,
                                [](auto dtype, auto activation) -> Finish { return finish_turned<Isa, dtype, activation>; });
  int64_t rows = min_of(w, args.lhs.tiles.rows - m0);
  const float* row_scale = MultipliesHalves<Isa> ? args.lhs.row_scale + m0 : nullptr;
  blocks::multiply<R, Tile::vectors(R) * Tile::kLanes>(
      args.rhs, blocks::choose_accumulate<Tile, R>(w / Tile::kLanes),
      static_cast<const typename Tile::Word*>(args.lhs.data) + m0 * args.lhs.tiles.depth, w, p0, p1,
      [&](const float* sums, int64_t n0, int64_t channels) {
        finish({sums,
                w,
                row_scale,
                args.scale + n0,
                args.bias + n0,
                {output.y, m0 * output.ld_y + n0, output.ld_y, rows, channels}});
      });
}

}  // namespace
}  // namespace edgekern::f16

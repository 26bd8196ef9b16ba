// The block forms' product: int32 sums of u8 activations by the words of formats/int8/blocks.h.
#pragma once

#include "formats/blocks/spmm.h"
#include "formats/int8/finish.h"
#include "formats/int8/quantize_tiles.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int8 {
namespace {

template <class Isa>
struct BlockProduct : blocks::AsPacked<int32_t> {
  using Vector = typename Isa::I32;
  static constexpr int kLanes = Isa::kLanes;
  static EK_INLINE Vector load(const int32_t* p) { return Isa::load_i32(p); }
  static EK_INLINE void store(int32_t* p, Vector v) { Isa::store_i32(p, v); }
  static EK_INLINE Vector add(Vector a, Vector b) { return Isa::add_i32(a, b); }
  static EK_INLINE void transpose(Vector (&v)[kLanes]) { Isa::transpose(v); }

  using Acc = typename Isa::BlockAcc;
  static EK_INLINE Acc zero() { return Isa::block_zero(); }
  static EK_INLINE Acc merge(Acc a, Acc b) { return Isa::merge_blocks(a, b); }
  static EK_INLINE Vector sum(Acc acc) { return Isa::block_sum(acc); }
  template <int R, int B>
  static EK_INLINE auto load_weights(const int32_t* p) {
    return Isa::template load_weights<R, B>(p);
  }
  template <int kWeight, class Weights>
  static EK_INLINE Acc multiply(Acc acc, Vector a, const Weights& weights) {
    return Isa::template multiply_block<kWeight>(acc, a, weights);
  }
  static constexpr int vectors(int channels) { return Isa::block_vectors(channels); }
  static constexpr int phases(int channels, int vectors) { return Isa::block_phases(channels, vectors); }
};

// Sums [channels][w] of a tile on their way out.
struct FinishTurnedArgs {
  const int32_t* sums;
  int64_t w;
  const float* lhs_scale;     // [rows]
  const int32_t* zero_point;  // [rows]
  const int32_t* column_sum;  // [columns], as are the next
  const float* rhs_scale;
  const float* bias;
  TileOut to;
};

// value(sums, m, c): what y is of the exact sums of row m, kLanes channels from c on.
template <class Isa, ek_dtype D, ek_activation A, class Value>
EK_INLINE void store_sums(const FinishTurnedArgs& args, Value&& value_of) {
  using I32 = typename Isa::I32;
  const FinishTurnedArgs f = args;  // see TileOut
  blocks::store_turned<Isa, BlockProduct<Isa>, D, A>(f.sums, f.w, f.to, [&](int64_t c) EK_LAMBDA_INLINE {
    auto value = value_of(f, c);
    I32 column_sum = Isa::load_i32(f.column_sum + c);
    return [&f, value, column_sum](I32 sum, int64_t m) EK_LAMBDA_INLINE {
      if constexpr (Isa::kBlockOrder.line_depth == 4)
        sum = Isa::sub_i32(sum, Isa::mul_i32(Isa::set_i32(f.zero_point[m]), column_sum));
      return value(sum, m);
    };
  });
}

template <class Isa, ek_dtype D, ek_activation A>
void finish_turned(const FinishTurnedArgs& args) {
  using F32 = typename Isa::F32;
  store_sums<Isa, D, A>(args, [](const FinishTurnedArgs& f, int64_t c) EK_LAMBDA_INLINE {
    F32 rhs_scale = Isa::load(f.rhs_scale + c), bias = Isa::load(f.bias + c);
    return [&f, rhs_scale, bias](typename Isa::I32 sum, int64_t m)
               EK_LAMBDA_INLINE { return Isa::fma(Isa::to_f32(sum), Isa::mul(Isa::set(f.lhs_scale[m]), rhs_scale), bias); };
  });
}

template <class Isa>
void store_turned_integers(const FinishTurnedArgs& args) {
  store_sums<Isa, EK_F32, EK_NONE>(args, [](const FinishTurnedArgs&, int64_t) EK_LAMBDA_INLINE {
    return [](typename Isa::I32 sum, int64_t) EK_LAMBDA_INLINE { return Isa::as_f32(sum); };
  });
}

// The sums of kLanes rows from m on as the dense kernels leave them: rows of a tile, less what zero points owe.
template <class Isa>
__attribute__((noinline)) void turn_sums(const FinishTurnedArgs& f, int64_t m, int32_t* tile) {
  for (int64_t c = 0; c < f.to.columns; c += Isa::kLanes) {
    typename Isa::I32 v[Isa::kLanes], column_sum = Isa::load_i32(f.column_sum + c);
    unroll<Isa::kLanes>([&](auto j) EK_LAMBDA_INLINE { v[j] = Isa::load_i32(f.sums + (c + j) * f.w + m); });
    Isa::transpose(v);
    unroll<Isa::kLanes>([&](auto r) EK_LAMBDA_INLINE {
      if constexpr (Isa::kBlockOrder.line_depth == 4)
        v[r] = Isa::sub_i32(v[r], Isa::mul_i32(Isa::set_i32(f.zero_point[m + r]), column_sum));
      Isa::store_i32(tile + r * kTileColumns + c, v[r]);
    });
  }
}

// To u8, of which a row's 64 channels are stored at once: through such a tile, and then as the dense kernels do.
template <class Isa, ek_activation A>
void finish_turned_u8(const FinishTurnedArgs& f) {
  alignas(64) int32_t tile[Isa::kLanes * kTileColumns];
  for (int64_t m = 0; m < f.to.rows; m += Isa::kLanes) {
    turn_sums<Isa>(f, m, tile);
    FinishArgs rows{tile, nullptr, f.lhs_scale + m, f.rhs_scale, f.bias, f.to};
    rows.to.start += m * f.to.ld_y;
    rows.to.rows = min_of(Isa::kLanes, f.to.rows - m);
    f.to.u8.folded ? finish_folded<Isa>(rows) : finish<Isa, EK_U8, A>(rows);
  }
}

using FinishTurned = void (*)(const FinishTurnedArgs&);

template <class Isa>
FinishTurned choose_finish_turned(const Output& output) {
  if (output.integers) return store_turned_integers<Isa>;
  if (output.dtype == EK_U8)
    return choose_activation<EK_U8>(output.activation,
                                    [](auto, auto activation) -> FinishTurned { return finish_turned_u8<Isa, activation>; });
  return choose_output(output.dtype, output.activation,
                       [](auto dtype, auto activation) -> FinishTurned { return finish_turned<Isa, dtype, activation>; });
}

// y of a tile, whatever accumulates its sums.
template <class Isa, int R, int kTileWords>
EK_INLINE void multiply_tile(const SpmmArgs& args, blocks::Accumulate<int32_t> accumulate_panel, int64_t m0, int64_t w,
                             int64_t p0, int64_t p1) {
  FinishTurned finish_tile = choose_finish_turned<Isa>(args.output);
  const LhsTiles& lhs = args.lhs;
  int64_t rows = min_of(w, lhs.tiles.rows - m0), ld_y = args.output.ld_y;
  blocks::multiply<R, kTileWords>(args.rhs, accumulate_panel, lhs.data + m0 * lhs.tiles.depth, w, p0, p1,
                                  [&](const int32_t* sums, int64_t n0, int64_t channels) {
                                    finish_tile({sums,
                                                 w,
                                                 lhs.scale + m0,
                                                 lhs.zero_point + m0,
                                                 args.column_sum + n0,
                                                 args.scale + n0,
                                                 args.bias + n0,
                                                 {args.output.y, m0 * ld_y + n0, ld_y, rows, channels, args.output.u8}});
                                  });
}

template <class Isa, int R>
void spmm(const SpmmArgs& args, int64_t m0, int64_t w, int64_t p0, int64_t p1) {
  using Product = BlockProduct<Isa>;
  auto accumulate_panel = blocks::choose_accumulate<Product, R>(w / Isa::kLanes);
  multiply_tile<Isa, R, Product::vectors(R) * Isa::kLanes>(args, accumulate_panel, m0, w, p0, p1);
}

}  // namespace
}  // namespace edgekern::int8

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

// y of a tile, whatever accumulates its sums.
template <class Isa, int R, int kTileWords>
EK_INLINE void multiply_tile(const SpmmArgs& args, blocks::Accumulate<int32_t> accumulate_panel, int64_t m0, int64_t w,
                             int64_t p0, int64_t p1) {
  using Product = BlockProduct<Isa>;
  Finish finish_tile = choose_finish<Isa>(args.output);
  const LhsTiles& lhs = args.lhs;
  int64_t rows = min_of(w, lhs.tiles.rows - m0);
  blocks::multiply<Isa, R, kTileWords>(
      args.rhs, accumulate_panel, lhs.data + m0 * lhs.tiles.depth, w, p0, p1,
      [&](const int32_t* sums, int64_t n0, int64_t channels) {
        auto subtract_zero_points = [&](typename Isa::I32(&v)[Isa::kLanes], int64_t m, int64_t c) EK_LAMBDA_INLINE {
          if constexpr (Isa::kBlockOrder.line_depth == 4) {
            typename Isa::I32 column_sum = Isa::load_i32(args.column_sum + n0 + c);
            unroll<Isa::kLanes>([&](auto r) EK_LAMBDA_INLINE {
              int32_t zero_point = m + r < rows ? lhs.zero_point[m0 + m + r] : 0;
              v[r] = Isa::sub_i32(v[r], Isa::mul_i32(Isa::set_i32(zero_point), column_sum));
            });
          }
        };
        blocks::turn_sums<Product>(
            sums, w, rows, channels, subtract_zero_points, [&](const int32_t* tile, int64_t m, int64_t count) {
              finish_tile({tile,
                           nullptr,
                           lhs.scale + m0 + m,
                           args.scale + n0,
                           args.bias + n0,
                           {args.output.y, (m0 + m) * args.output.ld_y + n0, args.output.ld_y, count, channels}});
            });
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

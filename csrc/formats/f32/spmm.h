// f32 activations by kept f32 weights.
//
//   load_tiles   rows of lhs, of any dtype, to f32, turned so that a vector holds one k of neighbouring rows
//   spmm         fused multiply-adds of the kept blocks (formats/blocks/spmm.h), then bias, activation, dtype
#pragma once

#include <string.h>

#include "base/math.h"
#include "formats/blocks/row_tile.h"
#include "formats/blocks/spmm.h"
#include "formats/finish.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::f32 {
namespace {

// Types: Word, Weight, Sum, Scratch and open, which for weights that are packed as something else are not these.
template <class Isa, class Types = blocks::AsPacked<float>>
struct Product : Types {
  using Vector = typename Isa::F32;
  static constexpr int kLanes = Isa::kLanes;
  static EK_INLINE Vector load(const float* p) { return Isa::load(p); }
  static EK_INLINE void store(float* p, Vector v) { Isa::template store_as<EK_F32>(p, 0, v); }
  static EK_INLINE Vector add(Vector a, Vector b) { return Isa::add(a, b); }
  static EK_INLINE void transpose(Vector (&v)[kLanes]) {
    typename Isa::I32 bits[kLanes];
    unroll<kLanes>([&](auto i) EK_LAMBDA_INLINE { bits[i] = Isa::as_i32(v[i]); });
    Isa::transpose(bits);
    unroll<kLanes>([&](auto i) EK_LAMBDA_INLINE { v[i] = Isa::as_f32(bits[i]); });
  }

  using Acc = Vector;
  static EK_INLINE Acc zero() { return Isa::set(0.0f); }
  static EK_INLINE Acc merge(Acc a, Acc b) { return Isa::add(a, b); }
  static EK_INLINE Vector sum(Acc acc) { return acc; }
  template <int R, int B>
  static EK_INLINE auto load_weights(const float* p) {
    return Isa::template load_f32_weights<R, B>(p);
  }
  template <int kWeight, class Weights>
  static EK_INLINE Acc multiply(Acc acc, Vector a, const Weights& weights) {
    return Isa::template multiply_f32<kWeight>(acc, a, weights);
  }
  static constexpr int vectors(int channels) { return Isa::f32_vectors(channels); }
  // Eight chains hide the latency of two fused multiply-adds a cycle; with fewer the remainder costs more than it saves.
  static constexpr int phases(int channels, int vectors) {
    return channels * vectors >= 8 ? 1 : channels * vectors >= 4 ? 2 : 4;
  }
};

// vector(row, i, r) for the last values of a row, from i on, where past k there is perhaps no memory.
template <class Tile, ek_dtype D, class MakeVector>
EK_INLINE typename Tile::Vector tail_of(const char* row, int64_t i, int64_t k, int r, MakeVector&& vector) {
  constexpr int64_t kBytes = D == EK_F32 ? 4 : 2;
  alignas(64) char tail[Tile::kLanes * kBytes] = {};
  memcpy(tail, row + i * kBytes, static_cast<size_t>((k - i) * kBytes));
  return vector(static_cast<const char*>(tail), 0, r);
}

// kLanes rows of k values at x, of which `rows` exist, into their columns of a tile. vector(row, i, r) makes the kLanes values
// from i on of row number r, which is at `row`.
template <class Tile, ek_dtype D, class MakeVector>
EK_INLINE void turn_rows(const char* x, int64_t row_bytes, int64_t k, int64_t rows, typename Tile::Word* to, int64_t width,
                         MakeVector&& vector) {
  constexpr int kLanes = Tile::kLanes;
  typename Tile::Vector v[kLanes];
  // Rows that do not exist are the last one once more: what becomes of them goes nowhere.
  auto row = [&](int64_t r) EK_LAMBDA_INLINE { return x + min_of(r, rows - 1) * row_bytes; };
  auto turn = [&](int64_t i) EK_LAMBDA_INLINE {
    Tile::transpose(v);
    unroll<kLanes>([&](auto j) EK_LAMBDA_INLINE { Tile::store(to + (i + j) * width, v[j]); });
  };
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) {
    unroll<kLanes>([&](auto r) EK_LAMBDA_INLINE { v[r] = vector(row(r), i, r); });
    turn(i);
  }
  if (i == k) return;
  unroll<kLanes>([&](auto r) EK_LAMBDA_INLINE { v[r] = tail_of<Tile, D>(row(r), i, k, r, vector); });
  turn(i);
}

template <class Isa, ek_dtype D>
void load_tiles_as(const void* x, int64_t ld_x, int64_t k, int64_t m0, int64_t m1, const floats::LhsTiles& out) {
  constexpr int64_t kBytes = D == EK_F32 ? 4 : 2;
  for (int64_t m = m0; m < m1; m += Isa::kLanes) {
    blocks::RowTile tile = blocks::tile_of(out.tiles, m);
    float* to = static_cast<float*>(out.data) + tile.start * out.tiles.depth + m - tile.start;
    turn_rows<Product<Isa>, D>(
        static_cast<const char*>(x) + m * ld_x * kBytes, ld_x * kBytes, k, min_of(Isa::kLanes, m1 - m), to, tile.width,
        [](const char* row, int64_t i, int) EK_LAMBDA_INLINE { return Isa::template load_as<D>(row, i); });
  }
}

template <class Isa>
void load_tiles(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, int64_t m0, int64_t m1, const floats::LhsTiles& out) {
  if (dtype == EK_F32) return load_tiles_as<Isa, EK_F32>(x, ld_x, k, m0, m1, out);
  if (dtype == EK_F16) return load_tiles_as<Isa, EK_F16>(x, ld_x, k, m0, m1, out);
  return load_tiles_as<Isa, EK_BF16>(x, ld_x, k, m0, m1, out);
}

template <class Isa, ek_dtype D, ek_activation A>
void finish_turned(const float* sums, int64_t w, const float* bias, TileOut to) {
  using F32 = typename Isa::F32;
  blocks::store_turned<Isa, Product<Isa>, D, A>(sums, w, to, [bias](int64_t c) EK_LAMBDA_INLINE {
    return [bias = Isa::load(bias + c)](F32 sum, int64_t) EK_LAMBDA_INLINE { return Isa::add(sum, bias); };
  });
}

template <class Isa, int R>
void spmm(const floats::SpmmArgs<float>& args, int64_t m0, int64_t w, int64_t p0, int64_t p1) {
  using Finish = void (*)(const float* sums, int64_t w, const float* bias, TileOut to);
  const Output& output = args.output;
  Finish finish = choose_output(output.dtype, output.activation,
                                [](auto dtype, auto activation) -> Finish { return finish_turned<Isa, dtype, activation>; });
  using Tile = Product<Isa>;
  int64_t rows = min_of(w, args.lhs.tiles.rows - m0);
  blocks::multiply<R, Tile::vectors(R) * Tile::kLanes>(
      args.rhs, blocks::choose_accumulate<Tile, R>(w / Tile::kLanes),
      static_cast<const float*>(args.lhs.data) + m0 * args.lhs.tiles.depth, w, p0, p1,
      [&](const float* sums, int64_t n0, int64_t channels) {
        finish(sums, w, args.bias + n0, {output.y, m0 * output.ld_y + n0, output.ld_y, rows, channels});
      });
}

}  // namespace
}  // namespace edgekern::f32

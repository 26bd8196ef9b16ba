// EK_INT8_CSR: the products of weights at any k, D of one output channel at a time (D = Isa::kBlockOrder.line_depth).
//
// A dot product wants its D values of k side by side, which in memory only neighbours are. So activations stand in planes, one
// for each k, and those of a word's D weights are joined where they are multiplied:
//
//   plane of k      | r0 r1 r2 ... r(w-1) |      a byte a row (D = 4) or an s16 (D = 2) for the w rows of a tile
//   join            D vectors of D planes -> D vectors of kLanes rows each, with D values of k side by side: interleaving
//                   twice (D = 4) or once (D = 2), in the order of rows that split_words left in the planes
//
// For 4 weights x 64 rows AVX-512 takes 4 loads, 8 interleavings and 4 products. A mask without structure keeps 3 to 3.4 times
// as many products in blocks of four neighbours, at 80 and 90 % zeros, so this is less work on CPUs that interleave as fast
// as they multiply, whatever the mask looks like. Blocks are better where neighbours are zero together.
//
// A tile of few rows has planes of one vector or less. Where they are less, parts of D planes are joined to one vector of kLanes
// rows, as it is done for 16 rows in AVX-512: 4 loads and inserts, 2 permutations and a product for 4 weights x 16 rows.
//
// Register budget: D x kCsrUnroll accumulators, D planes while they are joined, one weight.
#pragma once

#include "formats/int8/spmm.h"

namespace edgekern::int8 {
namespace {

// Rows of a tile whose planes are one vector; the widest tile has kCsrUnroll times as many, the narrowest those of one vector of
// sums, where parts of planes can be joined.
template <class Isa>
constexpr int64_t kPlaneRows = Isa::kBlockOrder.line_depth * Isa::kLanes;
template <class Isa>
constexpr int64_t kCsrRows = Isa::kCsrUnroll * kPlaneRows<Isa>;
template <class Isa>
constexpr int64_t kCsrNarrowest = Isa::kJoinsParts ? Isa::kLanes : kPlaneRows<Isa>;

// visit(U) for the width of a tile in vectors a plane, or visit_parts(V) for its width in vectors of sums; both are Index.
template <class Isa, class Visit, class VisitParts>
EK_INLINE void at_width(int64_t w, Visit&& visit, VisitParts&& visit_parts) {
  unroll<3>([&](auto log2) EK_LAMBDA_INLINE {
    constexpr int kWidth = 1 << log2;
    if constexpr (kWidth <= Isa::kCsrUnroll)
      if (w == kWidth * kPlaneRows<Isa>) visit(Index<kWidth>{});
    if constexpr (Isa::kJoinsParts && kWidth < Isa::kBlockOrder.line_depth)
      if (w == kWidth * Isa::kLanes) visit_parts(Index<kWidth>{});
  });
}

// The words of D neighbouring k, of all rows of a tile, to their planes: as many bytes.
template <class Isa, int U>
EK_INLINE void split_words(int32_t* words) {
  constexpr int D = Isa::kBlockOrder.line_depth;
  typename Isa::I32 v[U][D];
  unroll<U>([&](auto u) EK_LAMBDA_INLINE {
    unroll<D>([&](auto d) EK_LAMBDA_INLINE { v[u][d] = Isa::load_i32(words + (u * D + d) * Isa::kLanes); });
    Isa::split_words(v[u]);
  });
  unroll<U>([&](auto u) EK_LAMBDA_INLINE {
    unroll<D>([&](auto d) EK_LAMBDA_INLINE { Isa::store_i32(words + (d * U + u) * Isa::kLanes, v[u][d]); });
  });
}

template <class Isa, int V>
EK_INLINE void split_parts(int32_t* words) {
  constexpr int D = Isa::kBlockOrder.line_depth;
  constexpr int64_t kPart = Isa::kLanes / D;
  alignas(64) int32_t parts[V][Isa::kLanes];
  unroll<V>([&](auto v)
                EK_LAMBDA_INLINE { Isa::store_i32(parts[v], Isa::split_word(Isa::load_i32(words + v * Isa::kLanes))); });
  unroll<D>([&](auto d) EK_LAMBDA_INLINE {
    unroll<V>([&](auto v)
                  EK_LAMBDA_INLINE { memcpy(words + (d * V + v) * kPart, parts[v] + d * kPart, kPart * sizeof(int32_t)); });
  });
}

// Tiles of blocks to planes, in place.
template <class Isa>
void split_tiles(int64_t k, int64_t m0, int64_t m1, const LhsTiles& out) {
  const int64_t blocks = ceil_div(k, Isa::kBlockOrder.line_depth);
  for (blocks::RowTile tile{m0, 0}; tile.start < m1; tile.start += tile.width) {
    tile = blocks::tile_of(out.tiles, tile.start);
    int32_t* words = out.data + tile.start * out.tiles.depth;
    at_width<Isa>(
        tile.width,
        [&](auto u) EK_LAMBDA_INLINE {
          for (int64_t i = 0; i < blocks; ++i) split_words<Isa, u>(words + i * tile.width);
        },
        [&](auto v) EK_LAMBDA_INLINE {
          if constexpr (Isa::kJoinsParts)
            for (int64_t i = 0; i < blocks; ++i) split_parts<Isa, v>(words + i * tile.width);
        });
  }
}

template <class Isa>
void quantize_planes(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, const ek_int8_range* range, int64_t m0, int64_t m1,
                     const LhsTiles& out) {
  quantize_tiles<Isa>(x, dtype, ld_x, k, range, m0, m1, out);
  split_tiles<Isa>(k, m0, m1, out);
}

template <class Isa>
void load_planes_u8(const uint8_t* q, int64_t ld_q, const int32_t* zero_point, int64_t k, int64_t m0, int64_t m1,
                    const LhsTiles& out) {
  load_tiles_u8<Isa>(q, ld_q, zero_point, k, m0, m1, out);
  split_tiles<Isa>(k, m0, m1, out);
}

template <class Isa, int U>
void accumulate_csr(const blocks::Run<int32_t>& run) {
  constexpr int D = Isa::kBlockOrder.line_depth;
  const uint16_t* places = static_cast<const uint16_t*>(run.places);
  int32_t* sums = run.sums;
  for (int64_t n = 0; n < run.groups; ++n, sums += U * kPlaneRows<Isa>) {
    typename Isa::BlockAcc acc[U][D];
    unroll<U>([&](auto u) EK_LAMBDA_INLINE { unroll<D>([&](auto d) EK_LAMBDA_INLINE { acc[u][d] = Isa::block_zero(); }); });
    for (int64_t word = run.starts[n]; word < run.starts[n + 1]; ++word) {
      auto weights = Isa::template load_weights<1, 1>(run.weights + word);
      const int32_t* planes[D];
      unroll<D>([&](auto d) EK_LAMBDA_INLINE { planes[d] = run.lhs + places[word * D + d] * (U * Isa::kLanes); });
      unroll<U>([&](auto u) EK_LAMBDA_INLINE {
        typename Isa::I32 v[D];
        unroll<D>([&](auto d) EK_LAMBDA_INLINE { v[d] = Isa::load_i32(planes[d] + u * Isa::kLanes); });
        Isa::join_planes(v);
        unroll<D>([&](auto d) EK_LAMBDA_INLINE { acc[u][d] = Isa::template multiply_block<0>(acc[u][d], v[d], weights); });
      });
    }
    unroll<U>([&](auto u) EK_LAMBDA_INLINE {
      unroll<D>([&](auto d) EK_LAMBDA_INLINE {
        int32_t* sum = sums + (u * D + d) * Isa::kLanes;
        typename Isa::I32 more = Isa::block_sum(acc[u][d]);
        Isa::store_i32(sum, run.first ? more : Isa::add_i32(more, Isa::load_i32(sum)));
      });
    });
  }
}

// The same where planes are less than a vector. Two words are summed apart, as a product's latency is that of joining a word.
template <class Isa, int V>
void accumulate_parts(const blocks::Run<int32_t>& run) {
  constexpr int D = Isa::kBlockOrder.line_depth, PH = 2;
  constexpr int64_t kPart = Isa::kLanes / D;
  const uint16_t* places = static_cast<const uint16_t*>(run.places);
  int32_t* sums = run.sums;
  for (int64_t n = 0; n < run.groups; ++n, sums += V * Isa::kLanes) {
    typename Isa::BlockAcc acc[PH][V];
    unroll<PH>([&](auto ph) EK_LAMBDA_INLINE { unroll<V>([&](auto v) EK_LAMBDA_INLINE { acc[ph][v] = Isa::block_zero(); }); });
    auto multiply = [&](int64_t word, auto ph) EK_LAMBDA_INLINE {
      auto weights = Isa::template load_weights<1, 1>(run.weights + word);
      const int32_t* planes[D];
      unroll<D>([&](auto d) EK_LAMBDA_INLINE { planes[d] = run.lhs + places[word * D + d] * (V * kPart); });
      unroll<V>([&](auto v) EK_LAMBDA_INLINE {
        acc[ph][v] = Isa::template multiply_block<0>(acc[ph][v], Isa::join_parts(planes, v * kPart), weights);
      });
    };
    int64_t word = run.starts[n], end = run.starts[n + 1];
    for (; word + PH <= end; word += PH) unroll<PH>([&](auto ph) EK_LAMBDA_INLINE { multiply(word + ph, ph); });
    if (word < end) multiply(word, Index<0>{});
    unroll<V>([&](auto v) EK_LAMBDA_INLINE {
      int32_t* sum = sums + v * Isa::kLanes;
      typename Isa::I32 more = Isa::block_sum(Isa::merge_blocks(acc[0][v], acc[1][v]));
      Isa::store_i32(sum, run.first ? more : Isa::add_i32(more, Isa::load_i32(sum)));
    });
  }
}

template <class Isa>
void spmm_csr(const SpmmArgs& args, int64_t m0, int64_t w, int64_t p0, int64_t p1) {
  blocks::Accumulate<int32_t> accumulate = nullptr;
  at_width<Isa>(
      w, [&](auto u) EK_LAMBDA_INLINE { accumulate = accumulate_csr<Isa, u>; },
      [&](auto v) EK_LAMBDA_INLINE {
        if constexpr (Isa::kJoinsParts) accumulate = accumulate_parts<Isa, v>;
      });
  multiply_tile<Isa, 1, kCsrRows<Isa>>(args, accumulate, m0, w, p0, p1);
}

}  // namespace
}  // namespace edgekern::int8

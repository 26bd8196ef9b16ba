// EK_INT8_CSR: the products of weights at any k, D of one output channel at a time (D = Isa::kBlockOrder.line_depth).
//
// A dot product wants its D values of k side by side, which in memory only neighbours are. So activations stand in planes, one
// for each k, and those of a word's D weights are joined where they are multiplied:
//
//   plane of k      | r0 r1 r2 ... r(w-1) |      a byte a row (D = 4) or an s16 (D = 2); w = kCsrRows rows
//   join            D vectors of D planes -> D vectors of kLanes rows each, with D values of k side by side: interleaving
//                   twice (D = 4) or once (D = 2), in the order of rows that split_words left in the planes
//
// For 4 weights x 64 rows AVX-512 takes 4 loads, 8 interleavings and 4 products. A mask without structure keeps 3 to 3.4 times
// as many products in blocks of four neighbours, at 80 and 90 % zeros, so this is less work on CPUs that interleave as fast
// as they multiply, whatever the mask looks like. Blocks are better where neighbours are zero together.
//
// Register budget: D x kCsrUnroll accumulators, D planes while they are joined, one weight.
#pragma once

#include "formats/int8/spmm.h"

namespace edgekern::int8 {
namespace {

template <class Isa>
constexpr int kCsrVectors = Isa::kBlockOrder.line_depth * Isa::kCsrUnroll;  // of sums, a tile
template <class Isa>
constexpr int64_t kCsrRows = kCsrVectors<Isa> * Isa::kLanes;

// Tiles of blocks to planes, in place: the words of D neighbouring k are as many bytes as their planes.
template <class Isa>
void split_tiles(int64_t k, int64_t m0, int64_t m1, const LhsTiles& out) {
  constexpr int D = Isa::kBlockOrder.line_depth, U = Isa::kCsrUnroll;
  for (int64_t m = m0; m < m1; m += kCsrRows<Isa>) {
    int32_t* block = out.data + m * out.tiles.depth;
    for (int64_t i = 0; i < ceil_div(k, D); ++i, block += kCsrRows<Isa>) {
      typename Isa::I32 v[U][D];
      unroll<U>([&](auto u) EK_LAMBDA_INLINE {
        unroll<D>([&](auto d) EK_LAMBDA_INLINE { v[u][d] = Isa::load_i32(block + (u * D + d) * Isa::kLanes); });
        Isa::split_words(v[u]);
      });
      unroll<U>([&](auto u) EK_LAMBDA_INLINE {
        unroll<D>([&](auto d) EK_LAMBDA_INLINE { Isa::store_i32(block + (d * U + u) * Isa::kLanes, v[u][d]); });
      });
    }
  }
}

template <class Isa>
void quantize_planes(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, int64_t m0, int64_t m1, const LhsTiles& out) {
  quantize_tiles<Isa>(x, dtype, ld_x, k, m0, m1, out);
  split_tiles<Isa>(k, m0, m1, out);
}

template <class Isa>
void load_planes_u8(const uint8_t* q, int64_t ld_q, const int32_t* zero_point, int64_t k, int64_t m0, int64_t m1,
                    const LhsTiles& out) {
  load_tiles_u8<Isa>(q, ld_q, zero_point, k, m0, m1, out);
  split_tiles<Isa>(k, m0, m1, out);
}

template <class Isa>
void accumulate_csr(const blocks::Run<int32_t>& run) {
  constexpr int D = Isa::kBlockOrder.line_depth, U = Isa::kCsrUnroll;
  const uint16_t* places = static_cast<const uint16_t*>(run.places);
  int32_t* sums = run.sums;
  for (int64_t n = 0; n < run.groups; ++n, sums += kCsrRows<Isa>) {
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

template <class Isa>
void spmm_csr(const SpmmArgs& args, int64_t m0, int64_t w, int64_t p0, int64_t p1) {
  multiply_tile<Isa, 1, kCsrRows<Isa>>(args, accumulate_csr<Isa>, m0, w, p0, p1);
}

}  // namespace
}  // namespace edgekern::int8

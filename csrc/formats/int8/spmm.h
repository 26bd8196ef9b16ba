// The multiplication by kept blocks. Vectors run along M: a block's weights are each spread over a vector and multiply the
// same few k of neighbouring rows of lhs, so the work is that of the kept blocks and no product is wasted on a zero.
//
//   for 64 output channels at a time, whose sums stay in L1:
//     for each k panel, whose activations stay in L1:
//       for each group of R channels:   accumulate its blocks in registers, add to the sums
//     turn the sums into a tile of rows, and finish it as the dense kernels do
//
// Register budget of accumulate: R x V accumulators of the tile's V vectors, R weights, one vector of activations.
// Each vector of activations that is loaded serves R products. PH > 1 sums every PH-th block separately, where R x V chains
// are too few to hide the latency of a product.
#pragma once

#include "formats/int8/finish.h"
#include "formats/int8/quantize_tiles.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int8 {
namespace {

struct BlockRun {
  const uint8_t* lhs;      // the tile's k panel
  const uint32_t* starts;  // [groups + 1]
  int64_t groups;
  const int32_t* weights;
  const void* places;
  int32_t* sums;  // [groups * R][tile rows]
  bool first;     // k panel: the sums are set, not added to
};

template <int R>
struct PlaceOf {
  using Type = uint16_t;
};
template <>
struct PlaceOf<1> {
  using Type = uint8_t;
};
template <>
struct PlaceOf<2> {
  using Type = uint8_t;
};

template <class Isa, int R, int V>
void accumulate_blocks(const BlockRun& run) {
  using I32 = typename Isa::I32;
  using Acc = typename Isa::BlockAcc;
  constexpr int PH = Isa::block_phases(R, V);
  constexpr int64_t kVectorBytes = Isa::kLanes * 4;
  using Place = typename PlaceOf<R>::Type;
  const Place* places = static_cast<const Place*>(run.places);
  int32_t* sums = run.sums;
  for (int64_t g = 0; g < run.groups; ++g, sums += R * V * Isa::kLanes) {
    Acc acc[PH][R][V];
    unroll<PH>([&](auto ph) EK_LAMBDA_INLINE {
      unroll<R>([&](auto r)
                    EK_LAMBDA_INLINE { unroll<V>([&](auto v) EK_LAMBDA_INLINE { acc[ph][r][v] = Isa::block_zero(); }); });
    });
    auto step = [&](int64_t block, auto ph) EK_LAMBDA_INLINE {
      const uint8_t* lhs = run.lhs + places[block] * (V * kVectorBytes);
      auto weights = Isa::template load_weights<R>(run.weights + block * R);
      unroll<V>([&](auto v) EK_LAMBDA_INLINE {
        I32 a = Isa::load_i32(reinterpret_cast<const int32_t*>(lhs + v * kVectorBytes));
        unroll<R>([&](auto r) EK_LAMBDA_INLINE { acc[ph][r][v] = Isa::template multiply_block<r>(acc[ph][r][v], a, weights); });
      });
    };
    int64_t block = run.starts[g], end = run.starts[g + 1];
    for (; block + PH <= end; block += PH) unroll<PH>([&](auto ph) EK_LAMBDA_INLINE { step(block + ph, ph); });
    if constexpr (PH > 1)
      for (; block < end; ++block) step(block, Index<0>{});
    unroll<R>([&](auto r) EK_LAMBDA_INLINE {
      unroll<V>([&](auto v) EK_LAMBDA_INLINE {
        unroll<PH - 1>([&](auto ph) EK_LAMBDA_INLINE { acc[0][r][v] = Isa::merge_blocks(acc[0][r][v], acc[ph + 1][r][v]); });
        int32_t* sum = sums + (r * V + v) * Isa::kLanes;
        I32 more = Isa::block_sum(acc[0][r][v]);
        Isa::store_i32(sum, run.first ? more : Isa::add_i32(more, Isa::load_i32(sum)));
      });
    });
  }
}

using AccumulateBlocks = void (*)(const BlockRun&);

// accumulate_blocks for every tile width: 1, 2, 4, ... vectors up to the ISA's for this R.
template <class Isa, int R>
AccumulateBlocks choose_accumulate(int64_t vectors) {
  AccumulateBlocks found = nullptr;
  unroll<5>([&](auto log2) EK_LAMBDA_INLINE {
    if constexpr ((1 << log2) <= Isa::block_vectors(R))
      if (vectors == 1 << log2) found = accumulate_blocks<Isa, R, (1 << log2)>;
  });
  return found;
}

// Sums of `columns` output channels from n0 on, [64][w], to y.
template <class Isa>
void finish_blocks(const SpmmArgs& args, Finish finish_tile, const int32_t* sums, int64_t m0, int64_t w, int64_t n0,
                   int64_t columns) {
  constexpr int64_t kLanes = Isa::kLanes;
  alignas(64) int32_t tile[kLanes * kTileColumns];
  for (int64_t m = m0; m < min_of(args.lhs.rows, m0 + w); m += kLanes) {
    int64_t rows = min_of(kLanes, args.lhs.rows - m);
    for (int64_t c = 0; c < round_up(columns, kPanelColumns); c += kLanes) {
      typename Isa::I32 v[kLanes];
      unroll<Isa::kLanes>([&](auto j) EK_LAMBDA_INLINE { v[j] = Isa::load_i32(sums + (c + j) * w + m - m0); });
      Isa::transpose(v);
      if constexpr (Isa::kBlockOrder.line_depth == 4) {
        typename Isa::I32 column_sum = Isa::load_i32(args.rhs.column_sum + n0 + c);
        unroll<Isa::kLanes>([&](auto r) EK_LAMBDA_INLINE {
          int32_t zero_point = r < rows ? args.lhs.zero_point[m + r] : 0;
          v[r] = Isa::sub_i32(v[r], Isa::mul_i32(Isa::set_i32(zero_point), column_sum));
        });
      }
      unroll<Isa::kLanes>([&](auto r) EK_LAMBDA_INLINE { Isa::store_i32(tile + r * kTileColumns + c, v[r]); });
    }
    finish_tile({tile, nullptr, args.lhs.scale + m, args.rhs.scale + n0, args.rhs.bias + n0, args.output.y,
                 m * args.output.ld_y + n0, args.output.ld_y, rows, columns});
  }
}

template <class Isa, int R>
void spmm(const SpmmArgs& args, int64_t m0, int64_t w, int64_t p0, int64_t p1) {
  constexpr int64_t kChunk = kTileColumns / kPanelColumns;
  constexpr int64_t kMaxWidth = Isa::block_vectors(R) * Isa::kLanes;
  alignas(64) int32_t sums[kTileColumns * kMaxWidth];
  const RhsBlocks& rhs = args.rhs;
  AccumulateBlocks accumulate = choose_accumulate<Isa, R>(w / Isa::kLanes);
  Finish finish_tile = choose_finish<Isa>(args.output);
  const uint8_t* tile = args.lhs.data + m0 * args.lhs.blocks * 4;
  int64_t groups = rhs.padded_n / R;
  for (int64_t p = p0; p < p1; p += kChunk) {
    int64_t n0 = p * kPanelColumns, columns = min_of(min_of(kChunk, p1 - p) * kPanelColumns, rhs.padded_n - n0);
    for (int64_t panel = 0; panel < rhs.k_panels; ++panel)
      accumulate({tile + panel * rhs.panel_blocks * w * 4, rhs.starts + panel * groups + n0 / R, columns / R, rhs.weights,
                  rhs.places, sums, panel == 0});
    if (rhs.k_panels == 0) memset(sums, 0, sizeof(sums));
    finish_blocks<Isa>(args, finish_tile, sums, m0, w, n0, min_of(columns, rhs.n - n0));
  }
}

}  // namespace
}  // namespace edgekern::int8

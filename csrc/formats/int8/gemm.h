// The multiplication: tiles of MR rows x NP panels, each in two steps.
//
//   accumulate   tile[m][n] = sum_k lhs[m][k] * rhs[n][k] - zero_point[m] * column_sum[n] + row_sum[m] (- odd_sum[n])
//                All accumulators stay in registers for the whole of K; at the end they go to a tile in L1.
//   finish       y = act(tile * lhs_scale[m] * rhs_scale[n] + bias[n]), from that tile straight to y.
//
// The tile between the two costs one store and one load an accumulator, 2 % at K = 384 and less beyond, and buys one
// accumulate per tile shape instead of one per shape x dtype x activation.
//
// Register budget of accumulate: the accumulators, and of each step one side whole (kHoldLhs: the lhs of all groups of rows;
// else the rhs of all columns); the other one streams through a register or two.
// PH > 1 sums every PH-th step separately: one row has too few accumulators to hide the latency of a product.
#pragma once

#include <string.h>

#include "formats/int8/finish.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int8 {
namespace {

constexpr int kMaxRows = 8;
constexpr int64_t kFinishTiles = 4;
constexpr int kMaxPanels = 4;
static_assert(kTileColumns == kMaxPanels * kPanelColumns);

// The rows of a tile, one after the other, or windows of an image.
struct TileLhs {
  const uint8_t* data;
  int64_t stride;
  const uint8_t* const* windows;  // of each row the first line; nullptr
  int64_t line, next_line;        // values of k in a line of a window; bytes
};

struct TileArgs {
  TileLhs lhs;
  const int8_t* rhs;
  int64_t panel_bytes;
  Span span;  // of k, multiples of kDepthUnit
  const int32_t* zero_point;
  const int32_t* row_sum;
  const int32_t* column_sum;
  const int32_t* odd_sum;
  int32_t* tile;  // [MR][kTileColumns]
  bool more;      // of K: add to the tile, which has what is owed already
};

// The sums of MR rows x NP panels, by phase and group of rows, into the tile.
template <class Isa, int MR, int NP, int PH, int kGroups, int NV, class Acc>
EK_INLINE void store_tile(const TileArgs& t, Acc (&acc)[PH][kGroups][NV]) {
  using I32 = typename Isa::I32;
  constexpr int kGroupRows = MR / kGroups;
  unroll<NV>([&](auto n) EK_LAMBDA_INLINE {
    I32 column_sum = Isa::load_i32(t.column_sum + n * Isa::kLanes);
    // Rows of an image share a zero point, and the product with it.
    int32_t zero_point = t.zero_point[0];
    I32 owed = Isa::mul_i32(Isa::set_i32(zero_point), column_sum);
    unroll<kGroups>([&](auto g) EK_LAMBDA_INLINE {
      unroll<PH - 1>([&](auto ph) EK_LAMBDA_INLINE { acc[0][g][n] = Isa::merge(acc[0][g][n], acc[ph + 1][g][n]); });
      unroll<kGroupRows>([&](auto r) EK_LAMBDA_INLINE {
        constexpr int m = g * kGroupRows + r;
        int32_t* sum = t.tile + m * kTileColumns + n * Isa::kLanes;
        I32 start;
        if (t.more) {
          start = Isa::load_i32(sum);
        } else {
          if constexpr (m > 0) {
            if (t.zero_point[m] != zero_point) {
              zero_point = t.zero_point[m];
              owed = Isa::mul_i32(Isa::set_i32(zero_point), column_sum);
            }
          }
          start = Isa::sub_i32(Isa::set_i32(t.row_sum[m]), owed);
          if constexpr (Isa::kOrder.odd_sums) start = Isa::sub_i32(start, Isa::load_i32(t.odd_sum + n * Isa::kLanes));
        }
        Isa::store_i32(sum, Isa::add_i32(Isa::template row<r>(acc[0][g][n]), start));
      });
    });
  });
}

template <class Isa, int kGroupRows, int PH, int kGroups, int NV>
EK_INLINE void clear(typename Isa::template Acc<kGroupRows> (&acc)[PH][kGroups][NV]) {
  unroll<PH>([&](auto ph) EK_LAMBDA_INLINE {
    unroll<kGroups>([&](auto g) EK_LAMBDA_INLINE {
      unroll<NV>([&](auto n) EK_LAMBDA_INLINE { acc[ph][g][n] = Isa::template zero<kGroupRows>(); });
    });
  });
}

// Adds the products of MR rows and `depth` values of k of NP dense panels to sums by phase and group of rows.
template <class Isa, int MR, int NP, int PH, int kGroups, int NV, class Acc>
EK_INLINE void add_products(const uint8_t* const (&lhs)[kGroups], const int8_t* panels, int64_t panel_bytes, int64_t depth,
                            Acc (&acc)[PH][kGroups][NV]) {
  constexpr int kVectors = NV / NP;
  constexpr int64_t kLhsStep = Isa::kGroupRows * Isa::kStepDepth * Isa::kLhsBytes;
  constexpr int64_t kRhsStep = kPanelColumns * Isa::kStepDepth;

  const int8_t* rhs[NP];
  unroll<NP>([&](auto p) EK_LAMBDA_INLINE { rhs[p] = panels + p * panel_bytes; });

  auto load_lhs = [&](int64_t s, auto g) EK_LAMBDA_INLINE { return Isa::load_lhs(lhs[g] + s * kLhsStep); };
  auto load_rhs = [&](int64_t s, auto n) EK_LAMBDA_INLINE {
    const int8_t* at = rhs[n / kVectors] + s * kRhsStep;
    if constexpr (MR <= Isa::kStreamRows && n % kVectors == 0) __builtin_prefetch(at + Isa::kPrefetchBytes);
    return Isa::template load_rhs<n % kVectors>(at);
  };
  auto step = [&](int64_t s, auto ph) EK_LAMBDA_INLINE {
    if constexpr (Isa::kHoldLhs) {
      typename Isa::Lhs a[kGroups];
      unroll<kGroups>([&](auto g) EK_LAMBDA_INLINE { a[g] = load_lhs(s, g); });
      unroll<NV>([&](auto n) EK_LAMBDA_INLINE {
        typename Isa::Rhs w = load_rhs(s, n);
        unroll<kGroups>([&](auto g) EK_LAMBDA_INLINE { acc[ph][g][n] = Isa::multiply(acc[ph][g][n], a[g], w); });
      });
    } else {
      typename Isa::Rhs w[NV];
      unroll<NV>([&](auto n) EK_LAMBDA_INLINE { w[n] = load_rhs(s, n); });
      unroll<kGroups>([&](auto g) EK_LAMBDA_INLINE {
        typename Isa::Lhs a = load_lhs(s, g);
        unroll<NV>([&](auto n) EK_LAMBDA_INLINE { acc[ph][g][n] = Isa::multiply(acc[ph][g][n], a, w[n]); });
      });
    }
  };
  int64_t s = 0, steps = depth / Isa::kStepDepth;
  for (; s + PH <= steps; s += PH) unroll<PH>([&](auto ph) EK_LAMBDA_INLINE { step(s + ph, ph); });
  if constexpr (PH > 1)
    for (; s < steps; ++s) step(s, Index<0>{});
}

// Rows of u8 are multiplied as they are, and nothing is owed to them.
template <class Isa>
constexpr bool kPlainRows = Isa::kGroupRows == 1 && Isa::kLhsBytes == 1 && Isa::kZeroOffset == 0;

// The same, of these values of k: of rows that lie one after the other all at once, of windows a line after the other.
template <class Isa, int MR, int NP, int PH, int kGroups, int NV, class Acc>
EK_INLINE void add_lines(const TileLhs& from, const Span& span, const int8_t* panels, int64_t panel_bytes,
                         Acc (&acc)[PH][kGroups][NV]) {
  const uint8_t* lhs[kGroups];
  if constexpr (kPlainRows<Isa>) {
    const bool windows = from.windows != nullptr;
    const int64_t line = windows ? from.line : span.end - span.begin, next_line = windows ? from.next_line : 0;
    const int64_t skip = windows ? span.skip : 0, run = windows ? span.run : line;
    unroll<kGroups>([&](auto g) EK_LAMBDA_INLINE {
      lhs[g] = windows ? from.windows[g] + span.begin / line * next_line + skip : from.data + g * from.stride + span.begin;
    });
    for (int64_t k = span.begin; k < span.end; k += line) {
      add_products<Isa, MR, NP>(lhs, panels + (k + skip) * kPanelColumns, panel_bytes, run, acc);
      unroll<kGroups>([&](auto g) EK_LAMBDA_INLINE { lhs[g] += next_line; });
    }
  } else {
    unroll<kGroups>([&](auto g) EK_LAMBDA_INLINE { lhs[g] = from.data + g * Isa::kGroupRows * from.stride; });
    add_products<Isa, MR, NP>(lhs, panels, panel_bytes, span.end, acc);
  }
}

template <class Isa, int MR, int NP>
void accumulate(const TileArgs& t) {
  constexpr int NV = NP * (kPanelColumns / Isa::kLanes), PH = Isa::phases_at(MR, NP);
  constexpr int kGroupRows = MR < Isa::kGroupRows ? MR : Isa::kGroupRows, kGroups = MR / kGroupRows;
  typename Isa::template Acc<kGroupRows> acc[PH][kGroups][NV];
  clear<Isa, kGroupRows>(acc);
  add_lines<Isa, MR, NP>(t.lhs, t.span, t.rhs, t.panel_bytes, acc);
  store_tile<Isa, MR, NP>(t, acc);
}

// of(rows, panels) for 1 <= rows <= Isa::kRows and panels 1, 2, 4 up to Isa::panels_at(rows). One row has its own; beyond, a
// last group that is not full is multiplied whole, and finish leaves the surplus rows in the tile.
template <class Isa, class Function>
struct TileTable {
  Function at[Isa::kRows][3] = {};  // [rows - 1][log2(panels)]

  template <class Of>
  constexpr explicit TileTable(Of of) {
    unroll<Isa::kRows>([this, of](auto m) {
      unroll<3>([this, of, m](auto log2) {
        constexpr int kRows = decltype(m){} + 1, kTilePanels = 1 << decltype(log2){}, kGroup = Isa::kGroupRows;
        constexpr int kTileRows = kRows == 1 ? 1 : (kRows + kGroup - 1) / kGroup * kGroup;
        if constexpr (kTilePanels <= Isa::panels_at(kTileRows)) at[m][log2] = of(Index<kTileRows>{}, Index<kTilePanels>{});
      });
    });
  }
};

using Accumulate = void (*)(const TileArgs&);

template <class Isa>
constexpr TileTable<Isa, Accumulate> kAccumulate([](auto rows, auto panels) -> Accumulate {
  return accumulate<Isa, rows, panels>;
});

// Rows from m on, and values of k from k on.
template <class Isa>
TileLhs lhs_at(const LhsRows& lhs, int64_t m, int64_t k) {
  const uint8_t* data = lhs.data + m * lhs.stride + k * Isa::kGroupRows * Isa::kLhsBytes;
  if (!kPlainRows<Isa> || lhs.windows == nullptr) return {data, lhs.stride, nullptr, 0, 0};
  return {data, lhs.stride, lhs.windows->rows + m, lhs.windows->line, lhs.windows->next_line};
}

// The lines that at least one of `rows` rows from m on multiplies; of each line they multiply the same.
template <class Isa>
EK_INLINE Span span_of(const LhsRows& lhs, int64_t m, int64_t rows, int64_t depth) {
  if (!kPlainRows<Isa>) return {0, depth, 0, depth, rows};
  if (lhs.spans == nullptr) return {0, depth, 0, lhs.windows == nullptr ? depth : lhs.windows->line, rows};
  Span all = lhs.spans[m];
  for (int64_t i = m + 1; i < m + rows; ++i) {
    all.begin = min_of(all.begin, lhs.spans[i].begin);
    all.end = max_of(all.end, lhs.spans[i].end);
  }
  return all;
}

// Rows from m and columns from n0 on, and `depth` values of k from k on, which lie in one block.
template <class Isa>
TileArgs tile_at(const GemmArgs& g, int64_t m, int64_t n0, int64_t k, int64_t depth, const int8_t* rhs, int64_t panel_bytes,
                 int32_t* tile) {
  int64_t block = k / kBlockDepth, columns = block * g.rhs.padded_n + n0;
  return {lhs_at<Isa>(g.lhs, m, k),
          rhs,
          panel_bytes,
          {0, depth, 0, depth, 0},
          g.lhs.zero_point + m,
          g.lhs.row_sum + block * g.lhs.rows + m,
          g.rhs.column_sum + columns,
          g.rhs.odd_sum + columns,
          tile,
          k % kBlockDepth != 0};
}

// The sums over a block of K become part of a float total where there are several.
void add_block(const GemmArgs& g, int64_t block, int64_t rows, const int32_t* tile, float* total) {
  if (g.rhs.blocks == 1) return;
  for (int64_t i = 0; i < rows * kTileColumns; ++i) total[i] = (block == 0 ? 0.0f : total[i]) + static_cast<float>(tile[i]);
}

void finish_at(const GemmArgs& g, Finish finish_tile, int64_t m, int64_t rows, int64_t n0, int64_t panels, const int32_t* tile,
               const float* total) {
  finish_tile(
      {tile,
       g.rhs.blocks > 1 ? total : nullptr,
       g.lhs.scale + m,
       g.rhs.scale + n0,
       g.rhs.bias + n0,
       {g.output.y, m * g.output.ld_y + n0, g.output.ld_y, rows, min_of(g.rhs.n - n0, panels * kPanelColumns), g.output.u8}});
}

template <class Isa>
void gemm_by_tiles(const GemmArgs& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  static_assert(Isa::kRows <= kMaxRows);
  static_assert(Isa::kRows % Isa::kGroupRows == 0 && kDepthUnit % Isa::kStepDepth == 0);
  // Several tiles of rows are finished at once: what a call begins with, scales in registers among it, then counts less.
  constexpr int64_t kRows = kFinishTiles * Isa::kRows;
  alignas(64) int32_t tile[kRows * kTileColumns];
  alignas(64) float total[kRows * kTileColumns];
  Finish finish_tile = choose_finish<Isa>(g.output);
  int64_t panel_bytes = g.rhs.padded_k * kPanelColumns;
  for (int64_t p = p0; p < p1;) {
    // Full panels for the height this block has; a tail of rows keeps them, a tail of panels halves them.
    int64_t panels = Isa::panels_at(static_cast<int>(min_of(Isa::kRows, m1 - m0)));
    while (panels > p1 - p) panels /= 2;
    int64_t n0 = p * kPanelColumns;
    for (int64_t m = m0; m < m1; m += kRows) {
      const int64_t end = min_of(m1, m + kRows);
      for (int64_t at = m; at < end; at += Isa::kRows) {
        int64_t rows = min_of(Isa::kRows, end - at), start = (at - m) * kTileColumns;
        Accumulate accumulate_tile = kAccumulate<Isa>.at[rows - 1][panels / 2];  // 1, 2, 4 -> 0, 1, 2
        for (int64_t block = 0; block < g.rhs.blocks; ++block) {
          int64_t k = block * kBlockDepth;
          TileArgs args = tile_at<Isa>(g, at, n0, k, min_of(kBlockDepth, g.rhs.padded_k - k),
                                       g.rhs.panels + p * panel_bytes + k * kPanelColumns, panel_bytes, tile + start);
          args.span = span_of<Isa>(g.lhs, at, rows, args.span.end);
          accumulate_tile(args);
          add_block(g, block, rows, tile + start, total + start);
        }
      }
      finish_at(g, finish_tile, m, end - m, n0, panels, tile, total);
    }
    p += panels;
  }
}

// The ISA's ceiling: products from registers, enough chains to hide their latency.
template <class Isa>
int64_t peak_macs(int64_t steps) {
  constexpr int kChains = Isa::kPeakChains, kRows = Isa::kGroupRows;
  typename Isa::template Acc<kRows> acc[kChains];
  unroll<kChains>([&](auto c) EK_LAMBDA_INLINE { acc[c] = Isa::template zero<kRows>(); });
  alignas(64) int8_t line[kPanelColumns * kDepthUnit] = {1, 2, 3, 4, 5, 6, 7, 8};
  typename Isa::Lhs a = Isa::load_lhs(reinterpret_cast<const uint8_t*>(line));
  typename Isa::Rhs w = Isa::template load_rhs<0>(line);
  for (int64_t i = 0; i < steps; ++i) {
    unroll<kChains>([&](auto c) EK_LAMBDA_INLINE {
      Isa::opaque(a);  // or the products, all alike, would be computed once
      acc[c] = Isa::multiply(acc[c], a, w);
    });
  }
  unroll<kChains - 1>([&](auto c) EK_LAMBDA_INLINE { acc[0] = Isa::merge(acc[0], acc[c + 1]); });
  volatile int32_t keep = Isa::reduce(Isa::template row<0>(acc[0]));
  (void)keep;
  return steps * kChains * kRows * Isa::kLanes * Isa::kStepDepth;
}

template <class Isa>
uint64_t stream_read(const void* data, size_t size) {
  constexpr int kStreams = 8;
  constexpr size_t kVector = Isa::kLanes * sizeof(int32_t);
  const char* p = static_cast<const char*>(data);
  typename Isa::I32 acc[kStreams];
  unroll<kStreams>([&](auto s) EK_LAMBDA_INLINE { acc[s] = Isa::set_i32(0); });
  size_t i = 0;
  for (; i + kStreams * kVector <= size; i += kStreams * kVector)
    unroll<kStreams>([&](auto s) EK_LAMBDA_INLINE {
      acc[s] = Isa::add_i32(acc[s], Isa::load_i32(reinterpret_cast<const int32_t*>(p + i + s * kVector)));
    });
  unroll<kStreams - 1>([&](auto s) EK_LAMBDA_INLINE { acc[0] = Isa::add_i32(acc[0], acc[s + 1]); });
  uint64_t sum = static_cast<uint32_t>(Isa::reduce(acc[0]));
  for (; i < size; ++i) sum += static_cast<unsigned char>(p[i]);
  return sum;
}

}  // namespace

}  // namespace edgekern::int8

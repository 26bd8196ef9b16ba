// The multiplication by bitmap panels (bitmap.h), whose lines are expanded on the way.
//
//   few rows    Bound by memory, or by expanding: each step is expanded in registers and multiplied at once.
//   more        A piece of a few panels is expanded into L1, where the dense kernels multiply it by up to kRowBlock rows:
//               a dense layer's time and little more, for a fraction of its memory.
//
// What an ISA adds to the dense form's vocabulary (isa/tile.h), U being the bytes of a unit:
//   Expanded                  one step of a panel, kPanelColumns x kStepDepth bytes
//   expand<U>(mask, values)   the step with this mask; values is moved past what it keeps
//   expanded_rhs<n>(step)     Rhs number n of it;    store_expanded(p, step)   into memory, as a dense panel has it
//   kExpandRows               how many rows are few: as many as have accumulators beside an expanded step
//   kExpandAhead, kMasksAhead    bytes of values and masks to prefetch ahead; 0 for none
#pragma once

#include "formats/int8/gemm.h"

namespace edgekern::int8 {
namespace {

constexpr int64_t kRowBlock = 96;  // a multiple of every ISA's tile rows
constexpr int64_t kPieceBytes = 16 * 1024;

// A source hands out the steps of a panel, one after the other, kSteps in a round: what one load brings may be several. All the
// steps of kDepthUnit, of which every depth is a multiple, are whole rounds.
template <class Isa, int U>
struct BitmapSource {
  static constexpr int kSteps = 1;
  const uint8_t* masks;
  const int8_t* values;

  BitmapSource() = default;
  BitmapSource(const RhsPanels& rhs, int64_t panel)
      : masks(rhs.masks + panel * (rhs.padded_k * kPanelColumns / U / 8)), values(rhs.panels + rhs.starts[panel]) {}

  template <int>
  EK_INLINE typename Isa::Expanded step() {
    if constexpr (Isa::kExpandAhead > 0) __builtin_prefetch(values + Isa::kExpandAhead);
    if constexpr (Isa::kMasksAhead > 0) __builtin_prefetch(masks + Isa::kMasksAhead);
    typename Isa::Expanded step = Isa::template expand<U>(masks, values);
    masks += kPanelColumns * Isa::kStepDepth / U / 8;
    return step;
  }
};

template <class Isa>
constexpr int kStepsOfUnit = static_cast<int>(kDepthUnit / Isa::kStepDepth);

// Adds the products of rows and the next `depth` values of k of NP panels to sums by phase and group of rows.
template <class Isa, int NP, class Source, int PH, int kGroups, int NV, int kGroupRows>
EK_INLINE void accumulate_steps(const uint8_t* lhs, int64_t lhs_stride, int64_t depth, Source (&source)[NP],
                                typename Isa::template Acc<kGroupRows> (&acc)[PH][kGroups][NV]) {
  constexpr int kVectors = NV / NP, kSteps = PH > Source::kSteps ? PH : Source::kSteps;
  constexpr int64_t kLhsStep = Isa::kGroupRows * Isa::kStepDepth * Isa::kLhsBytes;
  auto round = [&](auto steps) EK_LAMBDA_INLINE {
    unroll<decltype(steps){}>([&](auto s) EK_LAMBDA_INLINE {
      unroll<NP>([&](auto p) EK_LAMBDA_INLINE {
        typename Isa::Expanded w = source[p].template step<s % Source::kSteps>();
        unroll<kGroups>([&](auto g) EK_LAMBDA_INLINE {
          typename Isa::Lhs a = Isa::load_lhs(lhs + g * Isa::kGroupRows * lhs_stride);
          unroll<kVectors>([&](auto n) EK_LAMBDA_INLINE {
            typename Isa::Rhs rhs = Isa::template expanded_rhs<n>(w);
            constexpr int at = p * kVectors + n;
            acc[s % PH][g][at] = Isa::multiply(acc[s % PH][g][at], a, rhs);
          });
        });
      });
      lhs += kLhsStep;
    });
  };
  const uint8_t* end = lhs + depth / Isa::kStepDepth * kLhsStep;
  if constexpr (kSteps > kStepsOfUnit<Isa>) {
    while (end - lhs >= kSteps * kLhsStep) round(Index<kSteps>{});
    while (lhs < end) round(Index<kStepsOfUnit<Isa>>{});
  } else {
    static_assert(kStepsOfUnit<Isa> % kSteps == 0);
    while (lhs < end) round(Index<kSteps>{});
  }
}

// As accumulate with one panel; t.rhs is not read.
template <class Isa, int MR, int U>
void accumulate_expanded(const TileArgs& t, BitmapSource<Isa, U>& panel) {
  constexpr int NV = kPanelColumns / Isa::kLanes;
  constexpr int PH = Isa::phases_at(MR, 1) < 2 ? 1 : kStepsOfUnit<Isa>;  // expanding takes the time of more
  constexpr int kGroupRows = MR < Isa::kGroupRows ? MR : Isa::kGroupRows, kGroups = MR / kGroupRows;
  typename Isa::template Acc<kGroupRows> acc[PH][kGroups][NV];
  clear<Isa, kGroupRows>(acc);
  BitmapSource<Isa, U> source[1] = {panel};
  accumulate_steps<Isa, 1, BitmapSource<Isa, U>, PH, kGroups, NV, kGroupRows>(t.lhs.data, t.lhs.stride, t.span.end, source,
                                                                              acc);
  panel = source[0];
  store_tile<Isa, MR, 1>(t, acc);
}

// The next `depth` values of k of a panel, as dense lines.
template <class Isa, class Source>
void expand_lines(Source& panel, int64_t depth, int8_t* out) {
  Source source = panel;
  for (int64_t k = 0; k < depth; k += kDepthUnit)
    unroll<kStepsOfUnit<Isa>>([&](auto s) EK_LAMBDA_INLINE {
      Isa::store_expanded(out, source.template step<s % Source::kSteps>());
      out += kPanelColumns * Isa::kStepDepth;
    });
  panel = source;
}

template <class Isa, int U>
struct AccumulateExpandedTable {
  void (*at[Isa::kExpandRows])(const TileArgs&, BitmapSource<Isa, U>&) = {};  // [rows - 1]; see AccumulateTable

  constexpr AccumulateExpandedTable() {
    unroll<Isa::kExpandRows>([this](auto m) {
      constexpr int kRows = decltype(m){} + 1, kGroup = Isa::kGroupRows;
      constexpr int kTileRows = kRows == 1 ? 1 : (kRows + kGroup - 1) / kGroup * kGroup;
      at[m] = accumulate_expanded<Isa, kTileRows, U>;
    });
  }
};

template <class Isa, int U>
void multiply_few_rows(const GemmArgs& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  alignas(64) int32_t tile[Isa::kExpandRows * kTileColumns];
  alignas(64) float total[Isa::kExpandRows * kTileColumns];
  static constexpr AccumulateExpandedTable<Isa, U> kAccumulate;
  auto accumulate_tile = kAccumulate.at[m1 - m0 - 1];
  Finish finish_tile = choose_finish<Isa>(g.output);
  for (int64_t p = p0; p < p1; p += kMaxPanels) {
    int64_t panels = min_of(kMaxPanels, p1 - p), n0 = p * kPanelColumns;
    BitmapSource<Isa, U> source[kMaxPanels];
    for (int64_t i = 0; i < panels; ++i) source[i] = {g.rhs, p + i};
    for (int64_t block = 0; block < g.rhs.blocks; ++block) {
      int64_t k = block * kBlockDepth, depth = min_of(kBlockDepth, g.rhs.padded_k - k);
      for (int64_t i = 0; i < panels; ++i) {
        int64_t column = i * kPanelColumns;
        accumulate_tile(tile_at<Isa>(g, m0, n0 + column, k, depth, nullptr, 0, tile + column), source[i]);
      }
      add_block(g, block, m1 - m0, tile, total);
    }
    finish_at(g, finish_tile, m0, m1 - m0, n0, panels, tile, total);
  }
}

template <class Isa, int U>
void multiply_pieces(const GemmArgs& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  constexpr int64_t kPanels = Isa::panels_at(Isa::kRows), kDepth = kPieceBytes / (kPanels * kPanelColumns);
  constexpr int64_t kPanelBytes = kDepth * kPanelColumns;
  static_assert(kRowBlock % Isa::kRows == 0 && kBlockDepth % kDepth == 0);
  alignas(64) int8_t piece[kPieceBytes];
  alignas(64) int32_t tile[kRowBlock * kTileColumns];
  alignas(64) float total[kRowBlock * kTileColumns];
  Finish finish_tile = choose_finish<Isa>(g.output);
  for (int64_t p = p0, panels = kPanels; p < p1; p += panels) {
    while (panels > p1 - p) panels /= 2;
    int64_t n0 = p * kPanelColumns;
    for (int64_t m = m0; m < m1; m += kRowBlock) {
      int64_t rows = min_of(kRowBlock, m1 - m);
      BitmapSource<Isa, U> source[kPanels];
      for (int64_t i = 0; i < panels; ++i) source[i] = {g.rhs, p + i};
      for (int64_t k = 0; k == 0 || k < g.rhs.padded_k; k += kDepth) {
        int64_t depth = min_of(kDepth, g.rhs.padded_k - k);
        for (int64_t i = 0; i < panels; ++i) expand_lines<Isa>(source[i], depth, piece + i * kPanelBytes);
        for (int64_t r = 0; r < rows; r += Isa::kRows)
          kAccumulate<Isa>.at[min_of(Isa::kRows, rows - r) - 1][panels / 2](
              tile_at<Isa>(g, m + r, n0, k, depth, piece, kPanelBytes, tile + r * kTileColumns));
        if ((k + depth) % kBlockDepth == 0 || k + depth == g.rhs.padded_k) add_block(g, k / kBlockDepth, rows, tile, total);
      }
      finish_at(g, finish_tile, m, rows, n0, panels, tile, total);
    }
  }
}

template <class Isa, int U>
void gemm_bitmap(const GemmArgs& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  (m1 - m0 <= Isa::kExpandRows ? multiply_few_rows<Isa, U> : multiply_pieces<Isa, U>)(g, m0, m1, p0, p1);
}

}  // namespace
}  // namespace edgekern::int8

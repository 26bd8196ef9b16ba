// The multiplication by int4 panels: int32 sums over a group of k, scaled and added to floats in L1 group by group.
//
//   few rows    Bound by memory: lines are unpacked in registers and multiplied at once, one panel or a few side by side.
//   more        A group of a few panels is unpacked into L1, where int8's dense kernels multiply it by all rows.
//
//   total[m][n] = fma(float(sum over the group), scale[n][group], total[m][n])                for group 0, 1, 2, ...
//   y = act((total * unit - zero_point[m] * weight_sum[n]) * lhs_scale[m] + bias[n])
//
// unit is 1, or 1/16 where weights are multiplied as 16 times themselves. The activations' zero point is paid once an output,
// in floats: paid in each group it would take an int32 multiply there, and a sum of weights for each scale in memory.
#pragma once

#include <string.h>

#include "formats/finish.h"
#include "formats/int4/lines.h"
#include "formats/int8/expand.h"

namespace edgekern::int4 {
namespace {

using int8::kPanelColumns;
constexpr int64_t kMaxPanels = int8::kMaxPanels, kMaxGroup = 128;

// Tiles of one group owe nothing: no zero point, and no ISA's trick.
alignas(64) constexpr int32_t kNothing[kTileColumns] = {};

template <class Isa>
EK_INLINE void add_group(typename Isa::I32 sum, const uint16_t* scale, int64_t n, float* total) {
  typename Isa::F32 scales = Isa::template load_as<EK_F16>(scale, n);
  Isa::template store_as<EK_F32>(total, n, Isa::fma(Isa::to_f32(sum), scales, Isa::load(total + n)));
}

// All of MR rows from m on x NP panels, added to total [MR][kTileColumns].
template <class Isa, int MR, int NP, class Source>
void accumulate_groups(const GemmArgs& args, int64_t m, int64_t panel, float* total) {
  constexpr int kVectors = kPanelColumns / Isa::kLanes, NV = NP * kVectors, PH = Isa::line_phases_at(MR, NP);
  constexpr int kGroupRows = MR < Isa::kGroupRows ? MR : Isa::kGroupRows, kGroups = MR / kGroupRows;
  const RhsPanels& rhs = args.rhs;
  const int64_t group_size = rhs.group_size, padded_k = rhs.padded_k, stride = args.lhs.stride;
  const int64_t next_panel = rhs.groups * kPanelColumns;
  const uint8_t* lhs = args.lhs.data + m * stride;
  const uint16_t* scale = rhs.scale + panel * next_panel;
  Source source[NP];
  unroll<NP>([&](auto p) EK_LAMBDA_INLINE { source[p] = Source(rhs, panel + p); });
  for (int64_t k = 0; k < padded_k; k += group_size, scale += kPanelColumns) {
    unroll<NP>([&](auto p) EK_LAMBDA_INLINE { source[p].start_group(); });
    // Or the compiler carries these floats from group to group in registers, which the sums need.
    __asm__("" : "+r"(total));
    int64_t depth = min_of(group_size, padded_k - k);
    typename Isa::template Acc<kGroupRows> acc[PH][kGroups][NV];
    int8::clear<Isa, kGroupRows>(acc);
    int8::accumulate_steps<Isa, NP, Source, PH, kGroups, NV, kGroupRows>(lhs, stride, depth, source, acc);
    lhs += depth * Isa::kGroupRows * Isa::kLhsBytes;
    unroll<NV>([&](auto n) EK_LAMBDA_INLINE {
      constexpr int64_t kVector = n % kVectors * Isa::kLanes;
      unroll<kGroups>([&](auto g) EK_LAMBDA_INLINE {
        unroll<PH - 1>([&](auto ph) EK_LAMBDA_INLINE { acc[0][g][n] = Isa::merge(acc[0][g][n], acc[ph + 1][g][n]); });
        unroll<kGroupRows>([&](auto r) EK_LAMBDA_INLINE {
          add_group<Isa>(Isa::template row<r>(acc[0][g][n]), scale + n / kVectors * next_panel, kVector,
                         total + (g * kGroupRows + r) * kTileColumns + n / kVectors * kPanelColumns);
        });
      });
    });
  }
}

struct FinishArgs {
  const float* total;  // [rows][kTileColumns]
  float unit;
  const float* lhs_scale;     // [rows]
  const int32_t* zero_point;  // [rows]
  const float* weight_sum;    // [columns]
  const float* bias;          // [columns]
  TileOut to;
};

template <class Isa, ek_dtype D, ek_activation A>
void finish(const FinishArgs& args) {
  using F32 = typename Isa::F32;
  const FinishArgs f = args;  // see TileOut
  store_tile<Isa, D, A>(f.to, [&](int64_t m) EK_LAMBDA_INLINE {
    F32 lhs_scale = Isa::set(f.lhs_scale[m]), zero_point = Isa::set(-static_cast<float>(f.zero_point[m])),
        unit = Isa::set(f.unit);
    return [&f, m, lhs_scale, zero_point, unit](int64_t n) EK_LAMBDA_INLINE {
      F32 sum = Isa::mul(Isa::load(f.total + m * kTileColumns + n), unit);
      sum = Isa::fma(Isa::load(f.weight_sum + n), zero_point, sum);
      return Isa::fma(sum, lhs_scale, Isa::load(f.bias + n));
    };
  });
}

using Finish = void (*)(const FinishArgs&);

template <class Isa>
Finish choose_finish(const Output& output) {
  return choose_output(output.dtype, output.activation,
                       [](auto dtype, auto activation) -> Finish { return finish<Isa, dtype, activation>; });
}

void finish_at(const GemmArgs& g, Finish finish_tile, float unit, int64_t m, int64_t rows, int64_t n0, int64_t panels,
               const float* total) {
  finish_tile({total,
               unit,
               g.lhs.scale + m,
               g.lhs.zero_point + m,
               g.rhs.weight_sum + n0,
               g.rhs.bias + n0,
               {g.output.y, m * g.output.ld_y + n0, g.output.ld_y, rows, min_of(g.rhs.n - n0, panels * kPanelColumns)}});
}

// accumulate_groups for 1 <= rows <= Isa::kLineRows (see int8::AccumulateTable), and one panel or as many as the source says.
template <class Isa, class Source>
struct AccumulateTable {
  using Accumulate = void (*)(const GemmArgs&, int64_t m, int64_t panel, float* total);
  struct Entry {
    Accumulate one, several;
    int64_t panels;  // that several takes
  };
  Entry at[Isa::kLineRows] = {};

  constexpr AccumulateTable() {
    unroll<Isa::kLineRows>([this](auto m) {
      constexpr int kRows = decltype(m){} + 1, kGroup = Isa::kGroupRows;
      constexpr int kTileRows = kRows == 1 ? 1 : (kRows + kGroup - 1) / kGroup * kGroup;
      constexpr int kPanels = Source::panels_at(kTileRows);
      at[m] = {accumulate_groups<Isa, kTileRows, 1, Source>, accumulate_groups<Isa, kTileRows, kPanels, Source>, kPanels};
    });
  }
};

template <class Isa, class Source>
void multiply_few_rows(const GemmArgs& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  static constexpr AccumulateTable<Isa, Source> kTable;
  const typename AccumulateTable<Isa, Source>::Entry entry = kTable.at[m1 - m0 - 1];
  // A last group of rows that is not full is multiplied whole.
  alignas(64) float total[(Isa::kLineRows + Isa::kGroupRows - 1) * kTileColumns];
  Finish finish_tile = choose_finish<Isa>(g.output);
  for (int64_t p = p0; p < p1; p += kMaxPanels) {
    int64_t panels = min_of(kMaxPanels, p1 - p);
    memset(total, 0, sizeof(total));
    for (int64_t i = 0, taken = entry.panels; i < panels; i += taken) {
      if (taken > panels - i) taken = 1;
      (taken == 1 ? entry.one : entry.several)(g, m0, p + i, total + i * kPanelColumns);
    }
    finish_at(g, finish_tile, Source::kUnit, m0, m1 - m0, p * kPanelColumns, panels, total);
  }
}

// One tile of rows x the panels of a piece, of one group: sums, and onto the totals.
template <class Isa>
void multiply_group(const GemmArgs& g, int64_t m, int64_t rows, int64_t k, int64_t depth, const int8_t* piece, int64_t panels,
                    const uint16_t* scale, float* total) {
  alignas(64) int32_t tile[int8::kMaxRows * kTileColumns];
  int8::kAccumulate<Isa>.at[rows - 1][panels / 2]({g.lhs.data + m * g.lhs.stride + k * Isa::kGroupRows * Isa::kLhsBytes,
                                                   g.lhs.stride, piece, kMaxGroup * kPanelColumns, depth, kNothing, kNothing,
                                                   kNothing, kNothing, tile, false});
  for (int64_t i = 0; i < panels; ++i)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t n = 0; n < kPanelColumns; n += Isa::kLanes) {
        int64_t at = r * kTileColumns + i * kPanelColumns;
        add_group<Isa>(Isa::load_i32(tile + at + n), scale + i * g.rhs.groups * kPanelColumns, n, total + at);
      }
}

template <class Isa, class Source>
void multiply_pieces(const GemmArgs& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  constexpr int64_t kPanels = Isa::panels_at(Isa::kRows), kRowBlock = int8::kRowBlock;
  static_assert(kRowBlock % Isa::kRows == 0);
  alignas(64) int8_t piece[kPanels * kMaxGroup * kPanelColumns];
  alignas(64) float total[kRowBlock * kTileColumns];
  Finish finish_tile = choose_finish<Isa>(g.output);
  for (int64_t p = p0, panels = kPanels; p < p1; p += panels) {
    while (panels > p1 - p) panels /= 2;
    for (int64_t m = m0; m < m1; m += kRowBlock) {
      int64_t rows = min_of(kRowBlock, m1 - m);
      Source source[kPanels];
      for (int64_t i = 0; i < panels; ++i) source[i] = Source(g.rhs, p + i);
      memset(total, 0, static_cast<size_t>(rows * kTileColumns) * sizeof(float));
      for (int64_t group = 0; group < g.rhs.groups; ++group) {
        int64_t k = group * g.rhs.group_size, depth = min_of(g.rhs.group_size, g.rhs.padded_k - k);
        int64_t first = (p * g.rhs.groups + group) * kPanelColumns;
        for (int64_t i = 0; i < panels; ++i) {
          source[i].start_group();
          int8::expand_lines<Isa>(source[i], depth, piece + i * kMaxGroup * kPanelColumns);
        }
        for (int64_t r = 0; r < rows; r += Isa::kRows)
          multiply_group<Isa>(g, m + r, min_of(Isa::kRows, rows - r), k, depth, piece, panels, g.rhs.scale + first,
                              total + r * kTileColumns);
      }
      finish_at(g, finish_tile, Source::kUnit, m, rows, p * kPanelColumns, panels, total);
    }
  }
}

template <class Isa, template <class> class Raw>
void gemm(const GemmArgs& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  using Symmetric = LineSource<Isa, Raw, false>;
  using Around = LineSource<Isa, Raw, true>;
  bool few = m1 - m0 <= Isa::kLineRows;
  auto multiply = g.rhs.zero == nullptr ? (few ? multiply_few_rows<Isa, Symmetric> : multiply_pieces<Isa, Symmetric>)
                                        : (few ? multiply_few_rows<Isa, Around> : multiply_pieces<Isa, Around>);
  multiply(g, m0, m1, p0, p1);
}

}  // namespace
}  // namespace edgekern::int4

// The multiplication by int4 panels: int32 sums over a group of k, scaled and added to floats in L1 group by group.
//
//   few rows    Bound by memory: lines are unpacked in registers and multiplied at once, panel by panel, which memory streams.
//   more        A group of a few panels is unpacked into L1, where it is multiplied as dense int8 is, by all rows.
//
//   sum over the group = sum(lhs * w) - zero[n][group] * sum(lhs)                             w from 0 to 15
//   total[m][n] = fma(float(sum over the group), scale[n][group], total[m][n])                for group 0, 1, 2, ...
//   y = act((total - zero_point[m] * weight_sum[n]) * lhs_scale[m] + bias[n])
//
// Taking the zero points off each weight, before it is multiplied, would take two instructions more for a vector of them. The
// activations' zero point is paid once an output, in floats: paid in each group it would take a sum of weights for each scale
// in memory.
#pragma once

#include <string.h>

#include "formats/finish.h"
#include "formats/int4/lines.h"

namespace edgekern::int4 {
namespace {

using int8::kPanelColumns;
constexpr int64_t kMaxPanels = int8::kMaxPanels, kMaxGroup = 128;
// So many rows share what is unpacked; their totals stay in L2.
constexpr int64_t kRowBlock = 192;

// What the first group of k is added to.
alignas(64) constexpr float kNothing[int8::kMaxRows * kTileColumns] = {};

// A group of k of neighbouring panels, and of some rows.
struct Group {
  const uint16_t* scale;
  const uint8_t* zero;
  int64_t next_scale, next_zero;  // from a panel to the next
  const int32_t* lhs_sum;         // [rows]
  int64_t k, depth;

  Group(const GemmArgs& g, int64_t m, int64_t panel, int64_t group)
      : scale(g.rhs.scale + (panel * g.rhs.groups + group) * kPanelColumns),
        zero(zeros_of(g.rhs, panel) + group * zeros_step(g.rhs)),
        next_scale(g.rhs.groups * kPanelColumns),
        next_zero(g.rhs.groups * zeros_step(g.rhs)),
        lhs_sum(g.lhs.row_sum + group * g.lhs.rows + m),
        k(group * g.rhs.group_size),
        depth(min_of(g.rhs.group_size, g.rhs.padded_k - k)) {}
};

// Sums over a group, by phase and group of rows, onto the floats: from `from` to `total`, both [rows][kTileColumns]. The numbers
// come by value, as those of TileOut do.
template <class Isa, int NP, bool kInPlace, int kGroupRows, int PH, int kGroups, int NV>
EK_INLINE void add_sums(typename Isa::template Acc<kGroupRows> (&acc)[PH][kGroups][NV], const Group group, const float* from,
                        float* total) {
  using I32 = typename Isa::I32;
  constexpr int kVectors = NV / NP, kMerges = PH > 2 ? PH - 2 : 0;
  unroll<NV>([&](auto n) EK_LAMBDA_INLINE {
    constexpr int64_t kPanel = n / kVectors, kColumn = n % kVectors * Isa::kLanes;
    typename Isa::F32 scale = Isa::template load_as<EK_F16>(group.scale + kPanel * group.next_scale, kColumn);
    I32 zero = Isa::widen_u8(group.zero + kPanel * group.next_zero + kColumn);
    unroll<kGroups>([&](auto g) EK_LAMBDA_INLINE {
      // Even phases have the low nibbles' sums where high ones are in place.
      unroll<kMerges>([&](auto ph) EK_LAMBDA_INLINE { acc[ph % 2][g][n] = Isa::merge(acc[ph % 2][g][n], acc[ph + 2][g][n]); });
      if constexpr (kInPlace)
        acc[0][g][n] = Isa::merge_in_place(acc[0][g][n], acc[1][g][n]);
      else if constexpr (PH > 1)
        acc[0][g][n] = Isa::merge(acc[0][g][n], acc[1][g][n]);
      unroll<kGroupRows>([&](auto r) EK_LAMBDA_INLINE {
        constexpr int64_t m = g * kGroupRows + r, kAt = m * kTileColumns + n * Isa::kLanes;
        I32 owed = Isa::mul_i32(zero, Isa::set_i32(group.lhs_sum[m]));
        I32 sum = Isa::sub_i32(Isa::template row<r>(acc[0][g][n]), owed);
        Isa::template store_as<EK_F32>(total, kAt, Isa::fma(Isa::to_f32(sum), scale, Isa::load(from + kAt)));
      });
    });
  });
}

// MR rows from m on x one panel, to total [MR][kTileColumns]. A function of its own also where it is the only one, for the tools
// that look at hot loops know them by its name.
template <class Isa, int MR, class Source>
__attribute__((noinline)) void accumulate_groups(const GemmArgs& g, int64_t m, int64_t panel, float* total) {
  constexpr int NV = kPanelColumns / Isa::kLanes, PH = Isa::line_phases_at(MR);
  constexpr int kGroupRows = MR < Isa::kGroupRows ? MR : Isa::kGroupRows, kGroups = MR / kGroupRows;
  const uint8_t* lhs = g.lhs.data + m * g.lhs.stride;
  const float* from = kNothing;
  Source source[1] = {Source(g.rhs, panel)};
  for (int64_t i = 0; i < g.rhs.groups; ++i, from = total) {
    Group group(g, m, panel, i);
    source[0].start_group(group.zero);
    // Or the compiler carries these floats from group to group in registers, which the sums need.
    __asm__("" : "+r"(total));
    typename Isa::template Acc<kGroupRows> acc[PH][kGroups][NV];
    int8::clear<Isa, kGroupRows>(acc);
    int8::accumulate_steps<Isa, 1, Source, PH, kGroups, NV, kGroupRows>(lhs, g.lhs.stride, group.depth, source, acc);
    lhs += group.depth * Isa::kGroupRows * Isa::kLhsBytes;
    add_sums<Isa, 1, Source::kHighInPlace, kGroupRows>(acc, group, from, total);
  }
}

struct FinishArgs {
  const float* total;         // [rows][kTileColumns]
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
    F32 lhs_scale = Isa::set(f.lhs_scale[m]), zero_point = Isa::set(-static_cast<float>(f.zero_point[m]));
    return [&f, m, lhs_scale, zero_point](int64_t n) EK_LAMBDA_INLINE {
      F32 sum = Isa::fma(Isa::load(f.weight_sum + n), zero_point, Isa::load(f.total + m * kTileColumns + n));
      return Isa::fma(sum, lhs_scale, Isa::load(f.bias + n));
    };
  });
}

using Finish = void (*)(const FinishArgs&);

template <class Isa>
Finish choose_finish(const Output& output) {
  auto of = [](auto dtype, auto activation) -> Finish { return finish<Isa, dtype, activation>; };
  if (output.dtype == EK_U8) return choose_activation<EK_U8>(output.activation, of);
  return choose_output(output.dtype, output.activation, of);
}

void finish_at(const GemmArgs& g, Finish finish_tile, int64_t m, int64_t rows, int64_t n0, int64_t panels, const float* total) {
  finish_tile(
      {total,
       g.lhs.scale + m,
       g.lhs.zero_point + m,
       g.rhs.weight_sum + n0,
       g.rhs.bias + n0,
       {g.output.y, m * g.output.ld_y + n0, g.output.ld_y, rows, min_of(g.rhs.n - n0, panels * kPanelColumns), g.output.u8}});
}

// accumulate_groups for 1 <= rows <= Isa::kLineRows; see int8::TileTable.
template <class Isa, class Source>
struct AccumulateTable {
  void (*at[Isa::kLineRows])(const GemmArgs&, int64_t m, int64_t panel, float* total) = {};

  constexpr AccumulateTable() {
    unroll<Isa::kLineRows>([this](auto m) {
      constexpr int kRows = decltype(m){} + 1, kGroup = Isa::kGroupRows;
      constexpr int kTileRows = kRows == 1 ? 1 : (kRows + kGroup - 1) / kGroup * kGroup;
      at[m] = accumulate_groups<Isa, kTileRows, Source>;
    });
  }
};

template <class Isa, class Source>
void multiply_few_rows(const GemmArgs& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  static constexpr AccumulateTable<Isa, Source> kTable;
  auto accumulate_rows = kTable.at[m1 - m0 - 1];
  // A last group of rows that is not full is multiplied whole. Zero, for layers without depth.
  alignas(64) float total[(Isa::kLineRows + Isa::kGroupRows - 1) * kTileColumns] = {};
  Finish finish_tile = choose_finish<Isa>(g.output);
  for (int64_t p = p0; p < p1; p += kMaxPanels) {
    int64_t panels = min_of(kMaxPanels, p1 - p);
    for (int64_t i = 0; i < panels; ++i) accumulate_rows(g, m0, p + i, total + i * kPanelColumns);
    finish_at(g, finish_tile, m0, m1 - m0, p * kPanelColumns, panels, total);
  }
}

struct PieceArgs {
  const uint8_t* lhs;
  int64_t lhs_stride;
  const int8_t* piece;  // [panels][kMaxGroup * kPanelColumns]
  Group group;
  const float* from;
  float* total;
};

// One group of MR rows x NP panels that are unpacked.
template <class Isa, int MR, int NP>
void accumulate_piece(const PieceArgs& t) {
  constexpr int NV = NP * (kPanelColumns / Isa::kLanes), PH = Isa::phases_at(MR, NP);
  constexpr int kGroupRows = MR < Isa::kGroupRows ? MR : Isa::kGroupRows, kGroups = MR / kGroupRows;
  typename Isa::template Acc<kGroupRows> acc[PH][kGroups][NV];
  int8::clear<Isa, kGroupRows>(acc);
  int8::add_lines<Isa, MR, NP>({t.lhs, t.lhs_stride, nullptr, 0, 0}, {0, t.group.depth, 0, t.group.depth, 0}, t.piece,
                               kMaxGroup * kPanelColumns, acc);
  add_sums<Isa, NP, false, kGroupRows>(acc, t.group, t.from, t.total);
}

using AccumulatePiece = void (*)(const PieceArgs&);

template <class Isa>
constexpr int8::TileTable<Isa, AccumulatePiece> kAccumulatePiece([](auto rows, auto panels) -> AccumulatePiece {
  return accumulate_piece<Isa, rows, panels>;
});

template <class Isa, class Source>
void multiply_pieces(const GemmArgs& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  constexpr int64_t kPanels = Isa::panels_at(Isa::kRows);
  static_assert(kRowBlock % Isa::kRows == 0);
  alignas(64) int8_t piece[kPanels * kMaxGroup * kPanelColumns];
  alignas(64) float total[kRowBlock * kTileColumns];
  if (g.rhs.groups == 0) memset(total, 0, sizeof(total));
  Finish finish_tile = choose_finish<Isa>(g.output);
  for (int64_t p = p0, panels = kPanels; p < p1; p += panels) {
    while (panels > p1 - p) panels /= 2;
    for (int64_t m = m0; m < m1; m += kRowBlock) {
      int64_t rows = min_of(kRowBlock, m1 - m);
      Source source[kPanels];
      for (int64_t i = 0; i < panels; ++i) source[i] = Source(g.rhs, p + i);
      for (int64_t i = 0; i < g.rhs.groups; ++i) {
        Group group(g, m, p, i);
        for (int64_t j = 0; j < panels; ++j) {
          source[j].start_group(group.zero + j * group.next_zero);
          int8::expand_lines<Isa>(source[j], group.depth, piece + j * kMaxGroup * kPanelColumns);
        }
        const uint8_t* lhs = g.lhs.data + m * g.lhs.stride + group.k * Isa::kGroupRows * Isa::kLhsBytes;
        for (int64_t r = 0; r < rows; r += Isa::kRows) {
          float* to = total + r * kTileColumns;
          kAccumulatePiece<Isa>.at[min_of(Isa::kRows, rows - r) - 1][panels / 2](
              {lhs + r * g.lhs.stride, g.lhs.stride, piece, group, i == 0 ? kNothing : to, to});
          group.lhs_sum += Isa::kRows;
        }
      }
      finish_at(g, finish_tile, m, rows, p * kPanelColumns, panels, total);
    }
  }
}

template <class Isa, template <class> class Raw>
void gemm(const GemmArgs& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  if (m1 - m0 <= Isa::kLineRows)
    multiply_few_rows<Isa, LineSource<Isa, Raw, Isa::kHighInPlace>>(g, m0, m1, p0, p1);
  else
    multiply_pieces<Isa, LineSource<Isa, Raw, false>>(g, m0, m1, p0, p1);
}

}  // namespace
}  // namespace edgekern::int4

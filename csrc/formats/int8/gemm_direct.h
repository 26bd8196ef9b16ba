// The multiplication whose sums go from registers straight to where results belong:
//
//   to u8       scales, range and activation being folded into one scale and bias a column (U8Output)
//   to a sum    of them, as floats, and another image (sum.h)
//
// A tile in between, as in gemm.h, would cost more than the products do where K is short, as it is in the 1x1 convolutions of
// small networks.
#pragma once

#include "formats/int8/gemm.h"
#include "formats/int8/sum.h"

namespace edgekern::int8 {
namespace {

// Rows of one span, scale and zero point, by up to kTileColumns columns.
struct DirectTiles {
  LhsRows lhs;
  int64_t m0, m1;
  Span span;
  const int8_t* rhs;
  int64_t panel_bytes;
  const int32_t* owed;  // [kTileColumns]: to subtract from each sum
  const float* scale;   // [columns], as is the next
  const float* bias;
  int64_t n0, columns;
  const Output* output;
};

template <class Isa>
struct ToU8 {
  uint8_t* y;
  int64_t ld_y;
  int32_t low, high;

  EK_INLINE explicit ToU8(const Output& to) : y(static_cast<uint8_t*>(to.y)), ld_y(to.ld_y), low(to.u8.low), high(to.u8.high) {}
  EK_INLINE void store(typename Isa::F32 (&v)[Isa::kParts], int64_t m, int64_t n, int64_t count) const {
    Isa::store_rounded(y + m * ld_y + n, v, low, high, count);
  }
};

template <class Isa>
struct ToSum : Sums<Isa, EK_F32> {
  EK_INLINE explicit ToSum(const Output& to) : Sums<Isa, EK_F32>(*to.sum) {}
};

// The sums of row m, kParts vectors at a time. sum(n) is vector n.
template <class Isa, int NV, class To, class Sum>
EK_INLINE void store_direct(const DirectTiles& t, const To& to, int64_t m, Sum&& sum) {
  constexpr int kParts = Isa::kParts;
  unroll<(NV + kParts - 1) / kParts>([&](auto step) EK_LAMBDA_INLINE {
    constexpr int64_t kFirst = step * kParts * Isa::kLanes, kStep = kParts * Isa::kLanes;
    typename Isa::F32 v[kParts];
    unroll<kParts>([&](auto part) EK_LAMBDA_INLINE {
      constexpr int n = step * kParts + part;
      if constexpr (n < NV)
        v[part] =
            Isa::fma(Isa::to_f32(sum(Index<n>{})), Isa::load(t.scale + n * Isa::kLanes), Isa::load(t.bias + n * Isa::kLanes));
      else
        v[part] = Isa::set(0.0f);
    });
    const int64_t left = t.columns - kFirst;
    if (left >= kStep)
      to.store(v, m, t.n0 + kFirst, kStep);
    else if (left > 0)
      to.store(v, m, t.n0 + kFirst, left);
  });
}

// All of t's rows, MR at a time; the last tile may have fewer.
template <class Isa, int MR, int NP, class To>
void direct_tiles(const DirectTiles& tiles) {
  constexpr int NV = NP * (kPanelColumns / Isa::kLanes), PH = Isa::phases_at(MR, NP);
  constexpr int kGroupRows = MR < Isa::kGroupRows ? MR : Isa::kGroupRows, kGroups = MR / kGroupRows;
  const DirectTiles t = tiles;  // by value: y may alias what is behind a reference
  const To to(*t.output);
  const int32_t* places = kPlainRows<Isa> && t.lhs.windows != nullptr ? t.lhs.windows->places : nullptr;
  for (int64_t m = t.m0; m < t.m1; m += MR) {
    typename Isa::template Acc<kGroupRows> acc[PH][kGroups][NV];
    clear<Isa, kGroupRows>(acc);
    add_lines<Isa, MR, NP>(lhs_at<Isa>(t.lhs, m, 0), t.span, t.rhs, t.panel_bytes, acc);
    unroll<kGroups>([&](auto g) EK_LAMBDA_INLINE {
      unroll<NV>([&](auto n) EK_LAMBDA_INLINE {
        unroll<PH - 1>([&](auto ph) EK_LAMBDA_INLINE { acc[0][g][n] = Isa::merge(acc[0][g][n], acc[ph + 1][g][n]); });
      });
      unroll<kGroupRows>([&](auto r) EK_LAMBDA_INLINE {
        constexpr int kRow = g * kGroupRows + r;
        if (MR > 1 && kRow >= t.m1 - m) return;
        store_direct<Isa, NV>(t, to, places != nullptr ? places[m + kRow] : m + kRow, [&](auto n) EK_LAMBDA_INLINE {
          auto sum = Isa::sub_i32(Isa::template row<r>(acc[0][g][n]), Isa::load_i32(t.owed + n * Isa::kLanes));
          if constexpr (!kPlainRows<Isa>) sum = Isa::add_i32(sum, Isa::set_i32(t.lhs.row_sum[m + kRow]));
          return sum;
        });
      });
    });
  }
}

using Direct = void (*)(const DirectTiles&);

template <class Isa, class To>
constexpr TileTable<Isa, Direct> kDirect([](auto rows, auto panels) -> Direct { return direct_tiles<Isa, rows, panels, To>; });

// What columns [n0, n0 + count) owe, all rows having one zero point.
template <class Isa>
void owed_by_columns(const RhsPanels& rhs, int32_t zero_point, int64_t n0, int64_t count, int32_t* owed) {
  const auto zero = Isa::set_i32(zero_point);
  for (int64_t n = 0; n < count; n += Isa::kLanes) {
    auto each = Isa::mul_i32(zero, Isa::load_i32(rhs.column_sum + n0 + n));
    if constexpr (Isa::kOrder.odd_sums) each = Isa::add_i32(each, Isa::load_i32(rhs.odd_sum + n0 + n));
    Isa::store_i32(owed + n, each);
  }
}

// As gemm_by_tiles, where K is one block.
template <class Isa, class To>
void gemm_direct(const GemmArgs& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  alignas(64) int32_t owed[kTileColumns];
  alignas(64) float scale[kTileColumns];
  const int64_t panel_bytes = g.rhs.padded_k * kPanelColumns;
  for (int64_t p = p0, panels = 0; p < p1; p += panels) {
    panels = Isa::panels_at(static_cast<int>(min_of(Isa::kRows, m1 - m0)));
    while (panels > p1 - p) panels /= 2;
    const int64_t n0 = p * kPanelColumns, columns = panels * kPanelColumns;
    owed_by_columns<Isa>(g.rhs, g.lhs.zero_point[m0], n0, columns, owed);
    for (int64_t n = 0; n < columns; ++n) scale[n] = g.lhs.scale[m0] * g.rhs.scale[n0 + n];
    auto run = [&](int64_t from, int64_t to, int64_t rows, const Span& span) {
      if (from == to) return;
      kDirect<Isa, To>.at[rows - 1][panels / 2](  // 1, 2, 4 -> 0, 1, 2
          {.lhs = g.lhs,
           .m0 = from,
           .m1 = to,
           .span = span,
           .rhs = g.rhs.panels + p * panel_bytes,
           .panel_bytes = panel_bytes,
           .owed = owed,
           .scale = g.output.u8.folded ? g.rhs.scale + n0 : scale,
           .bias = g.rhs.bias + n0,
           .n0 = n0,
           .columns = min_of(g.rhs.n - n0, columns),
           .output = &g.output});
    };
    for (int64_t m = m0, end; m < m1; m = end) {
      end = g.lhs.spans == nullptr ? m1 : min_of(m1, m + g.lhs.spans[m].same);
      const Span span = span_of<Isa>(g.lhs, m, 1, g.rhs.padded_k);
      int64_t whole = m + (end - m) / Isa::kRows * Isa::kRows, half = whole;
      // A row or two would wait for weights as long as more do: they go with the tile before them, in two halves.
      if (whole > m && whole < end && end - whole <= Isa::kRows / 3) {
        whole -= Isa::kRows;
        half = whole + round_up(ceil_div(end - whole, 2), Isa::kGroupRows);
      }
      run(m, whole, Isa::kRows, span);
      run(whole, half, half - whole, span);
      run(half, end, end - half, span);
    }
  }
}

template <class Isa>
void gemm(const GemmArgs& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  if (g.output.sum != nullptr) return gemm_direct<Isa, ToSum<Isa>>(g, m0, m1, p0, p1);
  const bool folded = !g.output.integers && g.output.dtype == EK_U8 && g.output.u8.folded;
  if (folded && g.rhs.blocks == 1) return gemm_direct<Isa, ToU8<Isa>>(g, m0, m1, p0, p1);
  gemm_by_tiles<Isa>(g, m0, m1, p0, p1);
}

}  // namespace
}  // namespace edgekern::int8

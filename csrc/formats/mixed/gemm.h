// f32 activations by packed weights: README.md says how.
//
// Register budgets. Few rows: rows x 16 channels x phases of sums, and zero points, kMixedSums of both at most; the words of a
// unit; a weight and an activation. More: kMixedRows x kMixedPanels panels of sums, the weights of one k, an activation: 12 x 32 is 24 + 2 + 1 of
// AVX-512's 32 registers, 6 x 16 is 12 + 2 + 1 of AVX2's 16, and 24 + 4 + 1 of NEON's 32.
#pragma once

#include <string.h>

#include "base/math.h"
#include "formats/finish.h"
#include "formats/mixed/weights.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::mixed {
namespace {

constexpr int64_t kRowBlock = 96, kPieceDepth = 128;  // multiples of every kMixedRows, of every group

// ------------------------------------------------------------------------------------------------ activations

// Rows [m0, m1) of lhs as f32, with zeros up to padded_k. A row of `out` has room for a vector beyond that.
template <class Isa, ek_dtype D>
void load_rows_as(const void* x, int64_t ld_x, int64_t k, int64_t padded_k, int64_t m0, int64_t m1, const LhsRows& out) {
  constexpr int64_t kBytes = D == EK_F32 ? 4 : 2;
  for (int64_t m = m0; m < m1; ++m) {
    const char* row = static_cast<const char*>(x) + m * ld_x * kBytes;
    float* to = out.data + m * out.stride;
    int64_t i = 0;
    for (; i + Isa::kLanes <= k; i += Isa::kLanes) Isa::template store_as<EK_F32>(to, i, Isa::template load_as<D>(row, i));
    if (i < k) {
      alignas(64) char tail[Isa::kLanes * kBytes] = {};
      memcpy(tail, row + i * kBytes, static_cast<size_t>((k - i) * kBytes));
      Isa::template store_as<EK_F32>(to, i, Isa::template load_as<D>(tail, 0));
    }
    for (i = k; i < padded_k; ++i) to[i] = 0.0f;
  }
}

template <class Isa>
void load_rows(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, int64_t padded_k, int64_t m0, int64_t m1,
               const LhsRows& out) {
  if (dtype == EK_F32) return load_rows_as<Isa, EK_F32>(x, ld_x, k, padded_k, m0, m1, out);
  if (dtype == EK_F16) return load_rows_as<Isa, EK_F16>(x, ld_x, k, padded_k, m0, m1, out);
  return load_rows_as<Isa, EK_BF16>(x, ld_x, k, padded_k, m0, m1, out);
}

// ------------------------------------------------------------------------------------------------ the way out

template <class Isa, ek_dtype D, ek_activation A, bool kScaled>
void finish(const float* total, const float* scale, const float* bias, TileOut to) {
  store_tile<Isa, D, A>(to, [&](int64_t m) EK_LAMBDA_INLINE {
    return [=](int64_t n) EK_LAMBDA_INLINE {
      typename Isa::F32 sum = Isa::load(total + m * kTileColumns + n);
      if constexpr (kScaled) return Isa::fma(sum, Isa::load(scale + n), Isa::load(bias + n));
      return Isa::add(sum, Isa::load(bias + n));
    };
  });
}

using Finish = void (*)(const float* total, const float* scale, const float* bias, TileOut to);

template <class Isa, bool kScaled>
Finish choose_finish(const Output& output) {
  return choose_output(output.dtype, output.activation,
                       [](auto dtype, auto activation) -> Finish { return finish<Isa, dtype, activation, kScaled>; });
}

inline const float* scale_of(const int8::RhsPanels& rhs) { return rhs.scale; }
inline const float* scale_of(const int4::RhsPanels&) { return nullptr; }

template <class Rhs>
void finish_at(const Args<Rhs>& g, Finish finish_tile, int64_t m, int64_t rows, int64_t n0, int64_t panels,
               const float* total) {
  const float* scale = scale_of(g.rhs);
  finish_tile(total, scale == nullptr ? nullptr : scale + n0, g.rhs.bias + n0,
              {g.output.y, m * g.output.ld_y + n0, g.output.ld_y, rows, min_of(g.rhs.n - n0, panels * kColumns)});
}

// ------------------------------------------------------------------------------------------------ few rows

// MR rows from m on x one panel, added to total [MR][kTileColumns].
template <class Isa, int MR, class Source>
void accumulate_few(const Args<typename Source::Rhs>& g, int64_t m, int64_t panel, float* total) {
  using F32 = typename Isa::F32;
  constexpr int NV = kVectors<Isa>, kMost = (Isa::kMixedSums - Source::kKept) / (NV * MR);
  constexpr int PH = kMost >= 4 ? 4 : kMost >= 2 ? 2 : 1;
  const int64_t stride = g.lhs.stride, padded_k = g.rhs.padded_k, group_size = Source::group_size(g.rhs);
  const float* x[MR];
  unroll<MR>([&](auto r) EK_LAMBDA_INLINE { x[r] = g.lhs.data + (m + r) * stride; });
  Source source(g.rhs, panel);
  for (int64_t k = 0; k < padded_k; k += group_size) {
    source.start_group();
    F32 acc[PH][MR][NV];
    unroll<PH>([&](auto ph) EK_LAMBDA_INLINE {
      unroll<MR>([&](auto r)
                     EK_LAMBDA_INLINE { unroll<NV>([&](auto v) EK_LAMBDA_INLINE { acc[ph][r][v] = Isa::set(0.0f); }); });
    });
    int64_t i = k, end = k + min_of(group_size, padded_k - k);
    do {
      if constexpr (Isa::kMixedAhead > 0)
        for (int64_t line = 0; line < Source::kUnitBytes; line += 64) __builtin_prefetch(source.at + Isa::kMixedAhead + line);
      Words<Isa> words[NV];
      unroll<NV>([&](auto v) EK_LAMBDA_INLINE { words[v] = source.template words<v>(); });
      unroll<kUnit>([&](auto j) EK_LAMBDA_INLINE {
        F32 w[NV];
        unroll<NV>([&](auto v) EK_LAMBDA_INLINE { w[v] = source.template weight<v, j>(words[v]); });
        unroll<MR>([&](auto r) EK_LAMBDA_INLINE {
          F32 a = Isa::set(x[r][i + j]);
          unroll<NV>([&](auto v) EK_LAMBDA_INLINE { acc[j % PH][r][v] = Isa::fma_onto(acc[j % PH][r][v], w[v], a); });
        });
      });
      i += kUnit;
      source.at += Source::kUnitBytes;
    } while (i < end);
    unroll<NV>([&](auto v) EK_LAMBDA_INLINE {
      unroll<MR>([&](auto r) EK_LAMBDA_INLINE {
        unroll<PH - 1>([&](auto ph) EK_LAMBDA_INLINE { acc[0][r][v] = Isa::add(acc[0][r][v], acc[ph + 1][r][v]); });
        float* to = total + r * kTileColumns + v * Isa::kLanes;
        Isa::template store_as<EK_F32>(to, 0, source.template add<v>(acc[0][r][v], Isa::load(to)));
      });
    });
  }
}

template <class Isa, class Source>
void multiply_few_rows(const Args<typename Source::Rhs>& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  using Accumulate = void (*)(const Args<typename Source::Rhs>&, int64_t m, int64_t panel, float* total);
  struct Table {
    Accumulate at[Isa::kMixedFewRows] = {};
    constexpr Table() {
      unroll<Isa::kMixedFewRows>([this](auto m) { at[m] = accumulate_few<Isa, decltype(m){} + 1, Source>; });
    }
  };
  static constexpr Table kTable;
  constexpr int64_t kPanels = kTileColumns / kColumns;
  alignas(64) float total[Isa::kMixedFewRows * kTileColumns];
  Finish finish_tile = choose_finish<Isa, !Source::kGroups>(g.output);
  for (int64_t p = p0; p < p1; p += kPanels) {
    int64_t panels = min_of(kPanels, p1 - p);
    memset(total, 0, sizeof(total));
    for (int64_t i = 0; i < panels; ++i) kTable.at[m1 - m0 - 1](g, m0, p + i, total + i * kColumns);
    finish_at(g, finish_tile, m0, m1 - m0, p * kColumns, panels, total);
  }
}

// ------------------------------------------------------------------------------------------------ more rows

// The next `depth` values of k of a panel as floats, to out [depth][width]; `depth` ends a group, or K.
template <class Isa, class Source>
void expand_piece(Source& panel, int64_t depth, int64_t group_size, int64_t width, float* out) {
  Source source = panel;
  for (int64_t k = 0; k < depth; k += group_size) {
    source.start_group();
    for (int64_t i = min_of(group_size, depth - k); i > 0; i -= kUnit, source.at += Source::kUnitBytes, out += kUnit * width)
      unroll<kVectors<Isa>>([&](auto v) EK_LAMBDA_INLINE {
        Words<Isa> words = source.template words<v>();
        unroll<kUnit>([&](auto j) EK_LAMBDA_INLINE {
          Isa::template store_as<EK_F32>(out, j * width + v * Isa::kLanes,
                                         source.template scaled<v>(source.template weight<v, j>(words)));
        });
      });
  }
  panel = source;
}

// MR rows x NP panels of a piece [depth][NP * 16], added to total [MR][kTileColumns].
template <class Isa, int MR, int NP>
void accumulate_piece(const float* lhs, int64_t stride, int64_t depth, const float* piece, float* total) {
  using F32 = typename Isa::F32;
  constexpr int NV = NP * kVectors<Isa>;
  F32 acc[MR][NV];
  unroll<MR>([&](auto r) EK_LAMBDA_INLINE {
    unroll<NV>([&](auto v) EK_LAMBDA_INLINE { acc[r][v] = Isa::load(total + r * kTileColumns + v * Isa::kLanes); });
  });
  for (const float* end = lhs + depth; lhs < end; ++lhs, piece += NP * kColumns) {
    F32 w[NV];
    unroll<NV>([&](auto v) EK_LAMBDA_INLINE { w[v] = Isa::load(piece + v * Isa::kLanes); });
    unroll<MR>([&](auto r) EK_LAMBDA_INLINE {
      F32 a = Isa::set(lhs[r * stride]);
      unroll<NV>([&](auto v) EK_LAMBDA_INLINE { acc[r][v] = Isa::fma_onto(acc[r][v], w[v], a); });
    });
  }
  unroll<MR>([&](auto r) EK_LAMBDA_INLINE {
    unroll<NV>([&](auto v)
                   EK_LAMBDA_INLINE { Isa::template store_as<EK_F32>(total, r * kTileColumns + v * Isa::kLanes, acc[r][v]); });
  });
}

template <class Isa>
struct PieceTable {
  using Accumulate = void (*)(const float* lhs, int64_t stride, int64_t depth, const float* piece, float* total);
  Accumulate at[Isa::kMixedRows][2] = {};  // [rows - 1][one panel, kMixedPanels]

  constexpr PieceTable() {
    unroll<Isa::kMixedRows>([this](auto m) {
      constexpr int kRows = decltype(m){} + 1;
      at[m][0] = accumulate_piece<Isa, kRows, 1>;
      at[m][1] = accumulate_piece<Isa, kRows, Isa::kMixedPanels>;
    });
  }
};

template <class Isa>
constexpr PieceTable<Isa> kPieces;

template <class Isa, class Source>
void multiply_pieces(const Args<typename Source::Rhs>& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  constexpr int64_t kPanels = Isa::kMixedPanels, kRows = Isa::kMixedRows;
  static_assert(kRowBlock % kRows == 0 && kPanels * kColumns <= kTileColumns);
  alignas(64) float piece[kPieceDepth * kPanels * kColumns];
  alignas(64) float total[kRowBlock * kTileColumns];
  Finish finish_tile = choose_finish<Isa, !Source::kGroups>(g.output);
  const int64_t padded_k = g.rhs.padded_k, group_size = min_of(Source::group_size(g.rhs), kPieceDepth), stride = g.lhs.stride;
  for (int64_t p = p0, panels = kPanels; p < p1; p += panels) {
    if (panels > p1 - p) panels = 1;
    for (int64_t m = m0; m < m1; m += kRowBlock) {
      int64_t rows = min_of(kRowBlock, m1 - m);
      Source source[kPanels];
      for (int64_t i = 0; i < panels; ++i) source[i] = Source(g.rhs, p + i);
      memset(total, 0, static_cast<size_t>(rows * kTileColumns) * sizeof(float));
      for (int64_t k = 0; k < padded_k; k += kPieceDepth) {
        int64_t depth = min_of(kPieceDepth, padded_k - k);
        for (int64_t i = 0; i < panels; ++i)
          expand_piece<Isa>(source[i], depth, group_size, panels * kColumns, piece + i * kColumns);
        for (int64_t r = 0; r < rows; r += kRows)
          kPieces<Isa>.at[min_of(kRows, rows - r) - 1][panels > 1](g.lhs.data + (m + r) * stride + k, stride, depth, piece,
                                                                   total + r * kTileColumns);
      }
      finish_at(g, finish_tile, m, rows, p * kColumns, panels, total);
    }
  }
}

// ------------------------------------------------------------------------------------------------

template <class Isa, class Source>
void multiply(const Args<typename Source::Rhs>& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  (g.lhs.rows <= Isa::kMixedFewRows ? multiply_few_rows<Isa, Source> : multiply_pieces<Isa, Source>)(g, m0, m1, p0, p1);
}

template <class Isa>
void gemm_int8(const Args<int8::RhsPanels>& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  multiply<Isa, Int8Weights<Isa, Isa::kOrder.line_depth>>(g, m0, m1, p0, p1);
}

// kDepth: that of int4's lines, which may be the vocabulary's of another struct.
template <class Isa, int kDepth>
void gemm_int4(const Args<int4::RhsPanels>& g, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
  using Symmetric = Int4Weights<Isa, kDepth, false>;
  using WithZeros = Int4Weights<Isa, kDepth, true>;
  (g.rhs.zero == nullptr ? multiply<Isa, Symmetric> : multiply<Isa, WithZeros>)(g, m0, m1, p0, p1);
}

}  // namespace
}  // namespace edgekern::mixed

// The way out of every int8 kernel: a tile of sums to y. Scale, bias, activation, dtype.
#pragma once

#include <string.h>

#include "formats/int8/activation.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int8 {
namespace {

constexpr int64_t kTileColumns = 64;  // from one row of a tile to the next

// One tile on its way out: int32 sums, or float ones where K took several blocks.
struct FinishArgs {
  const int32_t* tile;
  const float* total;      // instead of tile when not nullptr
  const float* lhs_scale;  // [rows]
  const float* rhs_scale;  // [columns]
  const float* bias;       // [columns]
  void* y;
  int64_t start, ld_y;  // of the tile in y, in elements
  int64_t rows, columns;
};

template <class Isa, ek_dtype D, ek_activation A>
void finish(const FinishArgs& args) {
  using F32 = typename Isa::F32;
  const FinishArgs f = args;  // y may alias what is behind a reference: every field would be read again after every store
  for (int64_t m = 0; m < f.rows; ++m) {
    F32 lhs_scale = Isa::set(f.lhs_scale[m]);
    int64_t out = f.start + m * f.ld_y, n = 0;
    auto value = [&]() EK_LAMBDA_INLINE {
      int64_t at = m * kTileColumns + n;
      F32 sum = f.total != nullptr ? Isa::load(f.total + at) : Isa::to_f32(Isa::load_i32(f.tile + at));
      F32 scale = Isa::mul(lhs_scale, Isa::load(f.rhs_scale + n));
      return activate<Isa, A>(Isa::fma(sum, scale, Isa::load(f.bias + n)));
    };
    for (; n + Isa::kLanes <= f.columns; n += Isa::kLanes) Isa::template store_as<D>(f.y, out + n, value());
    if (n < f.columns) Isa::template store_as<D>(f.y, out + n, value(), f.columns - n);
  }
}

template <class Isa>
void finish_integers(const FinishArgs& f) {
  for (int64_t m = 0; m < f.rows; ++m)
    memcpy(static_cast<int32_t*>(f.y) + f.start + m * f.ld_y, f.tile + m * kTileColumns,
           static_cast<size_t>(f.columns) * sizeof(int32_t));
}

using Finish = void (*)(const FinishArgs&);

template <class Isa, ek_dtype D>
Finish choose_finish(ek_activation activation) {
  switch (activation) {
    case EK_RELU:
      return finish<Isa, D, EK_RELU>;
    case EK_GELU:
      return finish<Isa, D, EK_GELU>;
    case EK_GELU_TANH:
      return finish<Isa, D, EK_GELU_TANH>;
    case EK_SILU:
      return finish<Isa, D, EK_SILU>;
    default:
      return finish<Isa, D, EK_NONE>;
  }
}

template <class Isa>
Finish choose_finish(const Output& output) {
  if (output.integers) return finish_integers<Isa>;
  if (output.dtype == EK_F32) return choose_finish<Isa, EK_F32>(output.activation);
  if (output.dtype == EK_F16) return choose_finish<Isa, EK_F16>(output.activation);
  return choose_finish<Isa, EK_BF16>(output.activation);
}

}  // namespace
}  // namespace edgekern::int8

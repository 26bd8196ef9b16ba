// int8 sums to y: scales and bias, on the way that all formats take (formats/finish.h).
#pragma once

#include <string.h>

#include "formats/finish.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int8 {
namespace {

// One tile on its way out: int32 sums, or float ones where K took several blocks.
struct FinishArgs {
  const int32_t* tile;
  const float* total;      // instead of tile when not nullptr
  const float* lhs_scale;  // [rows]
  const float* rhs_scale;  // [columns]
  const float* bias;       // [columns]
  TileOut to;
};

template <class Isa, ek_dtype D, ek_activation A>
void finish(const FinishArgs& args) {
  using F32 = typename Isa::F32;
  const FinishArgs f = args;  // see TileOut
  store_tile<Isa, D, A>(f.to, [&](int64_t m) EK_LAMBDA_INLINE {
    F32 lhs_scale = Isa::set(f.lhs_scale[m]);
    return [&f, m, lhs_scale](int64_t n) EK_LAMBDA_INLINE {
      int64_t at = m * kTileColumns + n;
      F32 sum = f.total != nullptr ? Isa::load(f.total + at) : Isa::to_f32(Isa::load_i32(f.tile + at));
      F32 scale = Isa::mul(lhs_scale, Isa::load(f.rhs_scale + n));
      return Isa::fma(sum, scale, Isa::load(f.bias + n));
    };
  });
}

void finish_integers(const FinishArgs& f) {
  for (int64_t m = 0; m < f.to.rows; ++m)
    memcpy(static_cast<int32_t*>(f.to.y) + f.to.start + m * f.to.ld_y, f.tile + m * kTileColumns,
           static_cast<size_t>(f.to.columns) * sizeof(int32_t));
}

// To u8, with everything folded into scale and bias: U8Output.
template <class Isa>
void finish_folded(const FinishArgs& args) {
  using F32 = typename Isa::F32;
  constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  const FinishArgs f = args;  // see TileOut
  for (int64_t n = 0; n < f.to.columns; n += kStep) {
    F32 scale[Isa::kParts], bias[Isa::kParts], v[Isa::kParts];
    unroll<Isa::kParts>([&](auto part) EK_LAMBDA_INLINE {
      int64_t at = n + part * Isa::kLanes;
      scale[part] = at < f.to.columns ? Isa::load(f.rhs_scale + at) : Isa::set(0.0f);
      bias[part] = at < f.to.columns ? Isa::load(f.bias + at) : Isa::set(0.0f);
    });
    const int64_t left = min_of(kStep, f.to.columns - n);
    for (int64_t m = 0; m < f.to.rows; ++m) {
      unroll<Isa::kParts>([&](auto part) EK_LAMBDA_INLINE {
        int64_t at = m * kTileColumns + n + part * Isa::kLanes;
        F32 sum = f.total != nullptr ? Isa::load(f.total + at) : Isa::to_f32(Isa::load_i32(f.tile + at));
        v[part] = Isa::fma(sum, scale[part], bias[part]);
      });
      uint8_t* y = static_cast<uint8_t*>(f.to.y) + f.to.start + m * f.to.ld_y + n;
      typename Isa::Bytes bytes = Isa::round_bytes(v, f.to.u8.low, f.to.u8.high);
      if (left == kStep) {
        Isa::store_bytes(y, bytes);
      } else {
        alignas(64) uint8_t step[kStep];
        Isa::store_bytes(step, bytes);
        copy_bytes(y, step, left);
      }
    }
  }
}

using Finish = void (*)(const FinishArgs&);

template <class Isa>
Finish choose_finish(const Output& output) {
  if (output.integers) return finish_integers;
  if (output.dtype == EK_U8 && output.u8.folded) return finish_folded<Isa>;
  auto of = [](auto dtype, auto activation) -> Finish { return finish<Isa, dtype, activation>; };
  if (output.dtype == EK_U8) return choose_activation<EK_U8>(output.activation, of);
  return choose_output(output.dtype, output.activation, of);
}

}  // namespace
}  // namespace edgekern::int8

// The way out of every kernel: a tile of sums to y. What makes a value of a sum is the format's; activation and dtype are not.
#pragma once

#include <stdint.h>

#include "formats/activation.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern {
namespace {

constexpr int64_t kTileColumns = 64;  // from one row of a tile to the next

// Where a tile goes. Hand it on by value: y may alias what is behind a reference, and every field would be read again after
// every store.
struct TileOut {
  void* y;
  int64_t start, ld_y;  // of the tile in y, in elements
  int64_t rows, columns;
  U8Output u8 = {};
};

// A row of a tile as u8, kParts vectors at a time. value(n) is not asked for columns beyond the last vector.
template <class Isa, ek_activation A, class Value>
EK_INLINE void store_u8(uint8_t* y, const TileOut& to, Value&& value) {
  constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  const typename Isa::F32 inverse = Isa::set(to.u8.inverse), zero_point = Isa::set(static_cast<float>(to.u8.zero_point));
  auto scaled = [&](int64_t at) EK_LAMBDA_INLINE { return Isa::fma(activate_apart<Isa, A>(value(at)), inverse, zero_point); };
  for (int64_t n = 0; n < to.columns; n += kStep) {
    typename Isa::F32 v[Isa::kParts];
    unroll<Isa::kParts>([&](auto part) EK_LAMBDA_INLINE {
      int64_t at = n + part * Isa::kLanes;
      v[part] = at < to.columns ? scaled(at) : Isa::set(0.0f);
    });
    Isa::store_rounded(y + n, v, 0, 255, to.columns - n);
  }
}

// y = activation of row(m)(n) for every row of the tile and each kLanes columns from n on.
template <class Isa, ek_dtype D, ek_activation A, class Row>
EK_INLINE void store_tile(const TileOut to, Row&& row) {
  [[maybe_unused]] const int64_t whole = to.columns / Isa::kLanes * Isa::kLanes, left = to.columns - whole;
  for (int64_t m = 0; m < to.rows; ++m) {
    auto value = row(m);
    int64_t out = to.start + m * to.ld_y;
    if constexpr (D == EK_U8) {
      store_u8<Isa, A>(static_cast<uint8_t*>(to.y) + out, to, value);
    } else {
      for (int64_t n = 0; n < whole; n += Isa::kLanes) Isa::template store_as<D>(to.y, out + n, activate<Isa, A>(value(n)));
      if (left > 0) Isa::template store_as<D>(to.y, out + whole, activate<Isa, A>(value(whole)), left);
    }
  }
}

template <auto kValue>
struct Constant {
  constexpr operator decltype(kValue)() const { return kValue; }
};

// What of(dtype, activation) returns, which gets both as Constants.
template <ek_dtype D, class Of>
auto choose_activation(ek_activation activation, Of&& of) {
  Constant<D> dtype;
  switch (activation) {
    case EK_RELU:
      return of(dtype, Constant<EK_RELU>{});
    case EK_GELU:
      return of(dtype, Constant<EK_GELU>{});
    case EK_GELU_TANH:
      return of(dtype, Constant<EK_GELU_TANH>{});
    case EK_SILU:
      return of(dtype, Constant<EK_SILU>{});
    case EK_RELU6:
      return of(dtype, Constant<EK_RELU6>{});
    case EK_HARDSWISH:
      return of(dtype, Constant<EK_HARDSWISH>{});
    default:
      return of(dtype, Constant<EK_NONE>{});
  }
}

template <class Of>
auto choose_output(ek_dtype dtype, ek_activation activation, Of&& of) {
  if (dtype == EK_F32) return choose_activation<EK_F32>(activation, of);
  if (dtype == EK_F16) return choose_activation<EK_F16>(activation, of);
  return choose_activation<EK_BF16>(activation, of);
}

}  // namespace
}  // namespace edgekern

// Sums of two images: floats, or u8 that stands for floats, to either.
//
//   a, b      floats as they are; u8 as (q - zero_point) * scale, one rounding
//   y         act(a + b), the sum rounded to the floats' dtype before the activation, which then rounds nothing
//   u8        of that, as a convolution rounds floats that it reads (quantize.h): a reader finds the bytes it would have made
#pragma once

#include <string.h>

#include "formats/int8/quantize.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int8 {
namespace {

// kParts vectors from element `at` on, `count` of which exist.
template <class Isa, ek_dtype D>
EK_INLINE void load_addend(const Addend& from, int64_t at, int64_t count, typename Isa::F32 (&v)[Isa::kParts]) {
  constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  if (from.dtype != EK_U8) return load_parts<Isa, D>(from.data, at, at + count, v);
  const uint8_t* q = static_cast<const uint8_t*>(from.data) + at;
  alignas(64) uint8_t tail[kStep];
  if (count < kStep) {
    copy_bytes(tail, q, count);
    q = tail;
  }
  const typename Isa::F32 scale = Isa::set(from.scale);
  const typename Isa::I32 zero_point = Isa::set_i32(from.zero_point);
  unroll<Isa::kParts>([&](auto part) EK_LAMBDA_INLINE {
    v[part] = Isa::mul(Isa::to_f32(Isa::sub_i32(Isa::load_u8(q + part * Isa::kLanes), zero_point)), scale);
  });
}

// Whatever the activation is: limits that let a NaN through.
template <class Isa>
struct Limits {
  typename Isa::F32 low, high;

  EK_INLINE explicit Limits(ek_activation activation)
      : low(Isa::set(activation == EK_NONE ? -__builtin_inff() : 0.0f)),
        high(Isa::set(activation == EK_RELU6 ? 6.0f : __builtin_inff())) {}
  EK_INLINE typename Isa::F32 of(typename Isa::F32 v) const { return Isa::min(high, Isa::max(low, v)); }
};

// A row, all of it or up to a step's end, to y.
template <class Isa, ek_dtype D>
EK_INLINE void store_sum(const SumArgs& args, const Limits<Isa>& limits, const Bounds<Isa>& bounds, const RowScale& scale,
                         typename Isa::F32 (&v)[Isa::kParts], int64_t at, int64_t count) {
  constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  const bool rounds = D != EK_F32 && args.dtype == EK_U8;
  unroll<Isa::kParts>([&](auto part) EK_LAMBDA_INLINE {
    if (rounds) {
      alignas(64) char halves[Isa::kLanes * 4];
      Isa::template store_as<D>(halves, 0, v[part]);
      v[part] = Isa::template load_as<D>(halves, 0);
    }
    v[part] = limits.of(v[part]);
    const int64_t left = count - part * Isa::kLanes;
    if (args.dtype == EK_U8 || left <= 0) return;
    left >= Isa::kLanes ? Isa::template store_as<D>(args.y, at + part * Isa::kLanes, v[part])
                        : Isa::template store_as<D>(args.y, at + part * Isa::kLanes, v[part], left);
  });
  if (args.dtype != EK_U8) return;
  bounds.hold(v);
  uint8_t* y = static_cast<uint8_t*>(args.y) + at;
  const auto bytes = Isa::to_bytes(v, Isa::set(scale.inverse), Isa::set_i32(scale.zero_point));
  if (count == kStep) return Isa::store_bytes(y, bytes);
  alignas(64) uint8_t tail[kStep];
  Isa::store_bytes(tail, bytes);
  copy_bytes(y, tail, count);
}

// What is added to rows of kParts vectors, and where they go: made once for many of them. y may alias what is behind a reference, so
// all of it is held by value.
template <class Isa, ek_dtype D>
struct Sums {
  SumArgs args;
  RowScale scale;
  Bounds<Isa> bounds;
  Limits<Isa> limits;

  EK_INLINE explicit Sums(const SumArgs& all)
      : args(all),
        scale(scale_of(all.dtype == EK_U8 ? all.range : ek_int8_range{1.0f, 0})),
        bounds(scale.scale),
        limits(all.activation) {}

  // v, of row m and `count` columns from n on.
  EK_INLINE void store(typename Isa::F32 (&v)[Isa::kParts], int64_t m, int64_t n, int64_t count) const {
    typename Isa::F32 other[Isa::kParts];
    load_addend<Isa, D>(args.b, m * args.b.stride + n, count, other);
    unroll<Isa::kParts>([&](auto part) EK_LAMBDA_INLINE { v[part] = Isa::add(v[part], other[part]); });
    store_sum<Isa, D>(args, limits, bounds, scale, v, m * args.ld_y + n, count);
  }
};

template <class Isa, ek_dtype D>
void add_rows(const SumArgs& args, int64_t rows, int64_t columns) {
  constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  const Sums<Isa, D> sums(args);
  for (int64_t m = 0; m < rows; ++m)
    for (int64_t n = 0; n < columns; n += kStep) {
      const int64_t count = min_of(kStep, columns - n);
      typename Isa::F32 v[Isa::kParts];
      load_addend<Isa, D>(sums.args.a, m * sums.args.a.stride + n, count, v);
      sums.store(v, m, n, count);
    }
}

template <class Isa>
void add_images(const SumArgs& args, int64_t rows, int64_t columns) {
  if (args.floats == EK_F32) return add_rows<Isa, EK_F32>(args, rows, columns);
  if (args.floats == EK_F16) return add_rows<Isa, EK_F16>(args, rows, columns);
  add_rows<Isa, EK_BF16>(args, rows, columns);
}

}  // namespace
}  // namespace edgekern::int8

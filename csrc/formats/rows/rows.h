// Rows of floats between a decoder's layers: what norms, gates and rotations do with them. README.md has the arithmetic.
#pragma once

#include "formats/finish.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::rows {
namespace {

// body(at) for each vector that a row of n elements fills, then rest(at, count) for what is left.
template <class Isa, class Body, class Rest>
EK_INLINE void each_vector(int64_t n, Body&& body, Rest&& rest) {
  int64_t i = 0;
  for (; i + Isa::kLanes <= n; i += Isa::kLanes) body(i);
  if (i < n) rest(i, n - i);
}

// Fewer than a vector from x[at] on; the lanes beyond are zero, and memory is not read.
template <class Isa, ek_dtype D>
EK_INLINE typename Isa::F32 load_some(const void* x, int64_t at, int64_t count) {
  constexpr int64_t kBytes = D == EK_F32 ? 4 : 2;
  alignas(64) uint8_t some[Isa::kLanes * kBytes] = {};
  copy_bytes(some, static_cast<const uint8_t*>(x) + at * kBytes, count * kBytes);
  return Isa::template load_as<D>(some, 0);
}

// y[to + i] = of(load(x, i) for each x) for i below n, where load(x) is x's vector at i.
template <class Isa, ek_dtype D, class Of>
EK_INLINE void map_row(int64_t n, void* y, int64_t to, Of&& of) {
  each_vector<Isa>(
      n,
      [&](int64_t i) EK_LAMBDA_INLINE {
        Isa::template store_as<D>(
            y, to + i, of([&](const void* x, int64_t at) EK_LAMBDA_INLINE { return Isa::template load_as<D>(x, at + i); }));
      },
      [&](int64_t i, int64_t count) EK_LAMBDA_INLINE {
        Isa::template store_as<D>(
            y, to + i, of([&](const void* x, int64_t at) EK_LAMBDA_INLINE { return load_some<Isa, D>(x, at + i, count); }),
            count);
      });
}

template <class Isa, ek_dtype D>
float sum_squares_as(const void* x, int64_t at, int64_t n) {
  // Four sums: one would wait for its own addition at every vector.
  constexpr int kSums = 4;
  typename Isa::F32 sum[kSums];
  unroll<kSums>([&](auto s) EK_LAMBDA_INLINE { sum[s] = Isa::set(0.0f); });
  int64_t i = 0;
  for (; i + kSums * Isa::kLanes <= n; i += kSums * Isa::kLanes) {
    unroll<kSums>([&](auto s) EK_LAMBDA_INLINE {
      typename Isa::F32 v = Isa::template load_as<D>(x, at + i + s * Isa::kLanes);
      sum[s] = Isa::fma(v, v, sum[s]);
    });
  }
  auto add = [&](typename Isa::F32 v) EK_LAMBDA_INLINE { sum[0] = Isa::fma(v, v, sum[0]); };
  each_vector<Isa>(
      n - i, [&](int64_t j) EK_LAMBDA_INLINE { add(Isa::template load_as<D>(x, at + i + j)); },
      [&](int64_t j, int64_t count) EK_LAMBDA_INLINE { add(load_some<Isa, D>(x, at + i + j, count)); });
  return Isa::reduce_add(Isa::add(Isa::add(sum[0], sum[1]), Isa::add(sum[2], sum[3])));
}

template <class Isa>
float sum_squares(const void* x, ek_dtype dtype, int64_t at, int64_t n) {
  if (dtype == EK_F32) return sum_squares_as<Isa, EK_F32>(x, at, n);
  if (dtype == EK_F16) return sum_squares_as<Isa, EK_F16>(x, at, n);
  return sum_squares_as<Isa, EK_BF16>(x, at, n);
}

template <class Isa, ek_dtype D>
void scale_as(const void* x, int64_t at, const void* weight, int64_t n, float factor, void* y, int64_t to) {
  const typename Isa::F32 all = Isa::set(factor);
  map_row<Isa, D>(n, y, to,
                  [&](auto&& load) EK_LAMBDA_INLINE { return Isa::mul(Isa::mul(load(x, at), all), load(weight, 0)); });
}

template <class Isa>
void scale(const void* x, int64_t at, const void* weight, ek_dtype dtype, int64_t n, float factor, void* y, int64_t to) {
  if (dtype == EK_F32) return scale_as<Isa, EK_F32>(x, at, weight, n, factor, y, to);
  if (dtype == EK_F16) return scale_as<Isa, EK_F16>(x, at, weight, n, factor, y, to);
  scale_as<Isa, EK_BF16>(x, at, weight, n, factor, y, to);
}

template <class Isa>
void gate(const void* z, int64_t at_z, const void* x, int64_t at_x, ek_dtype dtype, int64_t n, ek_activation activation,
          void* y, int64_t to) {
  choose_output(dtype, activation, [&](auto type, auto kind) {
    map_row<Isa, type>(
        n, y, to, [&](auto&& load) EK_LAMBDA_INLINE { return Isa::mul(activate<Isa, kind>(load(z, at_z)), load(x, at_x)); });
  });
}

template <class Isa, ek_dtype D>
void rotate_as(const void* x, int64_t at, const void* cos, const void* sin, int64_t at_table, int64_t n, void* y, int64_t to) {
  const int64_t half = n / 2;
  map_row<Isa, D>(half, y, to, [&](auto&& load) EK_LAMBDA_INLINE {
    return Isa::sub(Isa::mul(load(x, at), load(cos, at_table)), Isa::mul(load(x, at + half), load(sin, at_table)));
  });
  map_row<Isa, D>(half, y, to + half, [&](auto&& load) EK_LAMBDA_INLINE {
    return Isa::add(Isa::mul(load(x, at + half), load(cos, at_table + half)),
                    Isa::mul(load(x, at), load(sin, at_table + half)));
  });
}

template <class Isa>
void rotate(const void* x, int64_t at, const void* cos, const void* sin, int64_t at_table, ek_dtype dtype, int64_t n, void* y,
            int64_t to) {
  if (dtype == EK_F32) return rotate_as<Isa, EK_F32>(x, at, cos, sin, at_table, n, y, to);
  if (dtype == EK_F16) return rotate_as<Isa, EK_F16>(x, at, cos, sin, at_table, n, y, to);
  rotate_as<Isa, EK_BF16>(x, at, cos, sin, at_table, n, y, to);
}

}  // namespace
}  // namespace edgekern::rows

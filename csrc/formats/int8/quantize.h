// Activations to u8. By each row's own range: one pass to find it, one to round and store.
//
//   low = min(0, min x), high = max(0, max x), scale = (high - low) / 255, zero_point = round(-low / scale)
//   q = clamp(round(x / scale) + zero_point, 0, 255)            round: half to even
//
// The range always holds 0, so that 0.0 (padding, ReLU output) is exact. x / scale is computed as x * (1 / scale): every
// ISA does these same float operations, so q is the same bit for bit everywhere.
//
// By one range for all rows, found beforehand, the second pass is all there is: it also holds x within what can be rounded, for
// that range may not be x's, and notices NaN and Inf, so that these come out as they do by a row's own range.
#pragma once

#include <string.h>

#include "formats/int8/layout.h"
#include "formats/int8/row_scale.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int8 {
namespace {

// kParts vectors from x[i...]; past k the lanes are zero and memory is not read.
template <class V, ek_dtype D>
EK_INLINE void load_parts(const void* x, int64_t i, int64_t k, typename V::F32 (&v)[V::kParts]) {
  constexpr int64_t kBytes = D == EK_F32 ? 4 : 2;
  constexpr int64_t kStep = V::kParts * V::kLanes;
  if (i + kStep <= k) {
    unroll<V::kParts>([&](auto part) EK_LAMBDA_INLINE { v[part] = V::template load_as<D>(x, i + part * V::kLanes); });
    return;
  }
  alignas(64) char tail[kStep * kBytes] = {};
  memcpy(tail, static_cast<const char*>(x) + i * kBytes, static_cast<size_t>((k - i) * kBytes));
  unroll<V::kParts>([&](auto part) EK_LAMBDA_INLINE { v[part] = V::template load_as<D>(tail, part * V::kLanes); });
}

// V: the vectors to look through the row with, Isa::Range<D>.
template <class V, ek_dtype D>
RowRange find_range(const void* x, int64_t k) {
  using Vector = typename V::F32;
  constexpr int P = V::kParts;
  Vector low[P], high[P], poison[P];
  unroll<P>([&](auto p) EK_LAMBDA_INLINE { low[p] = high[p] = poison[p] = V::set(0.0f); });
  for (int64_t i = 0; i < k; i += P * V::kLanes) {
    Vector v[P];
    load_parts<V, D>(x, i, k, v);
    unroll<P>([&](auto p) EK_LAMBDA_INLINE {
      low[p] = V::min(v[p], low[p]);  // what a NaN does here is of no matter ...
      high[p] = V::max(v[p], high[p]);
      poison[p] = V::fma(v[p], V::set(0.0f), poison[p]);  // ... for it sticks here, as Inf * 0 does
    });
  }
  unroll<P - 1>([&](auto p) EK_LAMBDA_INLINE {
    low[0] = V::min(low[0], low[p + 1]);
    high[0] = V::max(high[0], high[p + 1]);
    poison[0] = V::add(poison[0], poison[p + 1]);
  });
  return {V::reduce_min(low[0]), V::reduce_max(high[0]), V::reduce_add(poison[0]) == 0.0f};
}

// Rounds one row and hands each kStep bytes to store(bytes, i). A zero row is all zero bytes.
template <class Isa, ek_dtype D, class Store>
EK_INLINE void round_row(const void* x, int64_t k, const RowScale& row, Store&& store) {
  constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  typename Isa::F32 v[Isa::kParts], inverse = Isa::set(row.inverse);
  typename Isa::I32 zero_point = Isa::set_i32(row.zero_point);
  if (row.zero) {
    unroll<Isa::kParts>([&](auto part) EK_LAMBDA_INLINE { v[part] = Isa::set(0.0f); });
    for (int64_t i = 0; i < k; i += kStep) store(Isa::to_bytes(v, inverse, zero_point), i);
    return;
  }
  for (int64_t i = 0; i < k; i += kStep) {
    load_parts<Isa, D>(x, i, k, v);
    store(Isa::to_bytes(v, inverse, zero_point), i);
  }
}

// Holds x within 512 steps of a range that may not be its own: x / scale beyond an int32 would come out anywhere, and 512 steps
// are beyond 0..255 whatever the zero point is.
template <class Isa>
struct Bounds {
  typename Isa::F32 low, high;

  EK_INLINE explicit Bounds(float scale) : low(Isa::set(-512.0f * scale)), high(Isa::set(512.0f * scale)) {}
  EK_INLINE void hold(typename Isa::F32 (&v)[Isa::kParts]) const {
    unroll<Isa::kParts>([&](auto part) EK_LAMBDA_INLINE { v[part] = Isa::min(Isa::max(v[part], low), high); });
  }
};

// Whether all of a row was finite, as find_range tells it.
template <class Isa>
struct Poison {
  typename Isa::F32 sum[Isa::kParts];

  EK_INLINE Poison() {
    unroll<Isa::kParts>([&](auto part) EK_LAMBDA_INLINE { sum[part] = Isa::set(0.0f); });
  }
  EK_INLINE void look_at(const typename Isa::F32 (&v)[Isa::kParts]) {
    unroll<Isa::kParts>([&](auto part) EK_LAMBDA_INLINE { sum[part] = Isa::fma(v[part], Isa::set(0.0f), sum[part]); });
  }
  EK_INLINE bool none() const {
    typename Isa::F32 all = sum[0];
    unroll<Isa::kParts - 1>([&](auto part) EK_LAMBDA_INLINE { all = Isa::add(all, sum[part + 1]); });
    return Isa::reduce_add(all) == 0.0f;
  }
};

// As round_row, by a range that was found beforehand. False for a row with NaN or Inf, whose bytes are of no meaning.
template <class Isa, ek_dtype D, class Store>
EK_INLINE bool round_row_within(const void* x, int64_t k, const RowScale& row, Store&& store) {
  constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  typename Isa::F32 v[Isa::kParts], inverse = Isa::set(row.inverse);
  typename Isa::I32 zero_point = Isa::set_i32(row.zero_point);
  const Bounds<Isa> bounds(row.scale);
  Poison<Isa> poison;
  for (int64_t i = 0; i < k; i += kStep) {
    load_parts<Isa, D>(x, i, k, v);
    poison.look_at(v);
    bounds.hold(v);
    store(Isa::to_bytes(v, inverse, zero_point), i);
  }
  return poison.none();
}

// Rounds one row by `range`, or by its own, and hands its bytes to store; how it was rounded. `zero` is the byte of a zero row.
template <class Isa, ek_dtype D, class Store>
EK_INLINE RowScale quantize_row(const void* x, int64_t k, const ek_int8_range* range, int32_t zero, Store&& store) {
  if (range != nullptr) {
    RowScale row = scale_of(*range);
    return round_row_within<Isa, D>(x, k, row, store) ? row : kNoScale;
  }
  RowScale row = scale_of(find_range<typename Isa::template Range<D>, D>(x, k));
  if (row.zero) row.zero_point = zero;
  round_row<Isa, D>(x, k, row, store);
  return row;
}

// A store functor for round_row: this ISA's row layout, with its row sums by block of K.
template <class Isa>
struct LhsStore {
  static constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  const LhsRows& out;
  int64_t m, k;
  typename Isa::I32 sum = Isa::set_i32(0);

  EK_INLINE void operator()(typename Isa::Bytes bytes, int64_t i) {
    if (i > 0 && i % kBlockDepth == 0) flush(i / kBlockDepth - 1);
    if (i + kStep > k) bytes = pad(bytes, k - i);
    // Rows of a group are interleaved by steps: see LhsRows.
    constexpr int64_t kGroup = Isa::kGroupRows;
    uint8_t* group = out.data + m / kGroup * kGroup * out.stride + m % kGroup * Isa::kStepDepth * Isa::kLhsBytes;
    Isa::store_lhs(group + i * kGroup * Isa::kLhsBytes, bytes, sum);
  }
  // Past k the row holds what this ISA counts as zero, so that nothing is owed for lanes no line multiplies.
  static EK_INLINE typename Isa::Bytes pad(typename Isa::Bytes bytes, int64_t used) {
    alignas(64) uint8_t step[kStep];
    Isa::store_bytes(step, bytes);
    memset(step + used, Isa::kZeroOffset, static_cast<size_t>(kStep - used));
    return Isa::load_bytes(step);
  }
  EK_INLINE void flush(int64_t block) {
    out.row_sum[block * out.rows + m] = Isa::reduce(sum);
    sum = Isa::set_i32(0);
  }
};

template <class Isa, ek_dtype D>
void quantize_as(const void* x, int64_t ld_x, int64_t k, const ek_int8_range* range, int64_t m0, int64_t m1,
                 const LhsRows& out) {
  constexpr int64_t kBytes = D == EK_F32 ? 4 : 2;
  for (int64_t m = m0; m < m1; ++m) {
    const char* row = static_cast<const char*>(x) + m * ld_x * kBytes;
    LhsStore<Isa> store{out, m, k};
    // A zero row is stored as zeros, with a zero point of 0.
    RowScale scale = quantize_row<Isa, D>(row, k, range, Isa::kZeroOffset, store);
    store.flush(max_of(0, ceil_div(k, kBlockDepth) - 1));
    out.scale[m] = scale.scale;
    out.zero_point[m] = scale.zero_point - Isa::kZeroOffset;
  }
}

template <class Isa>
void quantize(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, const ek_int8_range* range, int64_t m0, int64_t m1,
              const LhsRows& out) {
  if (dtype == EK_F32) return quantize_as<Isa, EK_F32>(x, ld_x, k, range, m0, m1, out);
  if (dtype == EK_F16) return quantize_as<Isa, EK_F16>(x, ld_x, k, range, m0, m1, out);
  return quantize_as<Isa, EK_BF16>(x, ld_x, k, range, m0, m1, out);
}

template <class Isa, ek_dtype D>
void quantize_u8_as(const void* x, int64_t ld_x, int64_t k, const ek_int8_range* range, int64_t m0, int64_t m1, uint8_t* q,
                    int64_t ld_q, float* scales, int32_t* zero_points) {
  constexpr int64_t kBytes = D == EK_F32 ? 4 : 2;
  constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  for (int64_t m = m0; m < m1; ++m) {
    const char* row = static_cast<const char*>(x) + m * ld_x * kBytes;
    uint8_t* to = q + m * ld_q;
    RowScale scale = quantize_row<Isa, D>(row, k, range, 0, [&](typename Isa::Bytes bytes, int64_t i) EK_LAMBDA_INLINE {
      alignas(64) uint8_t step[kStep];
      Isa::store_bytes(step, bytes);
      memcpy(to + i, step, static_cast<size_t>(min_of(kStep, k - i)));
    });
    if (scale.zero && k > 0) memset(to, 0, static_cast<size_t>(k));
    scales[m] = scale.scale;
    zero_points[m] = scale.zero_point;
  }
}

template <class Isa>
void quantize_u8(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, const ek_int8_range* range, int64_t m0, int64_t m1,
                 uint8_t* q, int64_t ld_q, float* scales, int32_t* zero_points) {
  if (dtype == EK_F32) return quantize_u8_as<Isa, EK_F32>(x, ld_x, k, range, m0, m1, q, ld_q, scales, zero_points);
  if (dtype == EK_F16) return quantize_u8_as<Isa, EK_F16>(x, ld_x, k, range, m0, m1, q, ld_q, scales, zero_points);
  return quantize_u8_as<Isa, EK_BF16>(x, ld_x, k, range, m0, m1, q, ld_q, scales, zero_points);
}

template <class Isa>
void load_u8(const uint8_t* q, int64_t ld_q, const int32_t* zero_point, int64_t k, int64_t m0, int64_t m1, const LhsRows& out) {
  constexpr int64_t kStep = Isa::kParts * Isa::kLanes;
  for (int64_t m = m0; m < m1; ++m) {
    LhsStore<Isa> store{out, m, k};
    for (int64_t i = 0; i < k; i += kStep) {
      const uint8_t* from = q + m * ld_q + i;
      if (i + kStep <= k) {
        store(Isa::load_bytes(from), i);
        continue;
      }
      alignas(64) uint8_t step[kStep] = {};
      copy_bytes(step, from, k - i);
      store(Isa::load_bytes(step), i);
    }
    store.flush(max_of(0, ceil_div(k, kBlockDepth) - 1));
    out.zero_point[m] = zero_point[m] - Isa::kZeroOffset;
  }
}

}  // namespace
}  // namespace edgekern::int8

// What the ISAs share whose product takes 4 k of one row of lhs against a vector of columns, with one sum a lane: those of
// x86, and scalar. Of a block of kept weights, int8 or f32, too each lane has one sum.
#pragma once

#include "formats/int8/layout.h"
#include "isa/tile.h"

namespace edgekern {
namespace {

template <class Vectors>
struct Dot4 : Vectors {
  static constexpr int8::Order kOrder{.line_depth = 4, .odd_sums = 0};
  static constexpr int kGroupRows = 1;
  static constexpr int64_t kStepDepth = 4;
  static constexpr bool kHoldLhs = false;
  static constexpr int kPeakChains = 10;

  using I32 = typename Vectors::I32;
  using F32 = typename Vectors::F32;
  template <int>
  using Acc = I32;
  template <ek_dtype>
  using Range = Vectors;

  template <int>
  static EK_INLINE I32 zero() {
    return Vectors::set_i32(0);
  }
  static EK_INLINE I32 merge(I32 a, I32 b) { return Vectors::add_i32(a, b); }
  template <int>
  static EK_INLINE I32 row(I32 acc) {
    return acc;
  }

  using BlockAcc = I32;
  static EK_INLINE I32 block_zero() { return Vectors::set_i32(0); }
  static EK_INLINE I32 merge_blocks(I32 a, I32 b) { return Vectors::add_i32(a, b); }
  static EK_INLINE I32 block_sum(I32 acc) { return acc; }
  // Weights are spread where they are used: on x86 that is part of the load.
  template <int, int>
  static EK_INLINE const int32_t* load_weights(const int32_t* p) {
    return p;
  }
  template <int, int>
  static EK_INLINE const float* load_f32_weights(const float* p) {
    return p;
  }
  template <int kWeight>
  static EK_INLINE F32 multiply_f32(F32 acc, F32 a, const float* weights) {
    return Vectors::fma(a, Vectors::set(weights[kWeight]), acc);
  }
};

}  // namespace
}  // namespace edgekern

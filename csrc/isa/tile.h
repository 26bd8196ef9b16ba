// What an ISA must provide, and the one trick all kernels lean on.
//
// An ISA file defines one struct, its vocabulary, and instantiates the formats' kernel templates with it:
//
//   kLanes              32-bit lanes of a vector
//   F32, I32            a vector of floats, of int32
//   load, load_as<D>    F32 from memory as floats, or as dtype D        store_as<D>(p, i, v), store_as<D>(p, i, v, count)
//   set, add, sub, mul, div, fma, min, max, round, pow2, select_negative, reduce_*   arithmetic on F32
//   load_i32, store_i32, set_i32, add_i32, mul_i32, to_f32, reduce                    on I32
//   load_s8(p), load_u8(p)    kLanes bytes as I32
//   as_i32, as_f32      the same bits; transpose(v) turns kLanes I32 vectors as a square of 32-bit lanes
//
//   and for int8 (formats/int8), where a step is kStepDepth values of k:
//   kOrder              the order of the packed matrix it reads
//   kGroupRows          rows of lhs that are interleaved and multiplied together
//   Acc<R>              the sums of R rows (1 or kGroupRows) x kLanes columns; zero<R>(), merge(a, b), row<r>(acc)
//   Lhs, Rhs            one step of a group of rows, spread as multiply wants it; one step of kLanes columns
//   load_lhs(p), load_rhs<n>(p)    Rhs number n of the step of a panel that starts at p
//   multiply(acc, lhs, rhs)        acc[row][column] + sum over a step; by value, since gcc 12 spills what it has a
//                                  reference to
//   kLhsBytes           bytes that one activation takes in this ISA's row layout
//   kZeroOffset         what the row layout subtracts from the u8 activation
//   and for its block forms (formats/int8/blocks.h), where a vector holds one block's k of kLanes rows:
//   kBlockOrder         how many k a block spans: 4 as s8, or 2 as s16
//   kBlockZeroOffset    for s8: what spread_blocks subtracts from the u8 activation
//   block_vectors(R), block_phases(R, V)    width of a tile in vectors; how many blocks are summed separately
//   BlockAcc            the sums of one output channel for kLanes rows; block_zero(), merge_blocks(a, b), block_sum(acc)
//   spread_blocks(p, zero_point)            kLanes blocks of one row, from u8
//   join_rows(rows, at, out)                16 bytes from rows[d] + at on of each of line_depth rows, one of each in turn
//   multiply_lanes(acc, lhs, weights)       each lane by a weight of its own, which is an I32 of blocks (formats/int8/depthwise.h)
//   load_weights<R, B>(p)                   the weights of B neighbouring blocks of R channels
//   multiply_block<i>(acc, lhs, weights)    their weight i, of one channel, against kLanes rows
//   kCsrUnroll          vectors of a plane in a tile of formats/int8/csr.h
//   split_words(v), join_planes(v)    line_depth I32 of words to as many of planes, and back (also there)
//   kJoinsParts         whether it does that in parts of vectors too: split_word(v) makes line_depth parts of one I32 of words,
//                       join_parts(planes, at) one I32 of the parts at planes[d] + at
//
//   store_rounded(p, x, low, high, count)   `count` numbers, all or fewer of kParts vectors, rounded and held between low and
//                       high, as u8; NaN is low
//   Bytes, kParts, to_bytes, store_lhs, load_bytes, store_bytes     kParts F32 vectors quantised to kParts * kLanes u8
//   max_bytes(a, b)     the larger ones, as u8
//   Range<D>            set, load_as, add, min, max, fma, reduce_* of the vectors that find the range of a row of D
//   kRows, panels_at, phases_at, kHoldLhs     tile shape, see formats/int8/gemm.h
//   kStreamRows, kPrefetchBytes    up to how many rows a tile is bound by memory, and how far ahead it then prefetches
//   kPeakChains         independent products that keep the multiplier busy
//   opaque(lhs)         keeps the compiler from hoisting work on lhs out of a loop
//
//   and for int4: what formats/int4/lines.h lists; for int8 and int4 weights by floats, formats/mixed/weights.h
//
//   and for f32 weights with zeros (formats/f32):
//   f32_vectors(R)      width of a tile in vectors, for blocks of R output channels
//   load_f32_weights<R, B>(p), multiply_f32<i>(acc, lhs, weights)    likewise: acc + lhs times weight i
//   and, if it likes, for f16 weights with zeros (formats/f16), which otherwise become f32 beforehand:
//   load_f16_weights<R, B>(p)   f16 weights for multiply_f32
//   Halves              a vocabulary to multiply halves with: isa/neon_half.h's
//
// min and max must hand on a NaN in their second operand.
//
// Everything in an ISA file and in the templates it includes has internal linkage (anonymous namespaces) and no STL is
// included: a function that two ISA files both emit under one name would be kept once by the linker, perhaps the copy
// that this CPU cannot run. scripts/check_isa.py holds the built objects to that.
#pragma once

#include <stdint.h>

#define EK_INLINE __attribute__((always_inline)) inline
// On a lambda the attribute stands where `inline` is not allowed.
#define EK_LAMBDA_INLINE __attribute__((always_inline))

namespace edgekern {
namespace {

// A few bytes, without a call: compilers make one of a loop that they see through. What was just stored in vectors of 16 or more
// is loaded in no wider ones.
EK_INLINE void copy_bytes(uint8_t* to, const uint8_t* from, int64_t count) {
  for (; count >= 16; count -= 16, to += 16, from += 16) {
    __builtin_memcpy(to, from, 16);
    __asm__("" : "+r"(to));
  }
  if (count >= 8) __builtin_memcpy(to, from, 8), count -= 8, to += 8, from += 8;
  if (count >= 4) __builtin_memcpy(to, from, 4), count -= 4, to += 4, from += 4;
  for (; count > 0; --count) *to++ = *from++;
}

template <int I>
struct Index {
  constexpr operator int() const { return I; }
};

// unroll<N>(body) is body(0); body(1); ... with each index a compile-time constant, expanded before the optimiser runs.
//
// Why not a plain loop: accumulators live in an array acc[MR][NV], and gcc turns an array into registers only when every
// index is already constant early on. After a loop that it unrolls itself it is too late: gcc 12 then keeps copies or
// spills of every accumulator and the kernel runs at half the speed.
template <int N, class Body>
EK_INLINE constexpr void unroll(Body&& body) {
  if constexpr (N > 0) {
    unroll<N - 1>(body);
    body(Index<N - 1>{});
  }
}

}  // namespace
}  // namespace edgekern

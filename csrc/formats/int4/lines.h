// The lines of a packed panel, from memory to the steps of bytes that products take.
//
// Weights are multiplied as they are, 0 to 15, and without their zero points: what those owe is paid once a group (gemm.h).
//
// What an ISA adds to int8's vocabulary (isa/tile.h), a line being 64 bytes. Its multiply takes activations as s8 and weights
// as u8, or as s8 where they are never in place:
//   Line                   64 bytes in registers; load_line(p), 64-byte aligned
//   expand_line(mask, values)     64 bytes of which 8 bytes of mask say what is kept; values is moved past it
//   nibbles<h, in_place>(line)     the low (h = 0) or high nibbles as bytes
//   Zeros, spread_zeros<depth>(p)    16 zero points, each beside its channel's `depth` bytes of an int8 line
//   nibbles_above<h, in_place>(line, zeros)    of a bitmap's, which are w - zero modulo 16: w again
//   join(low, high)        where a step is 8 k: both halves of an int8 line as Expanded. Where it is 4, Expanded is a Line
//   widen_u8(p)            kLanes u8 as I32
//   kLineRows              how many rows are few
//   line_phases_at(rows)   how many steps are summed apart, where sums are too few to hide a product's latency
//   kHighInPlace           where few rows are multiplied, high nibbles stay in the high half of their byte, times 16, which
//                          saves a shift. line_phases_at is then even, and merge_in_place(low, high) is low + high / 16
#pragma once

#include "formats/int8/expand.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int4 {
namespace {

// Hands out a line's low half, then its high half, as bytes whose low, or high, nibbles they are.
template <class Isa>
struct DenseRaw {
  static constexpr bool kAbove = false;
  const uint8_t* at;
  typename Isa::Line line;

  DenseRaw() = default;
  DenseRaw(const RhsPanels& rhs, int64_t panel) : at(rhs.lines + panel * (rhs.padded_k * int8::kPanelColumns / 2)) {}

  template <int kHalf>
  EK_INLINE typename Isa::Line half() {
    if constexpr (kHalf == 0) {
      if constexpr (Isa::kPrefetchBytes > 0) __builtin_prefetch(at + Isa::kPrefetchBytes);
      line = Isa::load_line(at);
      at += 64;
    }
    return line;
  }
};

template <class Isa>
struct BitmapRaw {
  static constexpr bool kAbove = true;
  const uint8_t* masks;
  const int8_t* values[2];

  BitmapRaw() = default;
  BitmapRaw(const RhsPanels& rhs, int64_t panel) : masks(rhs.masks + panel * (rhs.padded_k * int8::kPanelColumns / 8)) {
    values[0] = values[1] = reinterpret_cast<const int8_t*>(rhs.lines + rhs.starts[panel]);
  }

  template <int kHalf>
  EK_INLINE typename Isa::Line half() {
    if constexpr (kHalf == 0 && Isa::kExpandAhead > 0) {
      __builtin_prefetch(values[0] + Isa::kExpandAhead);
      __builtin_prefetch(masks + Isa::kMasksAhead);
    }
    typename Isa::Line line = Isa::expand_line(masks, values[kHalf]);
    masks += 8;
    return line;
  }
};

// The dense form's bytes, of which those that hold a weight are kept.
template <class Isa>
struct PairRaw {
  static constexpr bool kAbove = true;
  const uint8_t* masks;
  const int8_t* values;
  typename Isa::Line line;

  PairRaw() = default;
  PairRaw(const RhsPanels& rhs, int64_t panel)
      : masks(rhs.masks + panel * (rhs.padded_k * int8::kPanelColumns / 16)),
        values(reinterpret_cast<const int8_t*>(rhs.lines + rhs.starts[panel])) {}

  template <int kHalf>
  EK_INLINE typename Isa::Line half() {
    if constexpr (kHalf == 0) {
      if constexpr (Isa::kExpandAhead > 0) {
        __builtin_prefetch(values + Isa::kExpandAhead);
        __builtin_prefetch(masks + Isa::kMasksAhead);
      }
      line = Isa::expand_line(masks, values);
      masks += 8;
    }
    return line;
  }
};

// The zero points of a group in a matrix that has none of its own.
alignas(64) constexpr uint8_t kSymmetricZeros[int8::kPanelColumns] = {8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8};

const uint8_t* zeros_of(const RhsPanels& rhs, int64_t panel) {
  return rhs.zero == nullptr ? kSymmetricZeros : rhs.zero + panel * rhs.groups * int8::kPanelColumns;
}
int64_t zeros_step(const RhsPanels& rhs) { return rhs.zero == nullptr ? 0 : int8::kPanelColumns; }

// A source of steps (formats/int8/expand.h). kInPlace: see kHighInPlace.
template <class Isa, template <class> class Raw, bool kInPlace>
struct LineSource {
  static constexpr int kSteps = int8::kStepsOfUnit<Isa>;
  static constexpr bool kHighInPlace = kInPlace;
  Raw<Isa> raw;
  typename Isa::Zeros zeros;

  LineSource() = default;
  LineSource(const RhsPanels& rhs, int64_t panel) : raw(rhs, panel) {}

  EK_INLINE void start_group(const uint8_t* zero) {
    if constexpr (Raw<Isa>::kAbove) zeros = Isa::template spread_zeros<Isa::kOrder.line_depth>(zero);
  }
  template <int kHalf>
  EK_INLINE typename Isa::Line weights() {
    typename Isa::Line line = raw.template half<kHalf>();
    if constexpr (Raw<Isa>::kAbove)
      return Isa::template nibbles_above<kHalf, kInPlace>(line, zeros);
    else
      return Isa::template nibbles<kHalf, kInPlace>(line);
  }
  template <int kStep>
  EK_INLINE typename Isa::Expanded step() {
    if constexpr (Isa::kStepDepth == 4) {
      return weights<kStep>();
    } else {
      typename Isa::Line low = weights<0>();
      return Isa::join(low, weights<1>());
    }
  }
};

}  // namespace
}  // namespace edgekern::int4

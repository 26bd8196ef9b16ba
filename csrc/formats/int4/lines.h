// The lines of a packed panel, from memory to the s8 steps that int8's products take.
//
// What an ISA adds to int8's vocabulary (isa/tile.h), a line being 64 bytes:
//   Line                   64 bytes in registers; load_line(p), 64-byte aligned
//   expand_line(mask, values)     64 bytes of which 8 bytes of mask say what is kept; values is moved past it
//   signed_nibbles<h>(line)       the low (h = 0) or high nibbles as s8, times kNibbleUnit
//   Zeros, spread_zeros<depth>(p)    16 zero points, each beside its channel's `depth` bytes of an int8 line
//   nibbles_around<h>(line, zeros)   weights with a zero point: ((nibble + zero) mod 16) - zero
//   join(low, high)        where a step is 8 k: both halves of an int8 line as Expanded. Where it is 4, Expanded is a Line
//   kLineRows              how many rows are few
//   line_panels_at(rows)   how many panels of the dense form are multiplied side by side
//   line_phases_at(rows, panels)  2 to sum low and high nibbles apart, where sums are too few to hide a product's latency
//   kNibbleUnit            16 where a nibble is best left in the high half of its byte; 1 where products must be small
#pragma once

#include "formats/int8/expand.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int4 {
namespace {

// Hands out a line's low half, then its high half, as bytes whose low, or high, nibbles they are.
template <class Isa>
struct DenseRaw {
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
  static constexpr int panels_at(int rows) { return Isa::line_panels_at(rows); }
};

template <class Isa>
struct BitmapRaw {
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
  static constexpr int panels_at(int) { return 1; }
};

// The dense form's bytes, of which those that hold a weight are kept.
template <class Isa>
struct PairRaw {
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
  static constexpr int panels_at(int) { return 1; }
};

// A source of steps (formats/int8/expand.h). kAround: with zero points, which change from group to group.
template <class Isa, template <class> class Raw, bool kAround>
struct LineSource {
  static constexpr int kSteps = int8::kStepsOfUnit<Isa>;
  Raw<Isa> raw;
  const uint8_t* zero;
  typename Isa::Zeros zeros;

  LineSource() = default;
  LineSource(const RhsPanels& rhs, int64_t panel) : raw(rhs, panel), zero(nullptr) {
    if constexpr (kAround) zero = rhs.zero + panel * rhs.groups * int8::kPanelColumns;
  }

  EK_INLINE void start_group() {
    if constexpr (!kAround) return;
    zeros = Isa::template spread_zeros<Isa::kOrder.line_depth>(zero);
    zero += int8::kPanelColumns;
  }
  template <int kHalf>
  EK_INLINE typename Isa::Line weights() {
    typename Isa::Line line = raw.template half<kHalf>();
    if constexpr (kAround)
      return Isa::template nibbles_around<kHalf>(line, zeros);
    else
      return Isa::template signed_nibbles<kHalf>(line);
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
  static constexpr float kUnit = kAround ? 1.0f : 1.0f / Isa::kNibbleUnit;
  static constexpr int panels_at(int rows) { return Raw<Isa>::panels_at(rows); }
};

}  // namespace
}  // namespace edgekern::int4

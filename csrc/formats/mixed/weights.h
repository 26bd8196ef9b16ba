// Lines of packed int8 and int4 weights (formats/int8/layout.h, formats/int4/layout.h), made floats a unit of 8 k at a time.
//
// What an ISA adds (isa/*_vectors.h), a word being 4 bytes of one channel in a lane of I32:
//   signed_byte<i>(words)             byte i as floats
//   nibble_less_eight<bit>(words)     the nibble from that bit on, less 8, as floats
//   nibble_less<bit>(words, zero)     the same, less a zero point of 0..15 in each lane
//   fma_onto(sum, a, b)               sum + a * b, such that a loop of them keeps each sum in its register
//   even_words(a, b), odd_words(a, b)    where a line is 8 k deep: words 0, 2, .. and 1, 3, .. of both
//   kMixedFewRows, kMixedSums         how many rows are few, and the sums of theirs that fit in registers beside the rest
//   kMixedRows, kMixedPanels          the tile of more
#pragma once

#include <stdint.h>

#include "formats/int8/layout.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::mixed {
namespace {

constexpr int64_t kColumns = int8::kPanelColumns, kUnit = int8::kDepthUnit;

template <class Isa>
constexpr int kVectors = kColumns / Isa::kLanes;

// Words of one vector of channels in two halves of a unit: k 0 to 3, k 4 to 7.
template <class Isa>
struct Words {
  typename Isa::I32 half[2];
};

template <class Isa>
EK_INLINE typename Isa::I32 load_words(const void* p) {
  return Isa::load_i32(static_cast<const int32_t*>(p));
}

// Of a line of 8 k: the words at p and behind it are k 0 to 3 and k 4 to 7 of one channel by turns.
template <class Isa>
EK_INLINE Words<Isa> load_pairs(const char* p) {
  typename Isa::I32 a = load_words<Isa>(p), b = load_words<Isa>(p + 4 * Isa::kLanes);
  return {{Isa::even_words(a, b), Isa::odd_words(a, b)}};
}

template <class Isa, int kDepth>
struct Int8Weights {
  using F32 = typename Isa::F32;
  using Rhs = int8::RhsPanels;
  static constexpr bool kGroups = false;
  static constexpr int kKept = 0;  // vectors that are kept for all of a group
  static constexpr int64_t kUnitBytes = kColumns * kUnit;
  const char* at;

  Int8Weights() = default;
  Int8Weights(const Rhs& rhs, int64_t panel)
      : at(reinterpret_cast<const char*>(rhs.panels) + panel * (rhs.padded_k * kColumns)) {}

  static int64_t group_size(const Rhs& rhs) { return rhs.padded_k; }
  EK_INLINE void start_group() {}
  template <int kVector>
  EK_INLINE Words<Isa> words() const {
    if constexpr (kDepth == 8) return load_pairs<Isa>(at + 8 * Isa::kLanes * kVector);
    const char* first = at + 4 * Isa::kLanes * kVector;
    return {{load_words<Isa>(first), load_words<Isa>(first + kUnitBytes / 2)}};
  }
  template <int kVector, int kK>
  EK_INLINE F32 weight(const Words<Isa>& words) const {
    return Isa::template signed_byte<kK % 4>(words.half[kK / 4]);
  }
  // A group's sums onto all sums; what a weight in a piece is multiplied by.
  template <int kVector>
  EK_INLINE F32 add(F32 sum, F32 total) const {
    return Isa::add(sum, total);
  }
  template <int kVector>
  EK_INLINE F32 scaled(F32 weight) const {
    return weight;
  }
};

// kZeros: with zero points of their own, which are taken off each weight. Paid once a group, as int4's sums of integers pay them,
// they would leave the difference of two large sums.
template <class Isa, int kDepth, bool kZeros>
struct Int4Weights {
  using F32 = typename Isa::F32;
  using Rhs = int4::RhsPanels;
  static constexpr bool kGroups = true;
  static constexpr int kKept = kZeros ? kVectors<Isa> : 0;
  static constexpr int64_t kUnitBytes = kColumns * kUnit / 2;
  const char* at;
  const uint16_t* scale;  // of the next group
  const uint8_t* zero;
  typename Isa::I32 zeros[kVectors<Isa>];

  Int4Weights() = default;
  Int4Weights(const Rhs& rhs, int64_t panel)
      : at(reinterpret_cast<const char*>(rhs.lines) + panel * (rhs.padded_k * kColumns / 2)),
        scale(rhs.scale + panel * rhs.groups * kColumns),
        zero(kZeros ? rhs.zero + panel * rhs.groups * kColumns : nullptr) {}

  static int64_t group_size(const Rhs& rhs) { return rhs.group_size; }
  EK_INLINE void start_group() {
    scale += kColumns;
    if constexpr (kZeros) {
      unroll<kVectors<Isa>>(
          [&](auto v) EK_LAMBDA_INLINE { zeros[v] = Isa::load_s8(reinterpret_cast<const int8_t*>(zero) + v * Isa::kLanes); });
      zero += kColumns;
    }
  }
  template <int kVector>
  EK_INLINE Words<Isa> words() const {
    if constexpr (kDepth == 8) return load_pairs<Isa>(at + 8 * Isa::kLanes * (kVector % 2));
    return {{load_words<Isa>(at + 4 * Isa::kLanes * kVector)}};
  }
  template <int kVector, int kK>
  EK_INLINE F32 weight(const Words<Isa>& words) const {
    // In a line of 4 k the high nibbles are k 4 to 7; in one of 8, they are the last 8 channels.
    constexpr int kWord = kDepth == 8 ? kK / 4 : 0, kHigh = kDepth == 8 ? kVector / 2 : kK / 4;
    constexpr int kBit = 8 * (kK % 4) + 4 * kHigh;
    if constexpr (kZeros)
      return Isa::template nibble_less<kBit>(words.half[kWord], zeros[kVector]);
    else
      return Isa::template nibble_less_eight<kBit>(words.half[kWord]);
  }
  template <int kVector>
  EK_INLINE F32 scales() const {
    return Isa::template load_as<EK_F16>(scale - kColumns, kVector * Isa::kLanes);
  }
  template <int kVector>
  EK_INLINE F32 add(F32 sum, F32 total) const {
    return Isa::fma(sum, scales<kVector>(), total);
  }
  template <int kVector>
  EK_INLINE F32 scaled(F32 weight) const {
    return Isa::mul(weight, scales<kVector>());
  }
};

}  // namespace
}  // namespace edgekern::mixed

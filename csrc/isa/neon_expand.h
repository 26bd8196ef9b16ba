// Expanding bitmap lines: a part of the mask looks up the tbl that puts kept values in place. A step is 128 bytes, two lines
// of 4 k or one of 8.
#pragma once

#include <arm_neon.h>
#include <string.h>

#include "isa/expand_table.h"
#include "isa/tile.h"

namespace edgekern {
namespace {

// The same as ExpandTable for 4 fours of bytes, and the bytes they are.
struct FoursTable {
  uint8_t at[16][16] = {};
  uint8_t bytes[16] = {};

  constexpr FoursTable() {
    for (int mask = 0; mask < 16; ++mask)
      for (int i = 0; i < 4; ++i) {
        bool kept = mask >> i & 1;
        for (int b = 0; b < 4; ++b) at[mask][4 * i + b] = kept ? static_cast<uint8_t>(bytes[mask] + b) : kNone;
        if (kept) bytes[mask] = static_cast<uint8_t>(bytes[mask] + 4);
      }
  }
};
alignas(64) constexpr FoursTable kExpandFours;

struct NeonExpand {
  struct Expanded {
    int8x16_t v[8];
  };

  struct Line {
    int8x16_t v[4];
  };
  static EK_INLINE Line expand_line(const uint8_t* mask, const int8_t*& values) {
    // Byte i of `ends`: where the values of mask bytes 0..i end.
    uint64_t counts = vget_lane_u64(vreinterpret_u64_u8(vcnt_u8(vld1_u8(mask))), 0);
    uint64_t ends = counts * 0x0101010101010101u, starts = ends << 8;
    Line line;
    unroll<4>([&](auto i) EK_LAMBDA_INLINE {
      const uint8_t* two = mask + 2 * i;
      int8x16_t kept = vcombine_s8(vld1_s8(values + (starts >> 16 * i & 0xff)), vld1_s8(values + (ends >> 16 * i & 0xff)));
      line.v[i] = vqtbl1q_s8(kept, vcombine_u8(vld1_u8(kExpandLow.at[two[0]]), vld1_u8(kExpandHigh.at[two[1]])));
    });
    values += ends >> 56;
    return line;
  }
  static EK_INLINE Expanded join(const Line& low, const Line& high) {
    Expanded step;
    unroll<4>([&](auto i) EK_LAMBDA_INLINE {
      step.v[i] = low.v[i];
      step.v[4 + i] = high.v[i];
    });
    return step;
  }

  template <int U>
  static EK_INLINE Expanded expand(const uint8_t* mask, const int8_t*& values) {
    if constexpr (U == 1) {
      Line low = expand_line(mask, values);
      return join(low, expand_line(mask + 8, values));
    } else {
      Expanded step;
      uint32_t bits;
      memcpy(&bits, mask, 4);
      unroll<8>([&](auto i) EK_LAMBDA_INLINE {
        uint32_t four = bits >> 4 * i & 15;
        step.v[i] = vqtbl1q_s8(vld1q_s8(values), vld1q_u8(kExpandFours.at[four]));
        values += kExpandFours.bytes[four];
      });
      return step;
    }
  }
  static EK_INLINE void store_expanded(int8_t* p, const Expanded& step) {
    unroll<8>([&](auto i) EK_LAMBDA_INLINE { vst1q_s8(p + 16 * i, step.v[i]); });
  }
  static constexpr int kExpandRows = 4;
  // Not measured yet on any core: as kPrefetchBytes.
  static constexpr int64_t kExpandAhead = 0;
  static constexpr int64_t kMasksAhead = 0;
};

}  // namespace
}  // namespace edgekern

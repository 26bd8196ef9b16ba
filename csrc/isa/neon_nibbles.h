// Lines of nibbles on ARM (formats/int4/lines.h).
#pragma once

#include "isa/neon_expand.h"

namespace edgekern {
namespace {

struct NeonNibbles : NeonExpand {
  // More rows do not fit beside a line, and are multiplied from L1.
  static constexpr int kLineRows = 2;
  static constexpr int line_panels_at(int) { return 1; }
  static constexpr int line_phases_at(int, int) { return 1; }
  static EK_INLINE Line load_line(const uint8_t* p) {
    Line line;
    unroll<4>([&](auto i) EK_LAMBDA_INLINE { line.v[i] = vreinterpretq_s8_u8(vld1q_u8(p + 16 * i)); });
    return line;
  }

  // Sixteen times the weight: one instruction for the high nibbles, one for the low ones.
  static constexpr int kNibbleUnit = 16;
  template <int kHalf>
  static EK_INLINE Line signed_nibbles(Line line) {
    unroll<4>([&](auto i) EK_LAMBDA_INLINE {
      line.v[i] = kHalf == 0 ? vshlq_n_s8(line.v[i], 4) : vandq_s8(line.v[i], vdupq_n_s8(-16));
    });
    return line;
  }

  // By vector of a line, for its low nibbles and for its high ones, which take 16 times the zero point as well. Lines of 4 k have
  // the same channels in both halves: the compiler then holds `low` and `high` in the same registers.
  struct Zeros {
    uint8x16_t low[4], high[4], raised[4];
  };
  template <int kDepth>
  static EK_INLINE Zeros spread_zeros(const uint8_t* p) {
    constexpr uint8_t kColumns = 16 / kDepth;       // of a vector
    constexpr int kHighHalf = kDepth == 4 ? 0 : 4;  // its first vector, of an int8 line's
    constexpr uint8_t kFrom[2][16] = {{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3},
                                      {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1}};
    uint8x16_t zeros = vld1q_u8(p), from = vld1q_u8(kFrom[kDepth / 8]);
    auto vector = [&](int i) EK_LAMBDA_INLINE {
      return vqtbl1q_u8(zeros, vaddq_u8(from, vdupq_n_u8(static_cast<uint8_t>(kColumns * i))));
    };
    Zeros out;
    unroll<4>([&](auto i) EK_LAMBDA_INLINE {
      out.low[i] = vector(i);
      out.high[i] = vector(kHighHalf + i);
      out.raised[i] = vshlq_n_u8(out.high[i], 4);
      // Or clang 16 undoes this: it shifts the line first, by a usra whose destination has to be a copy of the zeros.
      __asm__("" : "+w"(out.raised[i]));
    });
    return out;
  }
  template <int kHalf>
  static EK_INLINE Line nibbles_around(Line line, const Zeros& zeros) {
    unroll<4>([&](auto i) EK_LAMBDA_INLINE {
      uint8x16_t bytes = vreinterpretq_u8_s8(line.v[i]);
      if constexpr (kHalf == 0) {
        line.v[i] = around(bytes, zeros.low[i]);
      } else {  // a byte's sum wraps by itself, and the low nibble adds nothing to the high one
        uint8x16_t nibbles = vshrq_n_u8(vaddq_u8(bytes, zeros.raised[i]), 4);
        line.v[i] = vreinterpretq_s8_u8(vsubq_u8(nibbles, zeros.high[i]));
      }
    });
    return line;
  }

 protected:
  // Of the low nibbles, whatever is above them.
  static EK_INLINE int8x16_t around(uint8x16_t bytes, uint8x16_t zeros) {
    return vreinterpretq_s8_u8(vsubq_u8(vandq_u8(vaddq_u8(bytes, zeros), vdupq_n_u8(15)), zeros));
  }
};

}  // namespace
}  // namespace edgekern

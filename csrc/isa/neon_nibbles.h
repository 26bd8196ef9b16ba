// Lines of nibbles on ARM (formats/int4/lines.h).
#pragma once

#include "isa/neon_expand.h"

namespace edgekern {
namespace {

struct NeonNibbles : NeonExpand {
  // More rows do not fit beside a line, and are multiplied from L1.
  static constexpr int kLineRows = 2;
  static constexpr int line_phases_at(int) { return 1; }
  static constexpr bool kHighInPlace = false;  // one shift takes a vector's high nibbles out, as one mask does
  static EK_INLINE Line load_line(const uint8_t* p) {
    Line line;
    unroll<4>([&](auto i) EK_LAMBDA_INLINE { line.v[i] = vreinterpretq_s8_u8(vld1q_u8(p + 16 * i)); });
    return line;
  }

  template <int kHalf, bool>
  static EK_INLINE Line nibbles(Line line) {
    unroll<4>([&](auto i) EK_LAMBDA_INLINE {
      uint8x16_t bytes = vreinterpretq_u8_s8(line.v[i]);
      line.v[i] = vreinterpretq_s8_u8(kHalf == 0 ? vandq_u8(bytes, vdupq_n_u8(15)) : vshrq_n_u8(bytes, 4));
    });
    return line;
  }
  static EK_INLINE int32x4_t widen_u8(const uint8_t* p) {
    uint32_t four;
    memcpy(&four, p, 4);
    uint16x8_t wide = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(wide)));
  }

  // By vector of a line, for its low and its high nibbles. Lines of 4 k have the same channels in both halves: the compiler then
  // holds them in the same registers.
  struct Zeros {
    uint8x16_t v[2][4];
  };
  template <int kDepth>
  static EK_INLINE Zeros spread_zeros(const uint8_t* p) {
    constexpr uint8_t kColumns = 16 / kDepth;  // of a vector
    constexpr uint8_t kFrom[2][16] = {{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3},
                                      {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1}};
    uint8x16_t zeros = vld1q_u8(p), from = vld1q_u8(kFrom[kDepth / 8]);
    Zeros out;
    unroll<8>([&](auto i) EK_LAMBDA_INLINE {
      out.v[i / 4][i % 4] = vqtbl1q_u8(zeros, vaddq_u8(from, vdupq_n_u8(kColumns * (i % kDepth))));
    });
    return out;
  }
  template <int kHalf, bool>
  static EK_INLINE Line nibbles_above(Line line, const Zeros& zeros) {
    unroll<4>([&](auto i) EK_LAMBDA_INLINE {
      uint8x16_t bytes = vreinterpretq_u8_s8(line.v[i]);
      if constexpr (kHalf == 1) {
        bytes = vshrq_n_u8(bytes, 4);
        __asm__("" : "+w"(bytes));  // shifted and added at once (usra) it would take a copy of the zeros
      }
      line.v[i] = vreinterpretq_s8_u8(vandq_u8(vaddq_u8(bytes, zeros.v[kHalf][i]), vdupq_n_u8(15)));
    });
    return line;
  }
};

}  // namespace
}  // namespace edgekern

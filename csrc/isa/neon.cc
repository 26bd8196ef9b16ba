// NEON of armv8.0: Cortex-A53 and A72 (Raspberry Pi 3 and 4), and every 64-bit ARM core. No dot product: s8 products are
// widened to s16, two are added there, and pairs of sums go to int32: smull, smlsl, sadalp for 16 products.
//
// Two products can reach 2 * -128 * -128 = 32768, one more than s16 holds. So of each step's two lines the second is
// multiplied by the complement of the activation, and subtracted:
//
//   a0 * w0 + a1 * w1  =  a0 * w0 - ~a1 * w1 - w1         since -a = ~a + 1;    |a0 * w0 - ~a1 * w1| <= 32640
//
// What is owed, the sum of w over odd lines, is the packed matrix's odd_sum.
//
// 2 x 16 tile: 16 accumulators (2 rows x 16 columns x 2 partial sums), 4 lhs, 2 rhs, 2 products of 32 registers.
#include "isa/kernels_of.h"
#include "isa/neon_pairs.h"

namespace edgekern {
namespace {

struct Neon : NeonPairs {
  static constexpr const char* kInt8GemmName = "int8_gemm_neon";
  static constexpr const char* kInt8GemvName = "int8_gemv_neon";
  static constexpr const char* kF32SpmmName = "f32_spmm_neon";
  static constexpr const char* kF16SpmmName = "f16_spmm_neon";

  static constexpr int8::Order kOrder{.line_depth = 4, .odd_sums = 1};
  static constexpr int kRows = 2;
  static constexpr int panels_at(int) { return 1; }
  static constexpr int kPeakChains = 4;
  static constexpr int kExpandRows = 2;

  template <ek_dtype>
  using Range = NeonVectors;

  // [2 r + h]: row r, columns 2h and 2h + 1, two partial sums each.
  template <int R>
  using Acc = NeonSums<2 * R>;
  template <int R>
  static EK_INLINE Acc<R> zero() {
    return {};
  }

  template <int kRow, int N>
  static EK_INLINE I32 row(const NeonSums<N>& acc) {
    return vpaddq_s32(acc.v[2 * kRow], acc.v[2 * kRow + 1]);
  }

  struct Lhs {
    int8x16_t even[2], odd[2];  // by row: 4 k, and the complement of the next 4, each spread over a vector
  };
  static EK_INLINE Lhs load_lhs(const uint8_t* p) {
    int32x4_t both = vreinterpretq_s32_u8(vld1q_u8(p));
    return {{vreinterpretq_s8_s32(vdupq_laneq_s32(both, 0)), vreinterpretq_s8_s32(vdupq_laneq_s32(both, 2))},
            {vreinterpretq_s8_s32(vdupq_laneq_s32(both, 1)), vreinterpretq_s8_s32(vdupq_laneq_s32(both, 3))}};
  }
  template <int kVector>
  static EK_INLINE Rhs load_rhs(const int8_t* p) {
    return load_two_lines<kVector>(p);
  }
  template <int kVector>
  static EK_INLINE Rhs expanded_rhs(const Expanded& step) {
    return two_lines_of<kVector>(step);
  }
  template <int N>
  static EK_INLINE NeonSums<N> multiply(NeonSums<N> acc, const Lhs& a, const Rhs& w) {
    unroll<N / 2>([&](auto r) EK_LAMBDA_INLINE {
      int16x8_t low = vmull_s8(vget_low_s8(w.half[0]), vget_low_s8(a.even[r]));
      int16x8_t high = vmull_high_s8(w.half[0], a.even[r]);
      low = vmlsl_s8(low, vget_low_s8(w.half[1]), vget_low_s8(a.odd[r]));
      high = vmlsl_high_s8(high, w.half[1], a.odd[r]);
      acc.v[2 * r] = vpadalq_s16(acc.v[2 * r], low);
      acc.v[2 * r + 1] = vpadalq_s16(acc.v[2 * r + 1], high);
    });
    return acc;
  }
  static EK_INLINE void opaque(Lhs& a) {
    __asm__ volatile("" : "+w"(a.even[0]), "+w"(a.even[1]), "+w"(a.odd[0]), "+w"(a.odd[1]));
  }

  static EK_INLINE void store_lhs(uint8_t* p, Bytes q, I32& owed) {
    constexpr uint64_t kOddLine = 0xffffffff00000000u;  // bytes 4-7 of each step of 8
    NeonPairs::store_lhs(p, veorq_u8(q, vreinterpretq_u8_u64(vdupq_n_u64(kOddLine))), owed);
  }

  // Blocks of 2 k in s16: smlal and smlal2 take 4 rows, and need no help from a zero point.
  static constexpr int8::Order kBlockOrder{.line_depth = 2, .odd_sums = 0};
  static constexpr const char* kInt8SpmmName = "int8_spmm_neon";
  static constexpr const char* kInt8DepthwiseName = "int8_depthwise_neon";
  static constexpr int block_vectors(int channels) { return channels <= 2 ? 4 : 8 / channels; }
  static constexpr int block_phases(int, int) { return 1; }
  static constexpr int kCsrUnroll = 2;
  static constexpr bool kJoinsParts = false;

  // What multiply_f32 takes, of f16 weights.
  template <int R, int B>
  static EK_INLINE F32Weights<R * B> load_f16_weights(const uint16_t* p) {
    constexpr int kWeights = R * B;
    F32Weights<kWeights> w;
    auto widen = [](uint16x4_t four) EK_LAMBDA_INLINE { return vcvt_f32_f16(vreinterpret_f16_u16(four)); };
    if constexpr (kWeights == 1) {
      w.four[0] = widen(vld1_dup_u16(p));
    } else if constexpr (kWeights == 2) {
      uint32_t two;
      memcpy(&two, p, 4);
      w.four[0] = widen(vreinterpret_u16_u32(vdup_n_u32(two)));
    } else {
      unroll<kWeights / 4>([&](auto i) EK_LAMBDA_INLINE { w.four[i] = widen(vld1_u16(p + 4 * i)); });
    }
    return w;
  }

  using BlockAcc = NeonSums<2>;  // two partial sums a row: rows 0 and 1, rows 2 and 3
  static EK_INLINE BlockAcc block_zero() { return {}; }
  static EK_INLINE BlockAcc merge_blocks(BlockAcc a, const BlockAcc& b) { return merge(a, b); }
  static EK_INLINE I32 block_sum(const BlockAcc& acc) { return vpaddq_s32(acc.v[0], acc.v[1]); }
  static EK_INLINE I32 spread_blocks(const uint8_t* q, int32_t zero_point) {
    int16x8_t wide = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(q)));
    return vreinterpretq_s32_s16(vsubq_s16(wide, vdupq_n_s16(static_cast<int16_t>(zero_point))));
  }
  template <int, int>
  static EK_INLINE const int32_t* load_weights(const int32_t* p) {
    return p;
  }
  static EK_INLINE BlockAcc multiply_lanes(BlockAcc acc, I32 a, I32 weights) {
    int16x8_t lhs = vreinterpretq_s16_s32(a), w = vreinterpretq_s16_s32(weights);
    acc.v[0] = vmlal_s16(acc.v[0], vget_low_s16(lhs), vget_low_s16(w));
    acc.v[1] = vmlal_high_s16(acc.v[1], lhs, w);
    return acc;
  }
  template <int kWeight>
  static EK_INLINE BlockAcc multiply_block(BlockAcc acc, I32 a, const int32_t* weights) {
    return multiply_lanes(acc, a, vld1q_dup_s32(weights + kWeight));
  }
};

// Nibbles are small enough to need none of that: |2 * -128 * 15| fits in 16 bits.
struct NeonInt4 : Neon {
  static constexpr const char* kInt4GemmName = "int4_gemm_neon";
  static constexpr const char* kInt4GemvName = "int4_gemv_neon";
  static constexpr int8::Order kOrder{.line_depth = 4, .odd_sums = 0};

  template <int N>
  static EK_INLINE NeonSums<N> multiply(NeonSums<N> acc, const Lhs& a, const Rhs& w) {
    unroll<N / 2>([&](auto r) EK_LAMBDA_INLINE {
      int16x8_t low = vmull_s8(vget_low_s8(w.half[0]), vget_low_s8(a.even[r]));
      int16x8_t high = vmull_high_s8(w.half[0], a.even[r]);
      low = vmlal_s8(low, vget_low_s8(w.half[1]), vget_low_s8(a.odd[r]));
      high = vmlal_high_s8(high, w.half[1], a.odd[r]);
      acc.v[2 * r] = vpadalq_s16(acc.v[2 * r], low);
      acc.v[2 * r + 1] = vpadalq_s16(acc.v[2 * r + 1], high);
    });
    return acc;
  }
  static EK_INLINE void store_lhs(uint8_t* p, Bytes q, I32& owed) { NeonPairs::store_lhs(p, q, owed); }

  static constexpr int kLineRows = 1;  // beside the sums of two there is no room for zero points
};

}  // namespace

extern const Kernels kernels_neon;
constexpr Kernels kernels_neon = kernels_of<Neon, NeonInt4>();

}  // namespace edgekern

// The dot product of ARMv8.2: sdot adds 4 products of s8 to each int32 lane. Cortex-A55 and A76 (Raspberry Pi 5), Neoverse
// N1, Apple's cores and most phones since 2018.
//
// By lane, one load of lhs (2 rows x 8 k) serves 4 products, so 6 rows take 3 registers.
// 6 x 16 tile: 24 accumulators, 3 lhs, 2 or more rhs of 32 registers; a step of 8 k is 11 loads for 48 sdot.
#include "isa/kernels_of.h"
#include "isa/neon_dot_blocks.h"
#include "isa/neon_half.h"

namespace edgekern {
namespace {

struct NeonDotprod : NeonDotBlocks {
  static constexpr const char* kInt8GemmName = "int8_gemm_neon_dotprod";
  static constexpr const char* kInt8GemvName = "int8_gemv_neon_dotprod";
  static constexpr const char* kInt4GemmName = "int4_gemm_neon_dotprod";
  static constexpr const char* kInt4GemvName = "int4_gemv_neon_dotprod";
  static constexpr const char* kF32SpmmName = "f32_spmm_neon";
  static constexpr const char* kF16SpmmName = "f16_spmm_neon_fp16";
  static constexpr const char* kInt8SpmmName = "int8_spmm_neon_dotprod";
  static constexpr const char* kInt8DepthwiseName = "int8_depthwise_neon_dotprod";

  static constexpr int8::Order kOrder{.line_depth = 4, .odd_sums = 0};
  static constexpr int kRows = 6;
  static constexpr int panels_at(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
  static constexpr int kPeakChains = 10;

  template <ek_dtype D>
  using Range = typename NeonHalfOr<D>::Range;
  using Halves = NeonHalves;

  // [r]: row r, one sum a column.
  template <int R>
  using Acc = NeonSums<R>;
  template <int R>
  static EK_INLINE Acc<R> zero() {
    return {};
  }

  template <int kRow, int N>
  static EK_INLINE I32 row(const NeonSums<N>& acc) {
    return acc.v[kRow];
  }

  using Lhs = int8x16_t;  // lanes: row 0 line 0, row 0 line 1, row 1 line 0, row 1 line 1
  static EK_INLINE Lhs load_lhs(const uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }
  template <int kVector>
  static EK_INLINE Rhs load_rhs(const int8_t* p) {
    return load_two_lines<kVector>(p);
  }
  template <int kVector>
  static EK_INLINE Rhs expanded_rhs(const Expanded& step) {
    return two_lines_of<kVector>(step);
  }
  template <int N>
  static EK_INLINE NeonSums<N> multiply(NeonSums<N> acc, Lhs a, const Rhs& w) {
    unroll<N>([&](auto r) EK_LAMBDA_INLINE {
      acc.v[r] = vdotq_laneq_s32(acc.v[r], w.half[0], a, 2 * r);
      acc.v[r] = vdotq_laneq_s32(acc.v[r], w.half[1], a, 2 * r + 1);
    });
    return acc;
  }
  static EK_INLINE void opaque(Lhs& a) { __asm__ volatile("" : "+w"(a)); }
};

}  // namespace

extern const Kernels kernels_neon_dotprod;
constexpr Kernels kernels_neon_dotprod = kernels_of<NeonDotprod>();

}  // namespace edgekern

// The matrix multiply of ARMv8.6: smmla takes 2 rows x 8 k and 2 columns x 8 k to 4 int32 sums, 32 products an instruction.
// Cortex-A710, X2 and later, Neoverse V1 and N2 (Graviton 3 and 4), Apple since M2.
//
// 6 x 16 tile: 24 accumulators, 3 lhs, 2 or more rhs of 32 registers; a step of 8 k is 11 loads for 24 smmla.
// One row leaves half of each smmla unused: it is bound by the loads of weights, one a smmla.
#include "isa/kernels_of.h"
#include "isa/neon_dot_blocks.h"
#include "isa/neon_half.h"

namespace edgekern {
namespace {

struct NeonI8mm : NeonDotBlocks {
  static constexpr const char* kInt8GemmName = "int8_gemm_neon_i8mm";
  static constexpr const char* kInt8GemvName = "int8_gemv_neon_i8mm";
  static constexpr const char* kInt4GemmName = "int4_gemm_neon_i8mm";
  static constexpr const char* kInt4GemvName = "int4_gemv_neon_i8mm";
  static constexpr const char* kF32SpmmName = "f32_spmm_neon";
  static constexpr const char* kF16SpmmName = "f16_spmm_neon_fp16";
  static constexpr const char* kInt8SpmmName = "int8_spmm_neon_i8mm";
  static constexpr const char* kInt8DepthwiseName = "int8_depthwise_neon_i8mm";

  static constexpr int8::Order kOrder{.line_depth = 8, .odd_sums = 0};
  static constexpr int kRows = 6;
  static constexpr int panels_at(int rows) { return rows <= 2 ? 2 : 1; }
  static constexpr int kPeakChains = 10;

  template <ek_dtype D>
  using Range = typename NeonHalfOr<D>::Range;
  using Halves = NeonHalves;

  // [h]: r0 c, r0 c + 1, r1 c, r1 c + 1 with c = 2h, of one row too.
  template <int>
  using Acc = NeonSums<2>;
  template <int R>
  static EK_INLINE Acc<R> zero() {
    return {};
  }

  template <int kRow>
  static EK_INLINE I32 row(const NeonSums<2>& acc) {
    int64x2_t left = vreinterpretq_s64_s32(acc.v[0]), right = vreinterpretq_s64_s32(acc.v[1]);
    return vreinterpretq_s32_s64(kRow == 0 ? vzip1q_s64(left, right) : vzip2q_s64(left, right));
  }

  using Lhs = int8x16_t;
  static EK_INLINE Lhs load_lhs(const uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }
  template <int kVector>
  static EK_INLINE Rhs load_rhs(const int8_t* p) {
    return {vld1q_s8(p + 32 * kVector), vld1q_s8(p + 32 * kVector + 16)};
  }
  template <int kVector>
  static EK_INLINE Rhs expanded_rhs(const Expanded& step) {
    return {step.v[2 * kVector], step.v[2 * kVector + 1]};
  }
  static EK_INLINE NeonSums<2> multiply(NeonSums<2> acc, Lhs a, const Rhs& w) {
    unroll<2>([&](auto h) EK_LAMBDA_INLINE { acc.v[h] = vmmlaq_s32(acc.v[h], a, w.half[h]); });
    return acc;
  }
  static EK_INLINE void opaque(Lhs& a) { __asm__ volatile("" : "+w"(a)); }
};

}  // namespace

extern const Kernels kernels_neon_i8mm;
constexpr Kernels kernels_neon_i8mm = kernels_of<NeonI8mm>();

}  // namespace edgekern

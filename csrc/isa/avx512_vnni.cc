// AVX-512 VNNI: Ice Lake and later servers, Tiger and Rocket Lake, Zen 4 and later.
//
// 6 x 64 tile: 24 accumulators, 4 rhs, 1 lhs = 29 of 32 registers; each lhs broadcast feeds 4 vpdpbusd and each rhs line 6,
// so loads stay below the two multiplies a cycle. One row: 4 panels x 4 phases = 16 chains against a latency of 4-5.
#include <immintrin.h>
#include <string.h>

#include "edgekern/edgekern.h"
#include "isa/avx2_expand.h"
#include "isa/dot4.h"
#include "isa/kernels_of.h"
#include "isa/tile.h"

namespace edgekern {
namespace {

struct Avx512Vectors {
  using F32 = __m512;
  using I32 = __m512i;
  static constexpr int kLanes = 16;

  // ------------------------------------------------------------------------------------------------- floats
  static EK_INLINE F32 set(float v) { return _mm512_set1_ps(v); }
  static EK_INLINE F32 load(const float* p) { return _mm512_loadu_ps(p); }
  static EK_INLINE F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
  static EK_INLINE F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
  static EK_INLINE F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
  static EK_INLINE F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
  static EK_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
  static EK_INLINE F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
  static EK_INLINE F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
  static EK_INLINE F32 round(F32 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static EK_INLINE F32 pow2(F32 n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }
  static EK_INLINE F32 select_negative(F32 x, F32 if_negative, F32 otherwise) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), otherwise, if_negative);
  }
  static EK_INLINE float reduce_add(F32 v) { return _mm512_reduce_add_ps(v); }
  static EK_INLINE float reduce_min(F32 v) { return _mm512_reduce_min_ps(v); }
  static EK_INLINE float reduce_max(F32 v) { return _mm512_reduce_max_ps(v); }

  template <ek_dtype D>
  static EK_INLINE F32 load_as(const void* p, int64_t i) {
    if constexpr (D == EK_F32) return _mm512_loadu_ps(static_cast<const float*>(p) + i);
    __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(p) + i));
    if constexpr (D == EK_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  template <ek_dtype D>
  static EK_INLINE void store_as(void* p, int64_t i, F32 v) {
    store_as<D>(p, i, v, kLanes);
  }
  template <ek_dtype D>
  static EK_INLINE void store_as(void* p, int64_t i, F32 v, int64_t count) {
    __mmask16 lanes = static_cast<__mmask16>((1u << count) - 1);
    if constexpr (D == EK_F32) {
      _mm512_mask_storeu_ps(static_cast<float*>(p) + i, lanes, v);
    } else {
      _mm256_mask_storeu_epi16(static_cast<uint16_t*>(p) + i, lanes, to_half<D>(v));
    }
  }

  // ----------------------------------------------------------------------------------------------- integers
  static EK_INLINE I32 set_i32(int32_t v) { return _mm512_set1_epi32(v); }
  static EK_INLINE I32 load_i32(const int32_t* p) { return _mm512_loadu_si512(p); }
  static EK_INLINE void store_i32(int32_t* p, I32 v) { _mm512_storeu_si512(p, v); }
  static EK_INLINE I32 add_i32(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
  static EK_INLINE I32 sub_i32(I32 a, I32 b) { return _mm512_sub_epi32(a, b); }
  static EK_INLINE I32 mul_i32(I32 a, I32 b) { return _mm512_mullo_epi32(a, b); }
  static EK_INLINE F32 to_f32(I32 a) { return _mm512_cvtepi32_ps(a); }
  static EK_INLINE int32_t reduce(I32 v) { return _mm512_reduce_add_epi32(v); }

  static EK_INLINE void transpose(I32 (&v)[kLanes]) {
    I32 a[kLanes], b[kLanes];
    unroll<8>([&](auto i) EK_LAMBDA_INLINE {
      a[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
      a[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    });
    unroll<8>([&](auto i) EK_LAMBDA_INLINE {  // b[4h + c]: rows 4h..4h+3 of columns c, 4 + c, 8 + c, 12 + c
      constexpr int h = i / 2, c = i % 2;
      b[4 * h + 2 * c] = _mm512_unpacklo_epi64(a[4 * h + c], a[4 * h + 2 + c]);
      b[4 * h + 2 * c + 1] = _mm512_unpackhi_epi64(a[4 * h + c], a[4 * h + 2 + c]);
    });
    unroll<4>([&](auto c) EK_LAMBDA_INLINE {  // quarters of b[c], b[4 + c], b[8 + c], b[12 + c], like a 4 x 4 matrix
      I32 low01 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88), high01 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xdd);
      I32 low23 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88), high23 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xdd);
      v[c] = _mm512_shuffle_i32x4(low01, low23, 0x88);
      v[4 + c] = _mm512_shuffle_i32x4(high01, high23, 0x88);
      v[8 + c] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
      v[12 + c] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
    });
  }

  // ------------------------------------------------------------------------------- activations to u8, 16 a part
  struct Bytes {
    __m128i part[4];
  };
  static constexpr int kParts = 4;

  static EK_INLINE Bytes load_bytes(const uint8_t* p) {
    Bytes v;
    unroll<kParts>([&](auto i) EK_LAMBDA_INLINE { v.part[i] = _mm_load_si128(reinterpret_cast<const __m128i*>(p) + i); });
    return v;
  }
  static EK_INLINE void store_bytes(uint8_t* p, const Bytes& v) {
    unroll<kParts>([&](auto i) EK_LAMBDA_INLINE { _mm_storeu_si128(reinterpret_cast<__m128i*>(p) + i, v.part[i]); });
  }
  static EK_INLINE Bytes to_bytes(const F32 (&x)[kParts], F32 inverse, I32 zero_point) {
    Bytes v;
    unroll<kParts>([&](auto i) EK_LAMBDA_INLINE {
      I32 q = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(x[i], inverse)), zero_point);
      // vpmovusdb saturates as unsigned: only the clamp at zero is left to do.
      v.part[i] = _mm512_cvtusepi32_epi8(_mm512_max_epi32(q, _mm512_setzero_si512()));
    });
    return v;
  }

 private:
  template <ek_dtype D>
  static EK_INLINE __m256i to_half(F32 v) {
    if constexpr (D == EK_F16) return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
    // bf16, half to even: add 0x7fff and the bit that will be last, then cut. NaN would overflow into Inf: it is set apart.
    __m512i u = _mm512_castps_si512(v);
    __m512i last = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
    __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(is_nan, rounded, quiet), 16));
  }
};

struct Avx512Vnni : Dot4<Avx512Vectors> {
  static constexpr const char* kInt8GemmName = "int8_gemm_avx512_vnni";
  static constexpr const char* kInt8GemvName = "int8_gemv_avx512_vnni";

  using Lhs = __m512i;
  using Rhs = __m512i;
  static constexpr int kLhsBytes = 1;
  static constexpr int32_t kZeroOffset = 0;

  static constexpr int kRows = 6;
  static constexpr int panels_at(int) { return 4; }
  static constexpr int phases_at(int rows, int) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
  static constexpr int kStreamRows = 2;
  static constexpr int64_t kPrefetchBytes = 1024;

  static EK_INLINE Lhs load_lhs(const uint8_t* p) {
    int32_t four;
    memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  template <int>
  static EK_INLINE Rhs load_rhs(const int8_t* p) {
    return _mm512_load_si512(p);
  }
  using Expanded = __m512i;
  template <int U>
  static EK_INLINE Expanded expand(const uint8_t* p, const int8_t*& values) {
    uint64_t mask = load_mask<U>(p);
    __m512i line;
    if constexpr (U == 4)
      line = _mm512_maskz_expand_epi32(static_cast<__mmask16>(mask), _mm512_loadu_si512(values));
    else
      line = _mm512_inserti64x4(_mm512_castsi256_si512(expand_half<U, 0>(mask, values)), expand_half<U, 1>(mask, values), 1);
    values += kept_values<U>(mask);
    return line;
  }
  template <int>
  static EK_INLINE Rhs expanded_rhs(Expanded line) {
    return line;
  }
  static EK_INLINE void store_expanded(int8_t* p, Expanded line) { _mm512_store_si512(p, line); }
  static constexpr int64_t kExpandAhead = 512;
  static constexpr int64_t kMasksAhead = 256;

  // One instruction by hand: gcc 12 copies or spills every accumulator around the intrinsic.
  static EK_INLINE I32 multiply(I32 acc, Lhs lhs, Rhs rhs) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(lhs), "v"(rhs));
    return acc;
  }
  static EK_INLINE void opaque(Lhs& lhs) { __asm__ volatile("" : "+v"(lhs)); }

  static EK_INLINE void store_lhs(uint8_t* p, const Bytes& q, I32&) { store_bytes(p, q); }

  static constexpr int8::Order kBlockOrder{.line_depth = 4, .odd_sums = 0};
  static constexpr const char* kInt8SpmmName = "int8_spmm_avx512_vnni";
  static constexpr int32_t kBlockZeroOffset = 0;
  static constexpr int block_vectors(int channels) { return channels <= 2 ? 4 : 2; }
  static constexpr int block_phases(int channels, int vectors) { return channels * vectors <= 8 ? 2 : 1; }
  static EK_INLINE I32 spread_blocks(const uint8_t* q, int32_t) { return load_i32(reinterpret_cast<const int32_t*>(q)); }
  template <int kChannel>
  static EK_INLINE I32 multiply_block(I32 acc, I32 a, const int32_t* weights) {
    return multiply(acc, a, set_i32(weights[kChannel]));
  }
};

}  // namespace

extern const Kernels kernels_avx512_vnni;
constexpr Kernels kernels_avx512_vnni = kernels_of<Avx512Vnni>();

}  // namespace edgekern

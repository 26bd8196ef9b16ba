// Plain C++: runs on every CPU, and is the text to read before the vector files. 8 "lanes" in arrays; where the compiler
// can vectorise for the baseline CPU it does.
#include <string.h>

#include "base/half.h"
#include "edgekern/edgekern.h"
#include "isa/dot4.h"
#include "isa/kernels_of.h"
#include "isa/tile.h"

namespace edgekern {
namespace {

template <class T>
struct Lanes {
  T lane[8];
};

template <class T, class Op>
EK_INLINE Lanes<T> map(Op&& op) {
  Lanes<T> r;
  for (int i = 0; i < 8; ++i) r.lane[i] = op(i);
  return r;
}

// Half to even through the float adder: see scale_of in formats/int8/quantize.h. For |v| < 2^22.
EK_INLINE int32_t round_even(float v) { return static_cast<int32_t>(f32_to_bits(v + 12582912.0f)) - 0x4b400000; }

struct ScalarVectors {
  using F32 = Lanes<float>;
  using I32 = Lanes<int32_t>;
  static constexpr int kLanes = 8;

  // ------------------------------------------------------------------------------------------------- floats
  static EK_INLINE F32 set(float v) {
    return map<float>([&](int) { return v; });
  }
  static EK_INLINE F32 load(const float* p) {
    return map<float>([&](int i) { return p[i]; });
  }
  static EK_INLINE F32 add(F32 a, F32 b) {
    return map<float>([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static EK_INLINE F32 sub(F32 a, F32 b) {
    return map<float>([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static EK_INLINE F32 mul(F32 a, F32 b) {
    return map<float>([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static EK_INLINE F32 div(F32 a, F32 b) {
    return map<float>([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  static EK_INLINE F32 fma(F32 a, F32 b, F32 c) {
    return map<float>([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });  // two roundings: no CPU promise here
  }
  static EK_INLINE F32 min(F32 a, F32 b) {
    return map<float>([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static EK_INLINE F32 max(F32 a, F32 b) {
    return map<float>([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static EK_INLINE F32 round(F32 a) {
    return map<float>([&](int i) { return static_cast<float>(round_even(a.lane[i])); });
  }
  static EK_INLINE F32 pow2(F32 n) {
    return map<float>([&](int i) { return bits_to_f32(static_cast<uint32_t>(round_even(n.lane[i]) + 127) << 23); });
  }
  static EK_INLINE F32 select_negative(F32 x, F32 if_negative, F32 otherwise) {
    return map<float>([&](int i) { return f32_to_bits(x.lane[i]) >> 31 ? if_negative.lane[i] : otherwise.lane[i]; });
  }
  static EK_INLINE float reduce_add(F32 v) {
    float r = 0.0f;
    for (float x : v.lane) r += x;
    return r;
  }
  static EK_INLINE float reduce_min(F32 v) {
    float r = v.lane[0];
    for (float x : v.lane) r = x < r ? x : r;
    return r;
  }
  static EK_INLINE float reduce_max(F32 v) {
    float r = v.lane[0];
    for (float x : v.lane) r = x > r ? x : r;
    return r;
  }

  template <ek_dtype D>
  static EK_INLINE F32 load_as(const void* p, int64_t at) {
    return map<float>([&](int i) {
      if constexpr (D == EK_F32) return static_cast<const float*>(p)[at + i];
      uint16_t half;
      memcpy(&half, static_cast<const char*>(p) + 2 * (at + i), 2);
      return D == EK_F16 ? f16_to_f32(half) : bf16_to_f32(half);
    });
  }
  template <ek_dtype D>
  static EK_INLINE void store_as(void* p, int64_t at, F32 v) {
    store_as<D>(p, at, v, kLanes);
  }
  template <ek_dtype D>
  static EK_INLINE void store_as(void* p, int64_t at, F32 v, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      if constexpr (D == EK_F32) {
        static_cast<float*>(p)[at + i] = v.lane[i];
      } else {
        static_cast<uint16_t*>(p)[at + i] = D == EK_F16 ? f32_to_f16(v.lane[i]) : f32_to_bf16(v.lane[i]);
      }
    }
  }

  // ----------------------------------------------------------------------------------------------- integers
  static EK_INLINE I32 set_i32(int32_t v) {
    return map<int32_t>([&](int) { return v; });
  }
  static EK_INLINE I32 load_i32(const int32_t* p) {
    return map<int32_t>([&](int i) {
      int32_t v;
      memcpy(&v, p + i, 4);  // stream_read gives any address
      return v;
    });
  }
  static EK_INLINE void store_i32(int32_t* p, I32 v) { memcpy(p, v.lane, sizeof(v.lane)); }
  static EK_INLINE I32 load_s8(const int8_t* p) {
    return map<int32_t>([&](int i) { return int32_t{p[i]}; });
  }
  static EK_INLINE I32 load_u8(const uint8_t* p) {
    return map<int32_t>([&](int i) { return int32_t{p[i]}; });
  }
  // Through unsigned: sums of peak and stream measurements may wrap.
  static EK_INLINE I32 add_i32(I32 a, I32 b) {
    return map<int32_t>(
        [&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) + static_cast<uint32_t>(b.lane[i])); });
  }
  static EK_INLINE I32 sub_i32(I32 a, I32 b) {
    return map<int32_t>([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static EK_INLINE I32 mul_i32(I32 a, I32 b) {
    return map<int32_t>([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static EK_INLINE I32 as_i32(F32 a) {
    return map<int32_t>([&](int i) { return static_cast<int32_t>(f32_to_bits(a.lane[i])); });
  }
  static EK_INLINE F32 as_f32(I32 a) {
    return map<float>([&](int i) { return bits_to_f32(static_cast<uint32_t>(a.lane[i])); });
  }
  static EK_INLINE F32 to_f32(I32 a) {
    return map<float>([&](int i) { return static_cast<float>(a.lane[i]); });
  }
  static EK_INLINE int32_t reduce(I32 v) {
    uint32_t r = 0;
    for (int32_t x : v.lane) r += static_cast<uint32_t>(x);
    return static_cast<int32_t>(r);
  }

  static EK_INLINE void transpose(I32 (&v)[kLanes]) {
    for (int r = 0; r < kLanes; ++r)
      for (int c = 0; c < r; ++c) {
        int32_t below = v[r].lane[c];
        v[r].lane[c] = v[c].lane[r];
        v[c].lane[r] = below;
      }
  }

  // Byte k of every word to plane k, and back: a turned square of bytes, rows by k.
  static EK_INLINE void split_words(I32 (&v)[4]) {
    uint8_t words[4 * kLanes][4], planes[4][4 * kLanes];
    memcpy(words, v, sizeof(v));
    for (int k = 0; k < 4; ++k)
      for (int r = 0; r < 4 * kLanes; ++r) planes[k][r] = words[r][k];
    memcpy(v, planes, sizeof(v));
  }
  static EK_INLINE void join_planes(I32 (&v)[4]) {
    uint8_t words[4 * kLanes][4], planes[4][4 * kLanes];
    memcpy(planes, v, sizeof(v));
    for (int k = 0; k < 4; ++k)
      for (int r = 0; r < 4 * kLanes; ++r) words[r][k] = planes[k][r];
    memcpy(v, words, sizeof(v));
  }

  static EK_INLINE void join_rows(const uint8_t* const (&rows)[4], int64_t at, uint8_t* out) {
    for (int c = 0; c < 16; ++c)
      for (int d = 0; d < 4; ++d) out[4 * c + d] = rows[d][at + c];
  }

  // ----------------------------------------------------------------------------------- weights to floats (formats/mixed)
  static constexpr int kMixedFewRows = 2, kMixedSums = 8, kMixedRows = 2, kMixedPanels = 1;
  static constexpr int64_t kMixedAhead = 0;
  static EK_INLINE F32 fma_onto(F32 sum, F32 a, F32 b) { return fma(a, b, sum); }
  template <int kByte>
  static EK_INLINE F32 signed_byte(I32 words) {
    return map<float>([&](int i) { return static_cast<float>(static_cast<int8_t>(words.lane[i] >> 8 * kByte)); });
  }
  template <int kBit>
  static EK_INLINE F32 nibble_less_eight(I32 words) {
    return map<float>([&](int i) { return static_cast<float>((words.lane[i] >> kBit & 15) - 8); });
  }
  template <int kBit>
  static EK_INLINE F32 nibble_less(I32 words, I32 zero) {
    return map<float>([&](int i) { return static_cast<float>((words.lane[i] >> kBit & 15) - zero.lane[i]); });
  }

  // ------------------------------------------------------------------------------- activations to u8, 32 a step
  static constexpr int kParts = 4;
  struct Bytes {
    uint8_t byte[kParts * kLanes];
  };

  static EK_INLINE Bytes load_bytes(const uint8_t* p) {
    Bytes v;
    memcpy(v.byte, p, sizeof(v.byte));
    return v;
  }
  static EK_INLINE void store_bytes(uint8_t* p, const Bytes& v) { memcpy(p, v.byte, sizeof(v.byte)); }
  static EK_INLINE Bytes max_bytes(const Bytes& a, const Bytes& b) {
    Bytes v;
    for (int i = 0; i < kParts * kLanes; ++i) v.byte[i] = a.byte[i] > b.byte[i] ? a.byte[i] : b.byte[i];
    return v;
  }
  static EK_INLINE Bytes to_bytes(const F32 (&x)[kParts], F32 inverse, I32 zero_point) {
    Bytes v;
    for (int i = 0; i < kParts * kLanes; ++i) {
      int32_t q = round_even(x[i / kLanes].lane[i % kLanes] * inverse.lane[0]) + zero_point.lane[0];
      v.byte[i] = static_cast<uint8_t>(q < 0 ? 0 : q > 255 ? 255 : q);
    }
    return v;
  }
  static EK_INLINE void store_rounded(uint8_t* p, const F32 (&x)[kParts], int32_t low, int32_t high, int64_t count) {
    const float lowest = static_cast<float>(low), highest = static_cast<float>(high);
    for (int64_t i = 0; i < count && i < kParts * kLanes; ++i) {
      float value = x[i / kLanes].lane[i % kLanes];
      p[i] = static_cast<uint8_t>(round_even(!(value >= lowest) ? lowest : value > highest ? highest : value));
    }
  }
};

struct Scalar : Dot4<ScalarVectors> {
  static constexpr const char* kInt8GemmName = "int8_gemm_scalar";
  static constexpr const char* kInt8GemvName = "int8_gemv_scalar";
  static constexpr const char* kF32SpmmName = "f32_spmm_scalar";
  static constexpr const char* kF16SpmmName = "f16_spmm_scalar";

  struct Lhs {
    int32_t q[4];
  };
  struct Rhs {
    const int8_t* line;
  };
  static constexpr int kLhsBytes = 1;
  static constexpr int32_t kZeroOffset = 0;

  static constexpr int kRows = 2;
  static constexpr int panels_at(int) { return 1; }
  static constexpr int phases_at(int, int) { return 1; }
  static constexpr int kStreamRows = 0;
  static constexpr int64_t kPrefetchBytes = 0;

  static EK_INLINE Lhs load_lhs(const uint8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
  template <int kVector>
  static EK_INLINE Rhs load_rhs(const int8_t* p) {
    return {p + kVector * 4 * kLanes};
  }
  struct Expanded {
    int8_t line[16 * 4];
  };
  template <int U>
  static EK_INLINE Expanded expand(const uint8_t* mask, const int8_t*& values) {
    Expanded step{};
    for (int i = 0; i < 64 / U; ++i)
      if (mask[i / 8] >> i % 8 & 1) {
        memcpy(step.line + i * U, values, U);
        values += U;
      }
    return step;
  }
  template <int kVector>
  static EK_INLINE Rhs expanded_rhs(const Expanded& step) {
    return load_rhs<kVector>(step.line);
  }
  static EK_INLINE void store_expanded(int8_t* p, const Expanded& step) { memcpy(p, step.line, sizeof(step.line)); }

  static constexpr int kExpandRows = 4;
  static constexpr int64_t kExpandAhead = 0;
  static constexpr int64_t kMasksAhead = 0;

  static EK_INLINE I32 multiply(I32 acc, const Lhs& a, Rhs w) {
    for (int i = 0; i < kLanes; ++i) {
      const int8_t* four = w.line + i * 4;
      acc.lane[i] += a.q[0] * four[0] + a.q[1] * four[1] + a.q[2] * four[2] + a.q[3] * four[3];
    }
    return acc;
  }
  static EK_INLINE void opaque(Lhs& lhs) { __asm__ volatile("" : "+m"(lhs)); }

  static EK_INLINE void store_lhs(uint8_t* p, const Bytes& q, I32&) { store_bytes(p, q); }

  static constexpr int8::Order kBlockOrder{.line_depth = 4, .odd_sums = 0};
  static constexpr const char* kInt8SpmmName = "int8_spmm_scalar";
  static constexpr const char* kInt8DepthwiseName = "int8_depthwise_scalar";
  static constexpr int32_t kBlockZeroOffset = 0;
  static constexpr int block_vectors(int) { return 1; }
  static constexpr int f32_vectors(int) { return 1; }
  static constexpr int block_phases(int, int) { return 1; }
  static constexpr int kCsrUnroll = 1;
  static constexpr bool kJoinsParts = false;
  static EK_INLINE I32 spread_blocks(const uint8_t* q, int32_t) { return load_i32(reinterpret_cast<const int32_t*>(q)); }
  static EK_INLINE I32 multiply_lanes(I32 acc, const I32& a, const I32& weights) {
    for (int i = 0; i < kLanes; ++i) {
      uint8_t q[4];
      int8_t w[4];
      memcpy(q, a.lane + i, 4);
      memcpy(w, weights.lane + i, 4);
      acc.lane[i] += q[0] * w[0] + q[1] * w[1] + q[2] * w[2] + q[3] * w[3];
    }
    return acc;
  }
  template <int kWeight>
  static EK_INLINE I32 multiply_block(I32 acc, const I32& a, const int32_t* weights) {
    return multiply_lanes(acc, a, set_i32(weights[kWeight]));
  }
};

struct ScalarInt4 : Scalar {
  static constexpr const char* kInt4GemmName = "int4_gemm_scalar";
  static constexpr const char* kInt4GemvName = "int4_gemv_scalar";

  static constexpr int32_t kZeroOffset = 128;
  static EK_INLINE Lhs load_lhs(const uint8_t* p) {
    Lhs lhs;
    for (int i = 0; i < 4; ++i) lhs.q[i] = static_cast<int8_t>(p[i]);
    return lhs;
  }
  static EK_INLINE void store_lhs(uint8_t* p, const Bytes& q, I32&) {
    for (int i = 0; i < kParts * kLanes; ++i) p[i] = q.byte[i] ^ 0x80;
  }
  static EK_INLINE I32 widen_u8(const uint8_t* p) {
    return map<int32_t>([&](int i) { return p[i]; });
  }

  using Line = Expanded;
  struct Zeros {
    uint8_t column[16];
  };
  static constexpr int kLineRows = 4;
  static constexpr int line_phases_at(int) { return 1; }
  static constexpr bool kHighInPlace = false;
  static EK_INLINE Line load_line(const uint8_t* p) {
    Line line;
    memcpy(line.line, p, sizeof(line.line));
    return line;
  }
  static EK_INLINE Line expand_line(const uint8_t* mask, const int8_t*& values) { return expand<1>(mask, values); }
  template <int kHalf>
  static EK_INLINE int nibble(int8_t byte) {
    return static_cast<uint8_t>(byte) >> 4 * kHalf & 15;
  }
  template <int kHalf, bool>
  static EK_INLINE Line nibbles(const Line& line) {
    Line out;
    for (int i = 0; i < 64; ++i) out.line[i] = static_cast<int8_t>(nibble<kHalf>(line.line[i]));
    return out;
  }
  template <int>
  static EK_INLINE Zeros spread_zeros(const uint8_t* p) {
    Zeros zeros;
    memcpy(zeros.column, p, sizeof(zeros.column));
    return zeros;
  }
  template <int kHalf, bool>
  static EK_INLINE Line nibbles_above(const Line& line, const Zeros& zeros) {
    Line out;
    for (int i = 0; i < 64; ++i) out.line[i] = static_cast<int8_t>((nibble<kHalf>(line.line[i]) + zeros.column[i / 4]) & 15);
    return out;
  }
};

}  // namespace

extern const Kernels kernels_scalar;
constexpr Kernels kernels_scalar = kernels_of<Scalar, ScalarInt4>();

}  // namespace edgekern

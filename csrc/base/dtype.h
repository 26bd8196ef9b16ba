// The types of matrices and images.
#pragma once

#include "base/half.h"
#include "edgekern/edgekern.h"

namespace edgekern {

inline bool valid_dtype(ek_dtype dtype) { return dtype == EK_F32 || dtype == EK_F16 || dtype == EK_BF16; }
inline int64_t bytes_of(ek_dtype dtype) { return dtype == EK_F32 ? 4 : dtype == EK_U8 ? 1 : 2; }

inline float float_at(const void* data, ek_dtype dtype, int64_t i) {
  if (dtype == EK_F32) return static_cast<const float*>(data)[i];
  uint16_t half = static_cast<const uint16_t*>(data)[i];
  return dtype == EK_F16 ? f16_to_f32(half) : bf16_to_f32(half);
}

}  // namespace edgekern

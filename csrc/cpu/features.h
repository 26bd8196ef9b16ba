// What this CPU and OS can run, asked once.
#pragma once

#include <stdint.h>

namespace edgekern {

// One bit a feature. The names in kFeatureNames (features.cc) are the ones cmake/isa_table.cmake uses.
enum Feature : uint32_t {
  kAvx2 = 1u << 0,
  kFma = 1u << 1,
  kF16c = 1u << 2,
  kAvxVnni = 1u << 3,
  kAvx512f = 1u << 4,
  kAvx512bw = 1u << 5,
  kAvx512dq = 1u << 6,
  kAvx512vl = 1u << 7,
  kAvx512Vnni = 1u << 8,
};

uint32_t cpu_features();                           // bits this CPU and OS have
uint32_t feature_bits(const char* names);          // "avx2 fma" -> bits; an unknown name gives kUnknownFeature
const char* feature_name(unsigned bit);            // name of bit number `bit`, nullptr past the last
const char* cpu_name();

inline constexpr uint32_t kUnknownFeature = 1u << 31;  // never set in cpu_features()

}  // namespace edgekern

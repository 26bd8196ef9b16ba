// What this CPU and OS can run, asked once.
#pragma once

#include <stddef.h>
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
  // ARM's, by the names /proc/cpuinfo uses.
  kAsimd = 1u << 9,
  kAsimdHp = 1u << 10,  // half-precision arithmetic
  kAsimdDp = 1u << 11,  // dot product
  kI8mm = 1u << 12,
  kAvx512Vbmi2 = 1u << 13,
};

uint32_t cpu_features();                   // bits this CPU and OS have
uint32_t feature_bits(const char* names);  // "avx2 fma" -> bits; an unknown name gives kUnknownFeature
const char* feature_name(unsigned bit);    // name of bit number `bit`, nullptr past the last
const char* cpu_name();

inline constexpr uint32_t kUnknownFeature = 1u << 31;  // never set in cpu_features()

// In detect_<architecture>.cc. detect_name leaves `name` as it is when there is nothing better.
inline constexpr size_t kCpuNameSize = 49;  // what cpuid's brand string takes
uint32_t detect_features();
void detect_name(char (&name)[kCpuNameSize]);

}  // namespace edgekern

// f16 and bf16 to and from f32 in plain integer code, for CPUs and files that have no instruction for it.
// Internal linkage throughout: ISA files include this, and no ISA file may export a shared inline function.
#pragma once

#include <stdint.h>
#include <string.h>

namespace edgekern {
namespace {

[[maybe_unused]] float bits_to_f32(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

[[maybe_unused]] uint32_t f32_to_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

[[maybe_unused]] float bf16_to_f32(uint16_t h) { return bits_to_f32(static_cast<uint32_t>(h) << 16); }

// Round to nearest even; NaN stays NaN (its top payload bit is set so that it cannot round to Inf).
[[maybe_unused]] uint16_t f32_to_bf16(float f) {
  uint32_t u = f32_to_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

[[maybe_unused]] float f16_to_f32(uint16_t h) {
  uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  uint32_t magnitude = h & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_f32(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // Inf, NaN
  if (magnitude >= 0x0400u) return bits_to_f32(sign | ((magnitude << 13) + (112u << 23)));        // normal
  // Subnormal: magnitude * 2^-24, exact in f32.
  float value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
  return bits_to_f32(sign | f32_to_bits(value));
}

// Round to nearest even, overflow to Inf, subnormals kept.
[[maybe_unused]] uint16_t f32_to_f16(float f) {
  uint32_t u = f32_to_bits(f);
  uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // >= 65520 rounds to Inf
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 puts the subnormal's last bit at the float's last bit, so the FPU rounds for us.
    uint32_t rounded = f32_to_bits(bits_to_f32(magnitude) + 0.5f) - 0x3f000000u;
    return static_cast<uint16_t>(sign | rounded);
  }
  uint32_t rebased = magnitude - (112u << 23);
  return static_cast<uint16_t>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
}

}  // namespace
}  // namespace edgekern

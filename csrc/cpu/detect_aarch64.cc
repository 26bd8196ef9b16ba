// CPU detection on 64-bit ARM: what the kernel says it handles (getauxval; sysctl on macOS), and the core's name from MIDR.
#include <stdio.h>

#include "cpu/features.h"

#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace edgekern {

#if defined(__linux__)

namespace {

// Bits of AT_HWCAP and AT_HWCAP2, from Linux's arch/arm64/include/uapi/asm/hwcap.h: old headers lack the newer ones.
constexpr unsigned long kHwcapAsimd = 1ul << 1, kHwcapAsimdHp = 1ul << 10, kHwcapCpuid = 1ul << 11;
constexpr unsigned long kHwcapAsimdDp = 1ul << 20, kHwcap2I8mm = 1ul << 13;

struct Core {
  unsigned part;
  const char* name;
};
// Part numbers that implementer 0x41 (Arm) gives its cores, from their technical reference manuals.
constexpr Core kArmCores[] = {{0xd03, "Cortex-A53"},  {0xd04, "Cortex-A35"},  {0xd05, "Cortex-A55"},  {0xd07, "Cortex-A57"},
                              {0xd08, "Cortex-A72"},  {0xd09, "Cortex-A73"},  {0xd0a, "Cortex-A75"},  {0xd0b, "Cortex-A76"},
                              {0xd0c, "Neoverse N1"}, {0xd0d, "Cortex-A77"},  {0xd40, "Neoverse V1"}, {0xd41, "Cortex-A78"},
                              {0xd44, "Cortex-X1"},   {0xd46, "Cortex-A510"}, {0xd47, "Cortex-A710"}, {0xd48, "Cortex-X2"},
                              {0xd49, "Neoverse N2"}, {0xd4d, "Cortex-A715"}, {0xd4e, "Cortex-X3"},   {0xd4f, "Neoverse V2"},
                              {0xd80, "Cortex-A520"}, {0xd81, "Cortex-A720"}, {0xd82, "Cortex-X4"}};

}  // namespace

uint32_t detect_features() {
  unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  uint32_t found = 0;
  if (hwcap & kHwcapAsimd) found |= kAsimd;
  if (hwcap & kHwcapAsimdHp) found |= kAsimdHp;
  if (hwcap & kHwcapAsimdDp) found |= kAsimdDp;
  if (hwcap2 & kHwcap2I8mm) found |= kI8mm;
  return found;
}

// The core this thread happens to run on: big and little cores of one chip differ in name, never in features.
void detect_name(char (&name)[kCpuNameSize]) {
  if ((getauxval(AT_HWCAP) & kHwcapCpuid) == 0) return;  // MIDR cannot be read: it would trap
  uint64_t midr;
  __asm__("mrs %0, midr_el1" : "=r"(midr));
  unsigned implementer = midr >> 24 & 0xff, part = midr >> 4 & 0xfff;
  for (const Core& core : kArmCores)
    if (implementer == 0x41 && part == core.part) {
      snprintf(name, sizeof(name), "Arm %s", core.name);
      return;
    }
  snprintf(name, sizeof(name), "64-bit ARM, implementer 0x%02x part 0x%03x", implementer, part);
}

#elif defined(__APPLE__)

namespace {

bool has(const char* key) {
  int value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(key, &value, &size, nullptr, 0) == 0 && value != 0;
}

}  // namespace

uint32_t detect_features() {
  uint32_t found = kAsimd;
  if (has("hw.optional.arm.FEAT_FP16")) found |= kAsimdHp;
  if (has("hw.optional.arm.FEAT_DotProd")) found |= kAsimdDp;
  if (has("hw.optional.arm.FEAT_I8MM")) found |= kI8mm;
  return found;
}

void detect_name(char (&name)[kCpuNameSize]) {
  size_t size = sizeof(name) - 1;
  sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0);
}

#else
#error "CPU detection for this system is missing: add it here"
#endif

}  // namespace edgekern

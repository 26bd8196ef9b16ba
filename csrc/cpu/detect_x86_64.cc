// CPU detection on x86-64: cpuid and xgetbv. A feature counts only when the OS also saves its registers.
#include <cpuid.h>
#include <string.h>

#include "cpu/features.h"

namespace edgekern {
namespace {

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);  // leaves zeros when the leaf does not exist
  return r;
}

uint64_t xgetbv0() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

bool bit(unsigned word, unsigned index) { return (word >> index & 1u) != 0; }

}  // namespace

uint32_t detect_features() {
  Registers leaf1 = cpuid(1, 0), leaf7 = cpuid(7, 0), leaf7_1 = cpuid(7, 1);
  bool osxsave = bit(leaf1.c, 27);
  uint64_t xcr0 = osxsave ? xgetbv0() : 0;
  bool os_ymm = (xcr0 & 0x06) == 0x06;  // XMM and YMM state
  bool os_zmm = (xcr0 & 0xe6) == 0xe6;  // and opmask, ZMM0-15 high halves, ZMM16-31
  uint32_t found = 0;
  auto add = [&found](bool has, Feature feature) { found |= has ? feature : 0u; };
  if (os_ymm) {
    add(bit(leaf7.b, 5), kAvx2);
    add(bit(leaf1.c, 12), kFma);
    add(bit(leaf1.c, 29), kF16c);
    add(bit(leaf7_1.a, 4), kAvxVnni);
  }
  if (os_zmm) {
    add(bit(leaf7.b, 16), kAvx512f);
    add(bit(leaf7.b, 30), kAvx512bw);
    add(bit(leaf7.b, 17), kAvx512dq);
    add(bit(leaf7.b, 31), kAvx512vl);
    add(bit(leaf7.c, 11), kAvx512Vnni);
    add(bit(leaf7.c, 6), kAvx512Vbmi2);
  }
  return found;
}

void detect_name(char (&name)[kCpuNameSize]) {
  if (cpuid(0x80000000u, 0).a < 0x80000004u) return;
  for (unsigned i = 0; i < 3; ++i) {
    Registers r = cpuid(0x80000002u + i, 0);
    memcpy(name + 16 * i, &r, 16);
  }
  name[48] = '\0';
  for (size_t end = strlen(name); end > 0 && name[end - 1] == ' '; --end) name[end - 1] = '\0';
}

}  // namespace edgekern

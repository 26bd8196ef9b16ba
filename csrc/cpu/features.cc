// Features by name, and what this CPU has of them. detect_<architecture>.cc asks the CPU.
#include "cpu/features.h"

#include <string.h>

namespace edgekern {
namespace {

constexpr const char* kFeatureNames[] = {"avx2",     "fma",         "f16c",  "avx_vnni", "avx512f", "avx512bw", "avx512dq",
                                         "avx512vl", "avx512_vnni", "asimd", "asimdhp",  "asimddp", "i8mm",     "avx512_vbmi2"};
constexpr unsigned kFeatureCount = sizeof(kFeatureNames) / sizeof(kFeatureNames[0]);

struct Cpu {
  uint32_t features = 0;
  char name[kCpuNameSize] = "unknown";
};

const Cpu& cpu() {
  static const Cpu probed = [] {
    Cpu c;
    c.features = detect_features();
    detect_name(c.name);
    return c;
  }();
  return probed;
}

}  // namespace

uint32_t cpu_features() { return cpu().features; }

const char* cpu_name() { return cpu().name; }

const char* feature_name(unsigned bit) { return bit < kFeatureCount ? kFeatureNames[bit] : nullptr; }

uint32_t feature_bits(const char* names) {
  uint32_t bits = 0;
  for (const char* word = names; *word != '\0';) {
    size_t length = strcspn(word, " ");
    uint32_t found = kUnknownFeature;
    for (unsigned i = 0; i < kFeatureCount; ++i)
      if (strlen(kFeatureNames[i]) == length && strncmp(kFeatureNames[i], word, length) == 0) found = 1u << i;
    bits |= found;
    word += length;
    word += strspn(word, " ");
  }
  return bits;
}

}  // namespace edgekern

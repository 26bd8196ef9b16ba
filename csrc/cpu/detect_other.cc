// CPU detection where there is nothing to detect: the scalar ISA needs no feature.
#include "cpu/features.h"

namespace edgekern {

uint32_t detect_features() { return 0; }
void detect_name(char (&)[kCpuNameSize]) {}

}  // namespace edgekern

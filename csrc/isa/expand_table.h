// Where shuffles take from what a mask keeps: number i of at[mask] is that of the kept ones before it, from `first` on, or
// `none` for one that is not kept.
#pragma once

#include <stdint.h>

namespace edgekern {
namespace {

struct ExpandTable {
  uint8_t at[256][8] = {};

  constexpr ExpandTable(int first, uint8_t none) {
    for (int mask = 0; mask < 256; ++mask)
      for (int i = 0, kept = first; i < 8; ++i) at[mask][i] = mask >> i & 1 ? static_cast<uint8_t>(kept++) : none;
  }
};

constexpr uint8_t kNone = 0x80;  // pshufb and tbl give zero for it
alignas(64) constexpr ExpandTable kExpandLow(0, kNone), kExpandHigh(8, kNone);

}  // namespace
}  // namespace edgekern

// Where byte shuffles (pshufb, tbl) take the bytes from that a mask keeps: byte i of at[mask] is the number of kept ones before
// it, or kNone, for which they give zero.
#pragma once

#include <stdint.h>

namespace edgekern {
namespace {

constexpr uint8_t kNone = 0x80;

struct ExpandTable {
  uint8_t at[256][8] = {};

  // first: where the kept bytes start in the vector that is shuffled.
  constexpr explicit ExpandTable(int first) {
    for (int mask = 0; mask < 256; ++mask)
      for (int i = 0, kept = first; i < 8; ++i) at[mask][i] = mask >> i & 1 ? static_cast<uint8_t>(kept++) : kNone;
  }
};
alignas(64) constexpr ExpandTable kExpandLow(0), kExpandHigh(8);

}  // namespace
}  // namespace edgekern

// Where the parts of a bitmap body lie, of any format: for each panel a mask of the places that are kept, and what is kept.
//
//   begin
//   +------------------+------------------------+---------------------------------------+------------------+
//   | starts u64       | masks of panel 0 | ... | kept values of panel 0 | panel 1 | .. | kMaxLoad nothing |
//   | [panels + 1]     |                        | in bytes starts[0]     | [1]     |    |                  |
//   +------------------+------------------------+---------------------------------------+------------------+
//
// Masks have a place of their own because their addresses are then known before what they say: only the values' addresses
// hang on one another.
#pragma once

#include <stdint.h>
#include <string.h>

#include <atomic>

#include "base/at.h"
#include "base/math.h"
#include "base/parallel.h"

namespace edgekern {

struct BitmapParts {
  int64_t begin;  // bytes into the packed matrix
  int64_t panels, panel_mask_bytes;

  // Kernels load whole vectors: so many bytes may be read from where the values end.
  static constexpr int64_t kMaxLoad = 64;

  int64_t masks_offset() const { return round_up(begin + (panels + 1) * 8, 64); }
  int64_t values_offset() const { return round_up(masks_offset() + panels * panel_mask_bytes, 64); }
  // Of the whole body, with so many bytes kept.
  int64_t bytes(int64_t kept) const { return round_up(values_offset() + kept + kMaxLoad, 64) - begin; }

  // The same of a matrix that is packed, of which no more than `most` can be kept; INT64_MAX when it is no such matrix.
  int64_t packed_bytes(const void* packed, size_t packed_size, int64_t most) const {
    int64_t last = begin + panels * 8;
    if (static_cast<int64_t>(packed_size) < last + 8) return INT64_MAX;
    uint64_t kept = *at<uint64_t>(packed, last);
    return kept > static_cast<uint64_t>(most) ? INT64_MAX : bytes(static_cast<int64_t>(kept));
  }

  uint8_t* mask(void* packed, int64_t panel) const { return at<uint8_t>(packed, masks_offset() + panel * panel_mask_bytes); }
  const uint8_t* mask(const void* packed, int64_t panel) const {
    return at<uint8_t>(packed, masks_offset() + panel * panel_mask_bytes);
  }
  uint8_t* values(void* packed, int64_t panel) const {
    return at<uint8_t>(packed, values_offset()) + at<uint64_t>(packed, begin)[panel];
  }
  const uint8_t* values(const void* packed, int64_t panel) const {
    return at<uint8_t>(packed, values_offset()) + at<uint64_t>(packed, begin)[panel];
  }

  // Bytes of all panels, of which count(panel) tells each one's.
  template <class Count>
  int64_t count_all(const ek_parallel* parallel, Count&& count) const {
    std::atomic<int64_t> total{0};
    parallel_for(parallel, panels, [&](int64_t first, int64_t end) {
      for (int64_t panel = first; panel < end; ++panel) total += count(panel);
    });
    return total;
  }

  // Writes starts, and zeros where packing does not write a value.
  template <class Count>
  void begin_packing(void* packed, const ek_parallel* parallel, Count&& count) const {
    uint64_t* starts = at<uint64_t>(packed, begin);
    parallel_for(parallel, panels, [&](int64_t first, int64_t end) {
      for (int64_t panel = first; panel < end; ++panel) starts[panel + 1] = static_cast<uint64_t>(count(panel));
    });
    starts[0] = 0;
    for (int64_t panel = 0; panel < panels; ++panel) starts[panel + 1] += starts[panel];
    int64_t kept = static_cast<int64_t>(starts[panels]);
    auto clear = [&](int64_t from, int64_t to) { memset(at<char>(packed, from), 0, static_cast<size_t>(to - from)); };
    clear(begin + (panels + 1) * 8, values_offset());
    clear(values_offset() + kept, begin + bytes(kept));
  }
};

}  // namespace edgekern

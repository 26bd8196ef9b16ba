// Packing and unpacking of kept blocks, for any format. What is kept of a group in a k panel a format says by a function,
//
//   kept(panel, group, visit)     calls visit(places [one, or D of a scattered block], words [group_rows]) for each block
//
// which for_each_kept makes of its weights when they are not scattered.
#pragma once

#include <string.h>

#include <atomic>

#include "base/at.h"
#include "base/parallel.h"
#include "formats/blocks/layout.h"

namespace edgekern::blocks {

// source.word(n, k): channel n's D weights from k on, as packed, 0 when none is kept; for n < N and k < K alone.
template <class Source, class Visit>
void for_each_kept(const Layout& layout, const Source& source, int64_t panel, int64_t group, Visit&& visit) {
  int64_t first = panel * layout.panel_blocks(), count = min_of(layout.panel_blocks(), layout.k_blocks() - first);
  int64_t n0 = group * layout.group_rows, rows = max_of(0, min_of(layout.group_rows, layout.n - n0));
  int32_t words[kMaxGroupRows] = {};
  for (int64_t i = 0; i < count; ++i) {
    int32_t any = 0;
    for (int64_t r = 0; r < rows; ++r) any |= words[r] = source.word(n0 + r, (first + i) * layout.depth);
    uint16_t place = static_cast<uint16_t>(i);  // little-endian: its low byte comes first
    if (any != 0) visit(&place, words);
  }
}

// Calls visit(panel, group) for all of both, one group on one thread.
template <class Visit>
void for_each_group(const Layout& layout, const ek_parallel* parallel, Visit&& visit) {
  parallel_for(parallel, layout.groups(), [&](int64_t begin, int64_t end) {
    for (int64_t panel = 0; panel < layout.k_panels(); ++panel)
      for (int64_t group = begin; group < end; ++group) visit(panel, group);
  });
}

// Bytes of the packed blocks; negative when there are more than the format can count.
template <class Kept>
int64_t bytes_of(const Layout& layout, const Kept& kept, const ek_parallel* parallel) {
  std::atomic<int64_t> total{0};
  for_each_group(layout, parallel, [&](int64_t panel, int64_t group) {
    int64_t blocks = 0;
    kept(panel, group, [&](const uint16_t*, const int32_t*) { ++blocks; });
    total.fetch_add(blocks, std::memory_order_relaxed);
  });
  return total > UINT32_MAX ? -1 : layout.bytes(total);
}

// The same of a matrix that is packed; what it returns may be nonsense when packed_size is too small to tell.
inline int64_t packed_bytes_of(const Layout& layout, const void* packed, size_t packed_size) {
  int64_t last = layout.last_start_offset();
  if (static_cast<int64_t>(packed_size) < last + 4) return last + 4 - layout.begin;
  return layout.bytes(*at<uint32_t>(packed, last));
}

// starts and work from the number of blocks in each group of each panel.
template <class Kept>
void count(const Layout& layout, const Kept& kept, void* packed, const ek_parallel* parallel) {
  uint32_t *starts = at<uint32_t>(packed, layout.starts_offset()), *work = at<uint32_t>(packed, layout.begin);
  int64_t groups = layout.groups(), groups_of_16 = kPanelChannels / layout.group_rows;
  for_each_group(layout, parallel, [&](int64_t panel, int64_t group) {
    uint32_t blocks = 0;
    kept(panel, group, [&](const uint16_t*, const int32_t*) { ++blocks; });
    starts[panel * groups + group + 1] = blocks;
  });
  starts[0] = 0;
  memset(work, 0, static_cast<size_t>(layout.panels() + 1) * 4);
  for (int64_t i = 1; i < layout.starts(); ++i) {
    work[(i - 1) % groups / groups_of_16 + 1] += starts[i];
    starts[i] += starts[i - 1];
  }
  for (int64_t i = 0; i < layout.panels(); ++i) work[i + 1] += work[i];
}

template <class Kept>
void pack(const Layout& layout, const Kept& kept, void* packed, const ek_parallel* parallel) {
  count(layout, kept, packed, parallel);
  const uint32_t* starts = at<uint32_t>(packed, layout.starts_offset());
  int64_t total = starts[layout.starts() - 1];
  uint8_t* places = at<uint8_t>(packed, layout.places_offset(total));
  auto clear = [&](int64_t begin, int64_t end) { memset(at<char>(packed, begin), 0, static_cast<size_t>(end - begin)); };
  clear(layout.starts_offset() + layout.starts() * 4, layout.weights_offset());
  clear(layout.places_offset(total) + total * layout.place_bytes(), layout.begin + layout.bytes(total));
  for_each_group(layout, parallel, [&](int64_t panel, int64_t group) {
    int64_t block = starts[panel * layout.groups() + group];
    kept(panel, group, [&](const uint16_t* of_block, const int32_t* words) {
      char* weights = at<char>(packed, layout.weights_offset() + block * layout.block_bytes());
      for (int64_t r = 0; r < layout.group_rows; ++r)  // little-endian: the low bytes come first
        memcpy(weights + r * layout.word_bytes, words + r, static_cast<size_t>(layout.word_bytes));
      memcpy(places + block++ * layout.place_bytes(), of_block, static_cast<size_t>(layout.place_bytes()));
    });
  });
}

// Calls clear(n) for every channel, then put(n, first k of the panel, places, word) for those of its words that are kept.
template <class Clear, class Put>
void unpack(const Layout& layout, const void* packed, const ek_parallel* parallel, Clear&& clear, Put&& put) {
  const uint32_t* starts = at<uint32_t>(packed, layout.starts_offset());
  const char* weights = at<char>(packed, layout.weights_offset());
  const uint8_t* places = at<uint8_t>(packed, layout.places_offset(starts[layout.starts() - 1]));
  int64_t groups = layout.groups(), rows = layout.group_rows;
  parallel_for(parallel, ceil_div(layout.n, rows), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin * rows; n < min_of(layout.n, end * rows); ++n) clear(n);
    for (int64_t panel = 0; panel < layout.k_panels(); ++panel)
      for (int64_t group = begin; group < end; ++group)
        for (int64_t b = starts[panel * groups + group]; b < starts[panel * groups + group + 1]; ++b) {
          uint16_t of_block[kMaxDepth] = {};
          memcpy(of_block, places + b * layout.place_bytes(), static_cast<size_t>(layout.place_bytes()));
          for (int64_t n = group * rows; n < min_of(layout.n, (group + 1) * rows); ++n) {
            int32_t word = 0;
            memcpy(&word, weights + (b * rows + n % rows) * layout.word_bytes, static_cast<size_t>(layout.word_bytes));
            put(n, panel * layout.panel_blocks() * layout.depth, of_block, word);
          }
        }
  });
}

}  // namespace edgekern::blocks

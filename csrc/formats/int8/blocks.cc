// Packing and unpacking of the block forms.
#include "formats/int8/blocks.h"

#include <string.h>

#include <atomic>

#include "base/parallel.h"

namespace edgekern::int8 {
namespace {

// A weight matrix seen as blocks; what lies beyond N or K is zero.
struct Source {
  BlocksLayout blocks;
  const int8_t* q;
  int64_t ld_q;

  // The depth() values of output channel n from k on, into out. False when they are all zero.
  bool read(int64_t n, int64_t k, int8_t* out) const {
    int64_t depth = blocks.depth(), used = n < blocks.layout.n ? min_of(depth, blocks.layout.k - k) : 0;
    memset(out, 0, static_cast<size_t>(depth));
    if (used > 0) memcpy(out, q + n * ld_q + k, static_cast<size_t>(used));
    int32_t all = 0;
    memcpy(&all, out, static_cast<size_t>(depth));
    return all != 0;
  }

  // Calls visit(position in the panel, values [group_rows][depth]) for each kept block of a group in a k panel.
  template <class Visit>
  void for_each(int64_t panel, int64_t group, Visit&& visit) const {
    int64_t rows = blocks.group_rows(), depth = blocks.depth(), first = panel * blocks.panel_blocks();
    int64_t count = min_of(blocks.panel_blocks(), ceil_div(blocks.layout.k, depth) - first);
    int8_t values[8 * 4];
    for (int64_t i = 0; i < count; ++i) {
      bool kept = false;
      for (int64_t r = 0; r < rows; ++r) kept |= read(group * rows + r, (first + i) * depth, values + r * depth);
      if (kept) visit(i, values);
    }
  }
};

// One int32 sum takes as many weights of one output channel as a dense row that is summed in one go.
bool fits_one_sum(const Layout& layout, const int8_t* q, int64_t ld_q, const ek_parallel* parallel) {
  if (layout.k <= kBlockDepth) return true;
  std::atomic<bool> fits{true};
  parallel_for(parallel, layout.n, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      int64_t kept = 0;
      for (int64_t k = 0; k < layout.k; ++k) kept += q[n * ld_q + k] != 0;
      if (kept > kBlockDepth) fits = false;
    }
  });
  return fits;
}

int64_t body_bytes(const Layout& layout, const int8_t* q, int64_t ld_q, const ek_parallel* parallel) {
  if (!fits_one_sum(layout, q, ld_q, parallel)) return -1;
  Source source{{layout}, q, ld_q};
  std::atomic<int64_t> total{0};
  parallel_for(parallel, source.blocks.groups(), [&](int64_t begin, int64_t end) {
    int64_t count = 0;
    for (int64_t panel = 0; panel < source.blocks.k_panels(); ++panel)
      for (int64_t group = begin; group < end; ++group) source.for_each(panel, group, [&](int64_t, const int8_t*) { ++count; });
    total += count;
  });
  return total > UINT32_MAX ? -1 : source.blocks.body_bytes(total);
}

int64_t packed_body_bytes(const Layout& layout, const void* packed, size_t packed_size) {
  BlocksLayout blocks{layout};
  int64_t last = blocks.starts_offset() + (blocks.starts() - 1) * 4;
  if (static_cast<int64_t>(packed_size) < last + 4) return last + 4;
  return blocks.body_bytes(*at<uint32_t>(packed, last));
}

// starts and work from the number of blocks in each group of each panel.
void count(const Source& source, void* packed, const ek_parallel* parallel) {
  const BlocksLayout& blocks = source.blocks;
  uint32_t* starts = at<uint32_t>(packed, blocks.starts_offset());
  uint32_t* work = at<uint32_t>(packed, blocks.work_offset());
  int64_t groups = blocks.groups(), groups_of_16 = kPanelColumns / blocks.group_rows();
  parallel_for(parallel, groups, [&](int64_t begin, int64_t end) {
    for (int64_t panel = 0; panel < blocks.k_panels(); ++panel)
      for (int64_t group = begin; group < end; ++group) {
        uint32_t kept = 0;
        source.for_each(panel, group, [&](int64_t, const int8_t*) { ++kept; });
        starts[panel * groups + group + 1] = kept;
      }
  });
  starts[0] = 0;
  memset(work, 0, static_cast<size_t>(blocks.layout.panels() + 1) * 4);
  for (int64_t i = 1; i < blocks.starts(); ++i) {
    work[(i - 1) % groups / groups_of_16 + 1] += starts[i];
    starts[i] += starts[i - 1];
  }
  for (int64_t i = 0; i < blocks.layout.panels(); ++i) work[i + 1] += work[i];
}

void clear(void* packed, int64_t begin, int64_t end) { memset(at<char>(packed, begin), 0, static_cast<size_t>(end - begin)); }

void pack(const Layout& layout, const int8_t* q, int64_t ld_q, void* packed, const ek_parallel* parallel) {
  Source source{{layout}, q, ld_q};
  const BlocksLayout& blocks = source.blocks;
  count(source, packed, parallel);
  const uint32_t* starts = at<uint32_t>(packed, blocks.starts_offset());
  int64_t groups = blocks.groups(), rows = blocks.group_rows(), depth = blocks.depth(), total = starts[blocks.starts() - 1];
  int32_t* column_sum = at<int32_t>(packed, layout.column_sum_offset());
  uint8_t* places = at<uint8_t>(packed, blocks.places_offset(total));
  memset(column_sum, 0, static_cast<size_t>(layout.sums_bytes()));
  clear(packed, blocks.starts_offset() + blocks.starts() * 4, blocks.weights_offset());
  clear(packed, blocks.places_offset(total) + total * blocks.place_bytes(), layout.body_offset() + blocks.body_bytes(total));
  parallel_for(parallel, groups, [&](int64_t begin, int64_t end) {
    for (int64_t panel = 0; panel < blocks.k_panels(); ++panel)
      for (int64_t group = begin; group < end; ++group) {
        int64_t block = starts[panel * groups + group];
        source.for_each(panel, group, [&](int64_t i, const int8_t* values) {
          char* out = at<char>(packed, blocks.weights_offset() + block * rows * 4);
          for (int64_t v = 0; v < rows * depth; ++v) {
            column_sum[group * rows + v / depth] += values[v];
            int16_t wide = values[v];
            depth == 4 ? memcpy(out + v, values + v, 1) : memcpy(out + 2 * v, &wide, 2);
          }
          uint16_t place = static_cast<uint16_t>(i);  // little-endian: its low byte comes first
          memcpy(places + block++ * blocks.place_bytes(), &place, static_cast<size_t>(blocks.place_bytes()));
        });
      }
  });
}

void unpack(const Layout& layout, const void* packed, int8_t* q, int64_t ld_q, const ek_parallel* parallel) {
  BlocksLayout blocks{layout};
  const uint32_t* starts = at<uint32_t>(packed, blocks.starts_offset());
  int64_t groups = blocks.groups(), rows = blocks.group_rows(), depth = blocks.depth(), bytes = 4 / depth;
  const uint8_t* places = at<uint8_t>(packed, blocks.places_offset(starts[blocks.starts() - 1]));
  parallel_for(parallel, ceil_div(layout.n, rows), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin * rows; n < min_of(layout.n, end * rows); ++n)
      memset(q + n * ld_q, 0, static_cast<size_t>(layout.k));
    for (int64_t panel = 0; panel < blocks.k_panels(); ++panel)
      for (int64_t group = begin; group < end; ++group)
        for (int64_t b = starts[panel * groups + group]; b < starts[panel * groups + group + 1]; ++b) {
          uint16_t place = 0;
          memcpy(&place, places + b * blocks.place_bytes(), static_cast<size_t>(blocks.place_bytes()));
          for (int64_t v = 0; v < rows * depth; ++v) {
            int64_t n = group * rows + v / depth, k = (panel * blocks.panel_blocks() + place) * depth + v % depth;
            // The low byte of a wide weight is the weight.
            if (n < layout.n && k < layout.k)
              q[n * ld_q + k] = *at<int8_t>(packed, blocks.weights_offset() + b * rows * 4 + v * bytes);
          }
        }
  });
}

}  // namespace

const FormFunctions kBlocksForm{body_bytes, packed_body_bytes, pack, unpack};

}  // namespace edgekern::int8

// Packing and unpacking of the block forms.
#include "formats/int8/blocks.h"

#include <string.h>

#include <atomic>

#include "base/parallel.h"
#include "formats/blocks/pack.h"

namespace edgekern::int8 {
namespace {

struct Source {
  const int8_t* q;
  int64_t ld_q, k, depth;

  int32_t word(int64_t n, int64_t first) const {
    int8_t values[blocks::kMaxDepth] = {};
    memcpy(values, q + n * ld_q + first, static_cast<size_t>(min_of(depth, k - first)));
    return joined(values);
  }
  int32_t joined(const int8_t* values) const {
    int16_t wide[2] = {values[0], values[1]};
    int32_t word;
    memcpy(&word, depth == 4 ? static_cast<const void*>(values) : wide, 4);
    return word;
  }
};

// The weights of one channel in a k panel that are not zero, D at a time; the last word is filled up with zeros.
template <class Visit>
void for_each_scattered(const blocks::Layout& layout, const Source& source, int64_t panel, int64_t n, Visit&& visit) {
  if (n >= layout.n) return;
  int64_t first = panel * layout.panel_blocks() * layout.depth;
  int64_t count = min_of(layout.panel_blocks() * layout.depth, layout.k - first), held = 0;
  int8_t values[blocks::kMaxDepth] = {};
  uint16_t places[blocks::kMaxDepth] = {};
  auto hand_over = [&] {
    int32_t word = source.joined(values);
    visit(places, &word);
    memset(values, 0, sizeof(values));
    memset(places, 0, sizeof(places));
    held = 0;
  };
  for (int64_t i = 0; i < count; ++i) {
    int8_t weight = source.q[n * source.ld_q + first + i];
    if (weight == 0) continue;
    values[held] = weight;
    places[held] = static_cast<uint16_t>(i);
    if (++held == layout.depth) hand_over();
  }
  if (held > 0) hand_over();
}

struct Kept {
  blocks::Layout layout;
  Source source;

  template <class Visit>
  void operator()(int64_t panel, int64_t group, Visit&& visit) const {
    if (layout.scattered) return for_each_scattered(layout, source, panel, group, visit);
    blocks::for_each_kept(layout, source, panel, group, visit);
  }
};

Kept kept_of(const Layout& layout, const int8_t* q, int64_t ld_q) {
  return {kept_blocks(layout), {q, ld_q, layout.k, layout.order.line_depth}};
}

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
  return blocks::bytes_of(kept_blocks(layout), kept_of(layout, q, ld_q), parallel);
}

int64_t packed_body_bytes(const Layout& layout, const void* packed, size_t packed_size) {
  return blocks::packed_bytes_of(kept_blocks(layout), packed, packed_size);
}

void pack(const Layout& layout, const int8_t* q, int64_t ld_q, void* packed, const ek_parallel* parallel) {
  int32_t* column_sum = at<int32_t>(packed, layout.column_sum_offset());
  memset(column_sum, 0, static_cast<size_t>(layout.sums_bytes()));
  parallel_for(parallel, layout.n, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t k = 0; k < layout.k; ++k) column_sum[n] += q[n * ld_q + k];
  });
  blocks::pack(kept_blocks(layout), kept_of(layout, q, ld_q), packed, parallel);
}

void unpack(const Layout& layout, const void* packed, int8_t* q, int64_t ld_q, const ek_parallel* parallel) {
  int64_t depth = layout.order.line_depth, bytes = 4 / depth;
  auto clear = [&](int64_t n) { memset(q + n * ld_q, 0, static_cast<size_t>(layout.k)); };
  bool scattered = layout.form == EK_INT8_CSR;
  blocks::unpack(
      kept_blocks(layout), packed, parallel, clear, [&](int64_t n, int64_t first, const uint16_t* places, int32_t word) {
        for (int64_t i = 0; i < depth; ++i) {
          int64_t k = first + (scattered ? places[i] : places[0] * depth + i);
          int8_t weight = static_cast<int8_t>(word >> (8 * bytes * i));  // the low byte of a wide weight is the weight
          if (weight != 0 && k < layout.k) q[n * ld_q + k] = weight;
        }
      });
}

}  // namespace

const FormFunctions kBlocksForm{body_bytes, packed_body_bytes, pack, unpack};

}  // namespace edgekern::int8

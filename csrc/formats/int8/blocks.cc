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
    int8_t values[4] = {};
    memcpy(values, q + n * ld_q + first, static_cast<size_t>(min_of(depth, k - first)));
    int16_t wide[2] = {values[0], values[1]};
    int32_t word;
    memcpy(&word, depth == 4 ? static_cast<const void*>(values) : wide, 4);
    return word;
  }
};

Source source_of(const Layout& layout, const int8_t* q, int64_t ld_q) { return {q, ld_q, layout.k, layout.order.line_depth}; }

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
  return blocks::bytes_of(kept_blocks(layout), source_of(layout, q, ld_q), parallel);
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
  blocks::pack(kept_blocks(layout), source_of(layout, q, ld_q), packed, parallel);
}

void unpack(const Layout& layout, const void* packed, int8_t* q, int64_t ld_q, const ek_parallel* parallel) {
  int64_t depth = layout.order.line_depth, bytes = 4 / depth;
  auto clear = [&](int64_t n) { memset(q + n * ld_q, 0, static_cast<size_t>(layout.k)); };
  blocks::unpack(kept_blocks(layout), packed, parallel, clear, [&](int64_t n, int64_t k, int32_t word) {
    // The low byte of a wide weight is the weight.
    for (int64_t i = 0; i < min_of(depth, layout.k - k); ++i)
      q[n * ld_q + k + i] = static_cast<int8_t>(word >> (8 * bytes * i));
  });
}

}  // namespace

const FormFunctions kBlocksForm{body_bytes, packed_body_bytes, pack, unpack};

}  // namespace edgekern::int8

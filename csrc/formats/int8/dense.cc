// The dense form: all weights, in panels of 16 output channels (layout.h has the picture).
#include <string.h>

#include "base/parallel.h"
#include "formats/int8/layout.h"

namespace edgekern::int8 {
namespace {

// Sums of the panel's columns over each block of K, of every `stride`-th line from `first`.
template <int64_t kDepth>
void sum_columns(const Layout& layout, const int8_t* panel, int64_t first, int64_t stride, int32_t* column_sum) {
  constexpr int64_t kLineBytes = kDepth * kPanelColumns;
  for (int64_t block = 0; block < layout.blocks(); ++block, column_sum += layout.padded_n()) {
    int32_t sum[kPanelColumns] = {};
    int64_t end = min_of(layout.padded_k(), (block + 1) * kBlockDepth) / kDepth;
    for (int64_t line = block * kBlockDepth / kDepth + first; line < end; line += stride)
      for (int64_t i = 0; i < kLineBytes; ++i) sum[i / kDepth] += panel[line * kLineBytes + i];
    memcpy(column_sum, sum, sizeof(sum));
  }
}

template <int64_t kDepth>
void pack_panel(const Layout& layout, const int8_t* q, int64_t ld_q, int64_t n0, int8_t* panel) {
  constexpr int64_t kLineBytes = kDepth * kPanelColumns;
  const int64_t lines = layout.padded_k() / kDepth, whole = layout.k / kDepth;
  for (int64_t column = 0; column < kPanelColumns; ++column) {
    int8_t* out = panel + column * kDepth;
    bool padding = n0 + column >= layout.n;
    const int8_t* row = padding ? nullptr : q + (n0 + column) * ld_q;
    for (int64_t line = 0; line < lines; ++line, out += kLineBytes) {
      int64_t used = padding ? 0 : line < whole ? kDepth : max_of(0, layout.k - line * kDepth);
      if (used == kDepth) {
        memcpy(out, row + line * kDepth, kDepth);
      } else {
        memset(out, 0, kDepth);
        if (used > 0) memcpy(out, row + line * kDepth, static_cast<size_t>(used));
      }
    }
  }
}

template <int64_t kDepth>
void pack_panels(const Layout& layout, const int8_t* q, int64_t ld_q, void* packed, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; ++p) {
    int8_t* panel = at<int8_t>(packed, layout.body_offset() + p * layout.panel_bytes());
    pack_panel<kDepth>(layout, q, ld_q, p * kPanelColumns, panel);
    sum_columns<kDepth>(layout, panel, 0, 1, at<int32_t>(packed, layout.column_sum_offset()) + p * kPanelColumns);
    if (layout.order.odd_sums)
      sum_columns<kDepth>(layout, panel, 1, 2, at<int32_t>(packed, layout.odd_sum_offset()) + p * kPanelColumns);
  }
}

template <int64_t kDepth>
void unpack_row(const Layout& layout, const int8_t* panel, int64_t column, int8_t* row) {
  constexpr int64_t kLineBytes = kDepth * kPanelColumns;
  for (int64_t k = 0; k < layout.k; ++k) row[k] = panel[k / kDepth * kLineBytes + column * kDepth + k % kDepth];
}

int64_t body_bytes(const Layout& layout, const int8_t*, int64_t, const ek_parallel*) {
  return layout.panels() * layout.panel_bytes();
}
int64_t packed_body_bytes(const Layout& layout, const void*, size_t) { return body_bytes(layout, nullptr, 0, nullptr); }

void pack(const Layout& layout, const int8_t* q, int64_t ld_q, void* packed, const ek_parallel* parallel) {
  auto pack = layout.order.line_depth == 4 ? pack_panels<4> : pack_panels<8>;
  parallel_for(parallel, layout.panels(), [&](int64_t begin, int64_t end) { pack(layout, q, ld_q, packed, begin, end); });
}

void unpack(const Layout& layout, const void* packed, int8_t* q, int64_t ld_q, const ek_parallel* parallel) {
  auto unpack = layout.order.line_depth == 4 ? unpack_row<4> : unpack_row<8>;
  parallel_for(parallel, layout.n, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int8_t* panel = at<int8_t>(packed, layout.body_offset() + row / kPanelColumns * layout.panel_bytes());
      unpack(layout, panel, row % kPanelColumns, q + row * ld_q);
    }
  });
}

}  // namespace

const FormFunctions kDenseForm{body_bytes, packed_body_bytes, pack, unpack};

}  // namespace edgekern::int8

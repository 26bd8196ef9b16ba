// Packing and unpacking of the bitmap forms.
#include "formats/int8/bitmap.h"

#include <string.h>

namespace edgekern::int8 {
namespace {

constexpr int64_t kMaxLine = kPanelColumns * kDepthUnit;

bool any(const int8_t* values, int64_t count) {
  int32_t all = 0;
  memcpy(&all, values, static_cast<size_t>(count));
  return all != 0;
}

// Bytes that are kept of a panel.
int64_t count_panel(const BitmapLayout& bitmap, const int8_t* q, int64_t ld_q, int64_t panel) {
  const Layout& layout = bitmap.layout;
  int64_t kept = 0;
  for (int64_t n = panel * kPanelColumns; n < min_of(layout.n, (panel + 1) * kPanelColumns); ++n)
    for (int64_t k = 0; k < layout.k; k += bitmap.unit())
      if (any(q + n * ld_q + k, min_of(bitmap.unit(), layout.k - k))) kept += bitmap.unit();
  return kept;
}

int64_t body_bytes(const Layout& layout, const int8_t* q, int64_t ld_q, const ek_parallel* parallel) {
  BitmapLayout bitmap{layout};
  BitmapParts parts = bitmap.parts();
  return parts.bytes(parts.count_all(parallel, [&](int64_t panel) { return count_panel(bitmap, q, ld_q, panel); }));
}

int64_t packed_body_bytes(const Layout& layout, const void* packed, size_t packed_size) {
  return BitmapLayout{layout}.parts().packed_bytes(packed, packed_size, layout.panels() * layout.panel_bytes());
}

// One line of a panel as the dense form has it; what lies beyond N or K is zero.
void read_line(const Layout& layout, const int8_t* q, int64_t ld_q, int64_t panel, int64_t line, int8_t* out) {
  int64_t depth = layout.order.line_depth, k = line * depth, n0 = panel * kPanelColumns;
  int64_t channels = min_of(kPanelColumns, layout.n - n0), used = min_of(depth, layout.k - k);
  memset(out, 0, static_cast<size_t>(depth * kPanelColumns));
  for (int64_t i = 0; used > 0 && i < channels; ++i)
    memcpy(out + i * depth, q + (n0 + i) * ld_q + k, static_cast<size_t>(used));
}

void pack_panel(const BitmapLayout& bitmap, const int8_t* q, int64_t ld_q, int64_t panel, void* packed) {
  const Layout& layout = bitmap.layout;
  int64_t depth = layout.order.line_depth, unit = bitmap.unit(), units = bitmap.line_bytes() / unit;
  int32_t* column_sum = at<int32_t>(packed, layout.column_sum_offset()) + panel * kPanelColumns;
  int32_t* odd_sum = at<int32_t>(packed, layout.odd_sum_offset()) + panel * kPanelColumns;
  uint8_t *mask = bitmap.parts().mask(packed, panel), *out = bitmap.parts().values(packed, panel);
  for (int64_t line = 0; line < bitmap.lines(); ++line, mask += bitmap.line_mask_bytes()) {
    int8_t values[kMaxLine];
    read_line(layout, q, ld_q, panel, line, values);
    int64_t sums = line * depth / kBlockDepth * layout.padded_n();
    for (int64_t i = 0; i < bitmap.line_bytes(); ++i) {
      column_sum[sums + i / depth] += values[i];
      if (layout.order.odd_sums && line % 2 != 0) odd_sum[sums + i / depth] += values[i];
    }
    for (int64_t i = 0; i < units; ++i) {
      if (!any(values + i * unit, unit)) continue;
      mask[i / 8] = static_cast<uint8_t>(mask[i / 8] | 1 << i % 8);
      memcpy(out, values + i * unit, static_cast<size_t>(unit));
      out += unit;
    }
  }
}

void pack(const Layout& layout, const int8_t* q, int64_t ld_q, void* packed, const ek_parallel* parallel) {
  BitmapLayout bitmap{layout};
  memset(at<char>(packed, layout.column_sum_offset()), 0,
         static_cast<size_t>(layout.scale_offset() - layout.column_sum_offset()));
  bitmap.parts().begin_packing(packed, parallel, [&](int64_t panel) { return count_panel(bitmap, q, ld_q, panel); });
  parallel_for(parallel, layout.panels(), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) pack_panel(bitmap, q, ld_q, panel, packed);
  });
}

void unpack_panel(const BitmapLayout& bitmap, const void* packed, int64_t panel, int8_t* q, int64_t ld_q) {
  const Layout& layout = bitmap.layout;
  int64_t depth = layout.order.line_depth, unit = bitmap.unit(), units = bitmap.panel_mask_bytes() * 8;
  const uint8_t *mask = bitmap.parts().mask(packed, panel), *values = bitmap.parts().values(packed, panel);
  for (int64_t n = panel * kPanelColumns; n < min_of(layout.n, (panel + 1) * kPanelColumns); ++n)
    memset(q + n * ld_q, 0, static_cast<size_t>(layout.k));
  for (int64_t i = 0; i < units; ++i) {
    if ((mask[i / 8] >> i % 8 & 1) == 0) continue;
    int64_t line = i * unit / bitmap.line_bytes(), in_line = i * unit % bitmap.line_bytes();
    int64_t n = panel * kPanelColumns + in_line / depth, k = line * depth + in_line % depth;
    memcpy(q + n * ld_q + k, values, static_cast<size_t>(min_of(unit, layout.k - k)));
    values += unit;
  }
}

void unpack(const Layout& layout, const void* packed, int8_t* q, int64_t ld_q, const ek_parallel* parallel) {
  parallel_for(parallel, layout.panels(), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) unpack_panel({layout}, packed, panel, q, ld_q);
  });
}

}  // namespace

const FormFunctions kBitmapForm{body_bytes, packed_body_bytes, pack, unpack};

}  // namespace edgekern::int8

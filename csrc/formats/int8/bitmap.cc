// Packing and unpacking of the bitmap forms.
#include "formats/int8/bitmap.h"

#include <string.h>

#include <atomic>

#include "base/parallel.h"

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
  std::atomic<int64_t> total{0};
  parallel_for(parallel, layout.panels(), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) total += count_panel(bitmap, q, ld_q, panel);
  });
  return bitmap.body_bytes(total);
}

int64_t packed_body_bytes(const Layout& layout, const void* packed, size_t packed_size) {
  BitmapLayout bitmap{layout};
  int64_t last = bitmap.starts_offset() + layout.panels() * 8;
  if (static_cast<int64_t>(packed_size) < last + 8) return INT64_MAX;
  uint64_t kept = *at<uint64_t>(packed, last);
  if (kept > static_cast<uint64_t>(layout.panels() * layout.panel_bytes())) return INT64_MAX;
  return bitmap.body_bytes(static_cast<int64_t>(kept));
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
  uint8_t* mask = at<uint8_t>(packed, bitmap.masks_offset() + panel * bitmap.panel_mask_bytes());
  int8_t* out = at<int8_t>(packed, bitmap.values_offset()) + at<uint64_t>(packed, bitmap.starts_offset())[panel];
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

void clear(void* packed, int64_t begin, int64_t end) { memset(at<char>(packed, begin), 0, static_cast<size_t>(end - begin)); }

void pack(const Layout& layout, const int8_t* q, int64_t ld_q, void* packed, const ek_parallel* parallel) {
  BitmapLayout bitmap{layout};
  uint64_t* starts = at<uint64_t>(packed, bitmap.starts_offset());
  parallel_for(parallel, layout.panels(), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel)
      starts[panel + 1] = static_cast<uint64_t>(count_panel(bitmap, q, ld_q, panel));
  });
  starts[0] = 0;
  for (int64_t panel = 0; panel < layout.panels(); ++panel) starts[panel + 1] += starts[panel];
  int64_t kept = static_cast<int64_t>(starts[layout.panels()]);
  clear(packed, layout.column_sum_offset(), layout.scale_offset());
  clear(packed, bitmap.starts_offset() + (layout.panels() + 1) * 8, bitmap.values_offset());
  clear(packed, bitmap.values_offset() + kept, layout.body_offset() + bitmap.body_bytes(kept));
  parallel_for(parallel, layout.panels(), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) pack_panel(bitmap, q, ld_q, panel, packed);
  });
}

void unpack_panel(const BitmapLayout& bitmap, const void* packed, int64_t panel, int8_t* q, int64_t ld_q) {
  const Layout& layout = bitmap.layout;
  int64_t depth = layout.order.line_depth, unit = bitmap.unit(), units = bitmap.panel_mask_bytes() * 8;
  const uint8_t* mask = at<uint8_t>(packed, bitmap.masks_offset() + panel * bitmap.panel_mask_bytes());
  const int8_t* values = at<int8_t>(packed, bitmap.values_offset()) + at<uint64_t>(packed, bitmap.starts_offset())[panel];
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

// Canonical int4 weights into the packed layout, and back. Runs once a layer, at convert or load time.
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "base/huge_pages.h"
#include "base/parallel.h"
#include "formats/int4/layout.h"
#include "isa/kernels.h"

namespace edgekern::int4 {
namespace {

struct Canonical {
  const uint8_t* w;
  int64_t ld_w;
  const uint16_t* scale;
  const uint8_t* zero;
};

constexpr int64_t kLineWeights = kPanelColumns * kDepthUnit;

// Which weight byte i of an int8 line stands for: so many columns and values of k from the line's first.
struct Place {
  int64_t column, k;
};
Place place_in_line(int64_t i, int64_t depth) {
  int64_t half = i / (kPanelColumns * depth), in_half = i % (kPanelColumns * depth);
  return {in_half / depth, half * depth + in_half % depth};
}

// What w is more than its nibble, modulo 16 (layout.h).
int offset_of(const Layout& layout, int zero) { return layout.form == EK_INT4_DENSE ? 0 : zero; }

// The nibbles of a line, one a byte, in the order of int8's; what lies beyond N or K is zero.
void read_line(const Layout& layout, const Canonical& from, int64_t panel, int64_t line, uint8_t (&nibbles)[kLineWeights]) {
  for (int64_t i = 0; i < kLineWeights; ++i) {
    Place place = place_in_line(i, layout.line_depth);
    int64_t n = panel * kPanelColumns + place.column, k = line * kDepthUnit + place.k;
    nibbles[i] = 0;
    if (n >= layout.n || k >= layout.k) continue;
    int w = from.w[n * from.ld_w + k / 2] >> 4 * (k % 2) & 15;
    int zero = from.zero == nullptr ? kSymmetricZero : from.zero[n * layout.groups() + k / layout.group_size];
    nibbles[i] = static_cast<uint8_t>((w - offset_of(layout, zero)) & 15);
  }
}

// Bytes that a bitmap form keeps of a panel.
int64_t count_panel(const Layout& layout, const Canonical& from, int64_t panel) {
  int64_t low = 0, high = 0, either = 0;
  for (int64_t line = 0; line < layout.lines(); ++line) {
    uint8_t nibbles[kLineWeights];
    read_line(layout, from, panel, line, nibbles);
    for (int64_t i = 0; i < kLineBytes; ++i) {
      low += nibbles[i] != 0;
      high += nibbles[i + kLineBytes] != 0;
      either += (nibbles[i] | nibbles[i + kLineBytes]) != 0;
    }
  }
  return layout.form == EK_INT4_BITMAP ? max_of(low, high) : either;
}

int64_t body_bytes(const Layout& layout, const Canonical& from, const ek_parallel* parallel) {
  if (layout.form == EK_INT4_DENSE) return layout.panels() * layout.panel_bytes();
  BitmapParts parts = layout.bitmap();
  return parts.bytes(parts.count_all(parallel, [&](int64_t panel) { return count_panel(layout, from, panel); }));
}

void pack_dense(const Layout& layout, const Canonical& from, int64_t panel, void* packed) {
  uint8_t* out = at<uint8_t>(packed, layout.body_offset() + panel * layout.panel_bytes());
  for (int64_t line = 0; line < layout.lines(); ++line, out += kLineBytes) {
    uint8_t nibbles[kLineWeights];
    read_line(layout, from, panel, line, nibbles);
    for (int64_t i = 0; i < kLineBytes; ++i) out[i] = static_cast<uint8_t>(nibbles[i] | nibbles[i + kLineBytes] << 4);
  }
}

void pack_bitmap(const Layout& layout, const Canonical& from, int64_t panel, void* packed) {
  BitmapParts parts = layout.bitmap();
  uint8_t *mask = parts.mask(packed, panel), *values = parts.values(packed, panel);
  memset(values, 0, static_cast<size_t>(parts.values(packed, panel + 1) - values));
  int64_t next[2] = {};
  for (int64_t line = 0; line < layout.lines(); ++line, mask += layout.line_mask_bytes()) {
    uint8_t nibbles[kLineWeights];
    read_line(layout, from, panel, line, nibbles);
    for (int64_t i = 0; i < kLineWeights; ++i) {
      if (nibbles[i] == 0) continue;
      int64_t half = i / kLineBytes;
      mask[i / 8] = static_cast<uint8_t>(mask[i / 8] | 1 << i % 8);
      uint8_t& value = values[next[half]++];
      value = static_cast<uint8_t>(value | nibbles[i] << 4 * half);
    }
  }
}

void pack_pairs(const Layout& layout, const Canonical& from, int64_t panel, void* packed) {
  BitmapParts parts = layout.bitmap();
  uint8_t *mask = parts.mask(packed, panel), *out = parts.values(packed, panel);
  for (int64_t line = 0; line < layout.lines(); ++line, mask += layout.line_mask_bytes()) {
    uint8_t nibbles[kLineWeights];
    read_line(layout, from, panel, line, nibbles);
    for (int64_t i = 0; i < kLineBytes; ++i) {
      uint8_t pair = static_cast<uint8_t>(nibbles[i] | nibbles[i + kLineBytes] << 4);
      if (pair == 0) continue;
      mask[i / 8] = static_cast<uint8_t>(mask[i / 8] | 1 << i % 8);
      *out++ = pair;
    }
  }
}

// Scales, zero points and sums of weights of a panel.
void pack_numbers(const Layout& layout, const Canonical& from, int64_t panel, void* packed) {
  int64_t groups = layout.groups(), first = panel * groups * kPanelColumns;
  uint16_t* scale = at<uint16_t>(packed, layout.scale_offset()) + first;
  uint8_t* zero = at<uint8_t>(packed, layout.zero_offset()) + first;
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    int64_t n = panel * kPanelColumns + c;
    double sum = 0;
    for (int64_t g = 0; g < groups; ++g) {
      bool padding = n >= layout.n;
      int z = padding ? 0 : from.zero == nullptr ? kSymmetricZero : from.zero[n * groups + g];
      scale[g * kPanelColumns + c] = padding ? uint16_t{0} : from.scale[n * groups + g];
      if (layout.has_zero) zero[g * kPanelColumns + c] = static_cast<uint8_t>(z);
      int64_t weights = 0, end = padding ? 0 : min_of(layout.k, (g + 1) * layout.group_size);
      for (int64_t k = g * layout.group_size; k < end; ++k) weights += (from.w[n * from.ld_w + k / 2] >> 4 * (k % 2) & 15) - z;
      sum += static_cast<double>(weights) * f16_to_f32(scale[g * kPanelColumns + c]);
    }
    at<float>(packed, layout.weight_sum_offset())[n] = static_cast<float>(sum);
  }
}

ek_status open_layout(const ek_isa* isa, ek_int4_form form, int64_t n, int64_t k, int64_t group_size, bool has_zero,
                      Layout* layout) {
  if (!valid_form(form)) return EK_ERROR_FORM;
  if (!valid_group_size(group_size)) return EK_ERROR_GROUP;
  if (!valid_shape(n, k)) return EK_ERROR_SHAPE;
  const edgekern::Kernels* kernels = nullptr;
  ek_status status = resolve_isa(isa, &kernels);
  if (status == EK_OK) *layout = {n, k, form, group_size, kernels->int4.line_depth, has_zero};
  return status;
}

bool valid_values(const Layout& layout, const Canonical& from, const float* bias) {
  for (int64_t i = 0; i < layout.n * layout.groups(); ++i)
    if (!isfinite(f16_to_f32(from.scale[i])) || (from.zero != nullptr && from.zero[i] > 15)) return false;
  for (int64_t i = 0; bias != nullptr && i < layout.n; ++i)
    if (!isfinite(bias[i])) return false;
  return true;
}

void write_header(const Layout& layout, const float* bias, void* packed) {
  Header header{};
  memcpy(header.magic, kMagic, sizeof(kMagic));
  header.n = layout.n;
  header.k = layout.k;
  header.form = layout.form;
  header.group_size = static_cast<int32_t>(layout.group_size);
  header.line_depth = layout.line_depth;
  header.has_bias = bias != nullptr;
  header.has_zero = layout.has_zero;
  memcpy(packed, &header, sizeof(header));
  float* out = at<float>(packed, layout.bias_offset());
  memset(out, 0, static_cast<size_t>(layout.padded_n()) * sizeof(float));
  if (bias != nullptr && layout.n > 0) memcpy(out, bias, static_cast<size_t>(layout.n) * sizeof(float));
}

// The nibbles of a packed panel, line by line.
class LineReader {
 public:
  LineReader(const Layout& layout, const void* packed, int64_t panel) : form_(layout.form) {
    bool dense = form_ == EK_INT4_DENSE;
    values_ = dense ? at<uint8_t>(packed, layout.body_offset() + panel * layout.panel_bytes())
                    : layout.bitmap().values(packed, panel);
    mask_ = dense ? nullptr : layout.bitmap().mask(packed, panel);
  }
  void next(uint8_t (&nibbles)[kLineWeights]) {
    for (int64_t i = 0; i < kLineBytes; ++i) {
      if (form_ == EK_INT4_BITMAP) {
        nibbles[i] = bit(i) ? values_[low_++] & 15 : 0;
        nibbles[i + kLineBytes] = bit(i + kLineBytes) ? values_[high_++] >> 4 : 0;
      } else {
        uint8_t pair = form_ == EK_INT4_DENSE || bit(i) ? values_[low_++] : 0;
        nibbles[i] = pair & 15;
        nibbles[i + kLineBytes] = pair >> 4;
      }
    }
    if (mask_ != nullptr) mask_ += (form_ == EK_INT4_BITMAP ? 2 : 1) * kLineBytes / 8;
  }

 private:
  bool bit(int64_t i) const { return (mask_[i / 8] >> i % 8 & 1) != 0; }

  ek_int4_form form_;
  const uint8_t *values_, *mask_;
  int64_t low_ = 0, high_ = 0;  // bytes of values taken; for the high nibbles, where they are apart
};

// The weights of a panel, in the order they are packed in, to visit(n, k, nibble).
template <class Visit>
void for_each_nibble(const Layout& layout, const void* packed, int64_t panel, Visit&& visit) {
  LineReader reader(layout, packed, panel);
  for (int64_t line = 0; line < layout.lines(); ++line) {
    uint8_t nibbles[kLineWeights];
    reader.next(nibbles);
    for (int64_t i = 0; i < kLineWeights; ++i) {
      Place place = place_in_line(i, layout.line_depth);
      int64_t n = panel * kPanelColumns + place.column, k = line * kDepthUnit + place.k;
      if (n < layout.n && k < layout.k) visit(n, k, nibbles[i]);
    }
  }
}

}  // namespace

ek_status open_packed(const void* packed, size_t packed_size, Layout* layout) {
  if (packed == nullptr) return EK_ERROR_NULL_POINTER;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 || packed_size < sizeof(Header)) return EK_ERROR_PACKED;
  const Header* header = static_cast<const Header*>(packed);
  if (memcmp(header->magic, kMagic, sizeof(kMagic)) != 0) return EK_ERROR_PACKED;
  if (!valid_form(header->form) || !valid_group_size(header->group_size) || !valid_shape(header->n, header->k) ||
      (header->line_depth != 4 && header->line_depth != 8))
    return EK_ERROR_PACKED;
  *layout = {header->n, header->k, header->form, header->group_size, header->line_depth, header->has_zero != 0};
  int64_t size = static_cast<int64_t>(packed_size), body = layout->body_offset(),
          most = layout->panels() * layout->panel_bytes();
  int64_t wanted = layout->form == EK_INT4_DENSE ? most : layout->bitmap().packed_bytes(packed, packed_size, most);
  return size < body || size - body < wanted ? EK_ERROR_PACKED : EK_OK;
}

}  // namespace edgekern::int4

using namespace edgekern;
using namespace edgekern::int4;

extern "C" size_t ek_int4_packed_size(const ek_isa* isa, ek_int4_form form, int64_t n, int64_t k, int64_t group_size,
                                      const uint8_t* w, int64_t ld_w, const uint8_t* zero, const ek_parallel* parallel) {
  Layout layout{};
  if (open_layout(isa, form, n, k, group_size, zero != nullptr, &layout) != EK_OK) return 0;
  if (form != EK_INT4_DENSE && n > 0 && k > 0 && (w == nullptr || (n > 1 && ld_w < ceil_div(k, 2)))) return 0;
  return static_cast<size_t>(layout.body_offset() + body_bytes(layout, {w, ld_w, nullptr, zero}, parallel));
}

extern "C" ek_status ek_int4_pack(const ek_isa* isa, ek_int4_form form, int64_t n, int64_t k, int64_t group_size,
                                  const uint8_t* w, int64_t ld_w, const uint16_t* scale, const uint8_t* zero, const float* bias,
                                  void* packed, size_t packed_size, const ek_parallel* parallel) {
  Layout layout{};
  ek_status status = open_layout(isa, form, n, k, group_size, zero != nullptr, &layout);
  if (status != EK_OK) return status;
  if (packed == nullptr || (n > 0 && k > 0 && (w == nullptr || scale == nullptr))) return EK_ERROR_NULL_POINTER;
  if (n > 1 && ld_w < ceil_div(k, 2)) return EK_ERROR_STRIDE;
  Canonical from{w, ld_w, scale, zero};
  if (!valid_values(layout, from, bias)) return EK_ERROR_VALUE;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 ||
      static_cast<int64_t>(packed_size) < layout.body_offset() + body_bytes(layout, from, parallel))
    return EK_ERROR_PACKED;
  advise_huge_pages(packed, packed_size);
  write_header(layout, bias, packed);
  int64_t numbers_end = layout.zero_offset() + (layout.has_zero ? layout.groups() * layout.padded_n() : 0);
  memset(at<char>(packed, numbers_end), 0, static_cast<size_t>(layout.body_offset() - numbers_end));
  if (form != EK_INT4_DENSE)
    layout.bitmap().begin_packing(packed, parallel, [&](int64_t panel) { return count_panel(layout, from, panel); });
  auto pack_panel = form == EK_INT4_DENSE ? pack_dense : form == EK_INT4_BITMAP ? pack_bitmap : pack_pairs;
  parallel_for(parallel, layout.panels(), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      pack_numbers(layout, from, panel, packed);
      pack_panel(layout, from, panel, packed);
    }
  });
  return EK_OK;
}

extern "C" ek_status ek_int4_describe(const void* packed, size_t packed_size, ek_int4_shape* shape) {
  if (shape == nullptr) return EK_ERROR_NULL_POINTER;
  Layout layout{};
  ek_status status = open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  *shape = {layout.n, layout.k, layout.group_size, static_cast<const Header*>(packed)->has_bias, layout.has_zero, layout.form};
  return EK_OK;
}

extern "C" ek_status ek_int4_unpack(const void* packed, size_t packed_size, uint8_t* w, int64_t ld_w, uint16_t* scale,
                                    uint8_t* zero, float* bias, const ek_parallel* parallel) {
  Layout layout{};
  ek_status status = open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  if (layout.n > 0 && layout.k > 0 && (w == nullptr || scale == nullptr)) return EK_ERROR_NULL_POINTER;
  if (layout.n > 1 && ld_w < ceil_div(layout.k, 2)) return EK_ERROR_STRIDE;
  int64_t groups = layout.groups();
  const uint16_t* scales = at<uint16_t>(packed, layout.scale_offset());
  const uint8_t* zeros = at<uint8_t>(packed, layout.zero_offset());
  auto zero_of = [&](int64_t at) -> int { return layout.has_zero ? zeros[at] : kSymmetricZero; };
  parallel_for(parallel, layout.panels(), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      int64_t n0 = panel * kPanelColumns, n1 = min_of(layout.n, n0 + kPanelColumns), first = n0 * groups;
      for (int64_t n = n0; n < n1; ++n) {
        memset(w + n * ld_w, 0, static_cast<size_t>(ceil_div(layout.k, 2)));
        if (bias != nullptr) bias[n] = at<float>(packed, layout.bias_offset())[n];
        for (int64_t g = 0; g < groups; ++g) {
          scale[n * groups + g] = scales[first + g * kPanelColumns + n - n0];
          if (zero != nullptr) zero[n * groups + g] = static_cast<uint8_t>(zero_of(first + g * kPanelColumns + n - n0));
        }
      }
      for_each_nibble(layout, packed, panel, [&](int64_t n, int64_t k, int nibble) {
        int zero = zero_of(first + k / layout.group_size * kPanelColumns + n - n0);
        int value = (nibble + offset_of(layout, zero)) & 15;
        w[n * ld_w + k / 2] = static_cast<uint8_t>(w[n * ld_w + k / 2] | value << 4 * (k % 2));
      });
    }
  });
  return EK_OK;
}

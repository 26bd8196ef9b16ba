// f32 weights with zeros, into the packed layout and back. Runs once a layer, at convert or load time.
#include "formats/blocks/pack.h"

#include <math.h>
#include <string.h>

#include <atomic>

#include "base/at.h"
#include "base/dtype.h"
#include "base/huge_pages.h"
#include "base/parallel.h"
#include "formats/f32/layout.h"
#include "formats/shape.h"

namespace edgekern::f32 {
namespace {

struct Source {
  const void* w;
  ek_dtype dtype;
  int64_t ld_w;

  float value(int64_t n, int64_t k) const { return float_at(w, dtype, n * ld_w + k); }
  int32_t word(int64_t n, int64_t k) const {
    float weight = value(n, k);
    return weight == 0 ? 0 : static_cast<int32_t>(f32_to_bits(weight));  // -0.0 too
  }
};

bool all_finite(const Source& source, int64_t n, int64_t k, const ek_parallel* parallel) {
  std::atomic<bool> finite{true};
  parallel_for(parallel, n, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = 0; i < k; ++i)
        if (!isfinite(source.value(row, i))) finite = false;
  });
  return finite;
}

auto kept_of(const blocks::Layout& layout, const Source& source) {
  return [&](int64_t panel, int64_t group, auto&& visit) { blocks::for_each_kept(layout, source, panel, group, visit); };
}

ek_status check_weights(int64_t channels, int64_t n, int64_t k, const Source& source) {
  if (!blocks::valid_group_rows(channels)) return EK_ERROR_FORM;
  if (!valid_shape(n, k)) return EK_ERROR_SHAPE;
  if (!valid_dtype(source.dtype)) return EK_ERROR_DTYPE;
  if (n > 0 && k > 0 && source.w == nullptr) return EK_ERROR_NULL_POINTER;
  return n > 1 && source.ld_w < k ? EK_ERROR_STRIDE : EK_OK;
}

}  // namespace

ek_status open_packed(const void* packed, size_t packed_size, blocks::Layout* layout) {
  if (packed == nullptr) return EK_ERROR_NULL_POINTER;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 || packed_size < sizeof(Header)) return EK_ERROR_PACKED;
  const Header* header = static_cast<const Header*>(packed);
  if (memcmp(header->magic, kMagic, sizeof(kMagic)) != 0) return EK_ERROR_PACKED;
  if (!blocks::valid_group_rows(header->channels) || !valid_shape(header->n, header->k)) return EK_ERROR_PACKED;
  *layout = layout_of(header->channels, header->n, header->k);
  int64_t rest = static_cast<int64_t>(packed_size) - layout->begin;
  return rest < blocks::packed_bytes_of(*layout, packed, packed_size) ? EK_ERROR_PACKED : EK_OK;
}

}  // namespace edgekern::f32

using namespace edgekern;
using namespace edgekern::f32;

extern "C" size_t ek_f32_packed_size(int64_t channels, int64_t n, int64_t k, const void* w, ek_dtype dtype, int64_t ld_w,
                                     const ek_parallel* parallel) {
  Source source{w, dtype, ld_w};
  if (check_weights(channels, n, k, source) != EK_OK) return 0;
  blocks::Layout layout = layout_of(channels, n, k);
  int64_t body = blocks::bytes_of(layout, kept_of(layout, source), parallel);
  return body < 0 ? 0 : static_cast<size_t>(layout.begin + body);
}

extern "C" ek_status ek_f32_pack(int64_t channels, int64_t n, int64_t k, const void* w, ek_dtype dtype, int64_t ld_w,
                                 const float* bias, void* packed, size_t packed_size, const ek_parallel* parallel) {
  Source source{w, dtype, ld_w};
  ek_status status = check_weights(channels, n, k, source);
  if (status != EK_OK) return status;
  if (packed == nullptr) return EK_ERROR_NULL_POINTER;
  if (!all_finite(source, n, k, parallel)) return EK_ERROR_VALUE;
  if (bias != nullptr && !all_finite({bias, EK_F32, n}, 1, n, nullptr)) return EK_ERROR_VALUE;
  blocks::Layout layout = layout_of(channels, n, k);
  int64_t body = blocks::bytes_of(layout, kept_of(layout, source), parallel);
  if (body < 0) return EK_ERROR_FORM;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 || static_cast<int64_t>(packed_size) < layout.begin + body)
    return EK_ERROR_PACKED;
  advise_huge_pages(packed, packed_size);
  Header header{};
  memcpy(header.magic, kMagic, sizeof(kMagic));
  header.n = n;
  header.k = k;
  header.channels = static_cast<int32_t>(channels);
  header.has_bias = bias != nullptr;
  memcpy(packed, &header, sizeof(header));
  memset(at<char>(packed, kBiasOffset), 0, static_cast<size_t>(layout.padded_n()) * 4);
  if (n > 0 && bias != nullptr) memcpy(at<char>(packed, kBiasOffset), bias, static_cast<size_t>(n) * 4);
  blocks::pack(layout, kept_of(layout, source), packed, parallel);
  return EK_OK;
}

extern "C" ek_status ek_f32_describe(const void* packed, size_t packed_size, ek_f32_shape* shape) {
  if (shape == nullptr) return EK_ERROR_NULL_POINTER;
  blocks::Layout layout{};
  ek_status status = open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  *shape = {layout.n, layout.k, static_cast<const Header*>(packed)->has_bias, layout.group_rows,
            *at<uint32_t>(packed, layout.last_start_offset())};
  return EK_OK;
}

extern "C" ek_status ek_f32_unpack(const void* packed, size_t packed_size, float* w, int64_t ld_w, float* bias,
                                   const ek_parallel* parallel) {
  blocks::Layout layout{};
  ek_status status = open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  if (layout.n > 0 && layout.k > 0 && w == nullptr) return EK_ERROR_NULL_POINTER;
  if (layout.n > 1 && ld_w < layout.k) return EK_ERROR_STRIDE;
  if (layout.n > 0 && bias != nullptr) memcpy(bias, at<char>(packed, kBiasOffset), static_cast<size_t>(layout.n) * 4);
  auto clear = [&](int64_t n) { memset(w + n * ld_w, 0, static_cast<size_t>(layout.k) * 4); };
  auto put = [&](int64_t n, int64_t first, const uint16_t* place, int32_t word) {
    memcpy(w + n * ld_w + first + *place, &word, 4);
  };
  if (layout.k > 0) blocks::unpack(layout, packed, parallel, clear, put);
  return EK_OK;
}

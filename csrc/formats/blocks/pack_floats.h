// Float weights with zeros, into kept blocks and back, for the formats of floats.h. Runs once a layer, at convert or load time.
#pragma once

#include <math.h>
#include <string.h>

#include <atomic>

#include "base/at.h"
#include "base/dtype.h"
#include "base/huge_pages.h"
#include "base/parallel.h"
#include "formats/blocks/floats.h"
#include "formats/blocks/pack.h"
#include "formats/shape.h"

namespace edgekern::floats {

// Weights to pack, [n][ld_w] of dtype.
struct Weights {
  const void* w;
  ek_dtype dtype;
  int64_t ld_w;

  float at(int64_t n, int64_t k) const { return float_at(w, dtype, n * ld_w + k); }
};

// What blocks/pack.h packs. Which weights are kept does not depend on scales, so that sizes can be told without them.
template <class Format>
struct Source {
  Weights weights;
  const float* scale = nullptr;  // [n], once they are known

  int32_t word(int64_t n, int64_t k) const {
    float weight = weights.at(n, k);
    return weight == 0 ? 0 : Format::word_of(weight, scale == nullptr ? 1.0f : scale[n]);  // -0.0 too
  }
};

template <class Format>
auto kept_of(const blocks::Layout& layout, const Source<Format>& source) {
  return [&](int64_t panel, int64_t group, auto&& visit) { blocks::for_each_kept(layout, source, panel, group, visit); };
}

inline ek_status check_weights(int64_t channels, int64_t n, int64_t k, const Weights& weights) {
  if (!blocks::valid_group_rows(channels)) return EK_ERROR_FORM;
  if (!valid_shape(n, k)) return EK_ERROR_SHAPE;
  if (!valid_dtype(weights.dtype)) return EK_ERROR_DTYPE;
  if (n > 0 && k > 0 && weights.w == nullptr) return EK_ERROR_NULL_POINTER;
  return n > 1 && weights.ld_w < k ? EK_ERROR_STRIDE : EK_OK;
}

// False for NaN too.
inline bool all_below(float limit, const Weights& weights, int64_t n, int64_t k, const ek_parallel* parallel) {
  std::atomic<bool> below{true};
  parallel_for(parallel, n, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = 0; i < k; ++i)
        if (!(fabsf(weights.at(row, i)) < limit)) below = false;
  });
  return below;
}

template <class Format>
size_t packed_size(int64_t channels, int64_t n, int64_t k, const Weights& weights, const ek_parallel* parallel) {
  if (check_weights(channels, n, k, weights) != EK_OK) return 0;
  blocks::Layout layout = Format::layout_of(channels, n, k);
  int64_t body = blocks::bytes_of(layout, kept_of<Format>(layout, {weights}), parallel);
  return body < 0 ? 0 : static_cast<size_t>(layout.begin + body);
}

// Header, bias and, where the format has them, scales.
template <class Format>
void write_head(const blocks::Layout& layout, const Weights& weights, const float* bias, void* packed,
                const ek_parallel* parallel) {
  Header header{};
  memcpy(header.magic, Format::kMagic, sizeof(header.magic));
  header.n = layout.n;
  header.k = layout.k;
  header.channels = static_cast<int32_t>(layout.group_rows);
  header.has_bias = bias != nullptr;
  memcpy(packed, &header, sizeof(header));
  memset(at<char>(packed, kBiasOffset), 0, static_cast<size_t>(layout.begin - kBiasOffset));
  if (layout.n > 0 && bias != nullptr) memcpy(at<char>(packed, kBiasOffset), bias, static_cast<size_t>(layout.n) * 4);
  if constexpr (Format::kScaled) {
    float* scale = at<float>(packed, scale_offset(layout));
    parallel_for(parallel, layout.n, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        float largest = 0;
        for (int64_t k = 0; k < layout.k; ++k) largest = fmaxf(largest, fabsf(weights.at(n, k)));
        scale[n] = Format::scale_of(largest);
      }
    });
  }
}

template <class Format>
ek_status pack(int64_t channels, int64_t n, int64_t k, const Weights& weights, const float* bias, void* packed,
               size_t packed_size, const ek_parallel* parallel) {
  ek_status status = check_weights(channels, n, k, weights);
  if (status != EK_OK) return status;
  if (packed == nullptr) return EK_ERROR_NULL_POINTER;
  if (!all_below(Format::kLimit, weights, n, k, parallel)) return EK_ERROR_VALUE;
  if (bias != nullptr && !all_below(INFINITY, {bias, EK_F32, n}, 1, n, nullptr)) return EK_ERROR_VALUE;
  blocks::Layout layout = Format::layout_of(channels, n, k);
  Source<Format> source{weights};
  int64_t body = blocks::bytes_of(layout, kept_of(layout, source), parallel);
  if (body < 0) return EK_ERROR_FORM;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 || static_cast<int64_t>(packed_size) < layout.begin + body)
    return EK_ERROR_PACKED;
  advise_huge_pages(packed, packed_size);
  write_head<Format>(layout, weights, bias, packed, parallel);
  if constexpr (Format::kScaled) source.scale = at<float>(packed, scale_offset(layout));
  blocks::pack(layout, kept_of(layout, source), packed, parallel);
  return EK_OK;
}

template <class Format>
ek_status open_packed(const void* packed, size_t packed_size, blocks::Layout* layout) {
  if (packed == nullptr) return EK_ERROR_NULL_POINTER;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 || packed_size < sizeof(Header)) return EK_ERROR_PACKED;
  const Header* header = static_cast<const Header*>(packed);
  if (memcmp(header->magic, Format::kMagic, sizeof(header->magic)) != 0) return EK_ERROR_PACKED;
  if (!blocks::valid_group_rows(header->channels) || !valid_shape(header->n, header->k)) return EK_ERROR_PACKED;
  *layout = Format::layout_of(header->channels, header->n, header->k);
  int64_t rest = static_cast<int64_t>(packed_size) - layout->begin;
  return rest < blocks::packed_bytes_of(*layout, packed, packed_size) ? EK_ERROR_PACKED : EK_OK;
}

template <class Format>
ek_status describe(const void* packed, size_t packed_size, ek_f32_shape* shape) {
  if (shape == nullptr) return EK_ERROR_NULL_POINTER;
  blocks::Layout layout{};
  ek_status status = Format::open(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  *shape = {layout.n, layout.k, static_cast<const Header*>(packed)->has_bias, layout.group_rows,
            *at<uint32_t>(packed, layout.last_start_offset())};
  return EK_OK;
}

template <class Format>
ek_status unpack(const void* packed, size_t packed_size, float* w, int64_t ld_w, float* bias, const ek_parallel* parallel) {
  blocks::Layout layout{};
  ek_status status = Format::open(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  if (layout.n > 0 && layout.k > 0 && w == nullptr) return EK_ERROR_NULL_POINTER;
  if (layout.n > 1 && ld_w < layout.k) return EK_ERROR_STRIDE;
  if (layout.n > 0 && bias != nullptr) memcpy(bias, at<char>(packed, kBiasOffset), static_cast<size_t>(layout.n) * 4);
  const float* scale = Format::kScaled ? at<float>(packed, scale_offset(layout)) : nullptr;
  auto clear = [&](int64_t n) { memset(w + n * ld_w, 0, static_cast<size_t>(layout.k) * 4); };
  auto put = [&](int64_t n, int64_t first, const uint16_t* place, int32_t word) {
    w[n * ld_w + first + *place] = Format::weight_of(word, scale == nullptr ? 1.0f : scale[n]);
  };
  if (layout.k > 0) blocks::unpack(layout, packed, parallel, clear, put);
  return EK_OK;
}

}  // namespace edgekern::floats

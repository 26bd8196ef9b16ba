// A convolution's int8 weights, packed and unpacked: a matrix a group, or depthwise lanes.
#include <string.h>

#include <initializer_list>

#include "base/finite.h"
#include "base/huge_pages.h"
#include "formats/int8/conv2d_layout.h"
#include "isa/kernels.h"

namespace edgekern::int8 {

ek_status check_shape(const ek_conv2d_shape& shape) {
  constexpr int64_t kLimit = kMaxDepth;
  for (int64_t size : {shape.out_channels, shape.in_channels, shape.groups, shape.kernel_h, shape.kernel_w})
    if (size < 1 || size > kLimit) return EK_ERROR_SHAPE;
  if (shape.in_channels % shape.groups != 0 || shape.out_channels % shape.groups != 0) return EK_ERROR_GROUPS;
  // Products of at most 24 bits each: no step overflows.
  int64_t window = shape.kernel_h * shape.kernel_w;
  return window > kLimit || window * (shape.in_channels / shape.groups) > kLimit ? EK_ERROR_SHAPE : EK_OK;
}

namespace {

// What the arguments of packing have in common.
ek_status check_pack(const ek_isa* isa, ek_int8_form form, const ek_conv2d_shape* shape, Conv2dLayout* layout) {
  if (shape == nullptr) return EK_ERROR_NULL_POINTER;
  ek_status status = check_shape(*shape);
  if (status != EK_OK) return status;
  if (functions_of(form) == nullptr || (form != EK_INT8_DENSE && is_depthwise(*shape))) return EK_ERROR_FORM;
  const edgekern::Kernels* kernels = nullptr;
  status = resolve_isa(isa, &kernels);
  if (status != EK_OK) return status;
  *layout = {*shape, is_depthwise(*shape) ? kernels->int8_images.depth : 0};
  return EK_OK;
}

// Bytes of the largest of the groups' matrices; 0 where the form cannot hold one.
size_t matrix_size(const ek_isa* isa, ek_int8_form form, const Conv2dLayout& layout, const int8_t* q,
                   const ek_parallel* parallel) {
  const int64_t n = layout.group_out(), k = layout.k(),
                groups = form == EK_INT8_DENSE || q == nullptr ? 1 : layout.shape.groups;
  size_t largest = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const size_t size = ek_int8_packed_size(isa, form, n, k, q == nullptr ? nullptr : q + g * n * k, k, parallel);
    if (size == 0) return 0;
    largest = size > largest ? size : largest;
  }
  return static_cast<size_t>(round_up(static_cast<int64_t>(largest), 64));
}

}  // namespace

ek_status open_conv2d(const void* packed, size_t packed_size, Conv2dPacked* out) {
  if (packed == nullptr) return EK_ERROR_NULL_POINTER;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 || packed_size < sizeof(Conv2dHeader)) return EK_ERROR_PACKED;
  const Conv2dHeader* header = static_cast<const Conv2dHeader*>(packed);
  out->nibbles = memcmp(header->magic, kInt4Conv2dMagic, sizeof(kInt4Conv2dMagic)) == 0;
  const bool known = out->nibbles || memcmp(header->magic, kConv2dMagic, sizeof(kConv2dMagic)) == 0;
  if (!known || check_shape(header->shape) != EK_OK) return EK_ERROR_PACKED;
  out->layout = {header->shape, header->depth};
  out->body = static_cast<const char*>(packed) + sizeof(Conv2dHeader);
  size_t rest = packed_size - sizeof(Conv2dHeader);
  if (out->layout.depthwise()) {
    const bool can_be = !out->nibbles && is_depthwise(header->shape) && (header->depth == 4 || header->depth == 2);
    out->matrix_bytes = 0;
    return can_be && static_cast<int64_t>(rest) >= out->layout.lanes().bytes() ? EK_OK : EK_ERROR_PACKED;
  }
  out->matrix_bytes = rest / static_cast<size_t>(header->shape.groups) / 64 * 64;
  return out->matrix_bytes == 0 ? EK_ERROR_PACKED : EK_OK;
}

}  // namespace edgekern::int8

using namespace edgekern;
using namespace edgekern::int8;

extern "C" size_t ek_int8_conv2d_packed_size(const ek_isa* isa, ek_int8_form form, const ek_conv2d_shape* shape,
                                             const int8_t* q, const ek_parallel* parallel) {
  Conv2dLayout layout{};
  if (check_pack(isa, form, shape, &layout) != EK_OK) return 0;
  if (layout.depthwise()) return sizeof(Conv2dHeader) + static_cast<size_t>(layout.lanes().bytes());
  size_t matrix = matrix_size(isa, form, layout, q, parallel);
  return matrix == 0 ? 0 : sizeof(Conv2dHeader) + matrix * static_cast<size_t>(shape->groups);
}

extern "C" ek_status ek_int8_conv2d_pack(const ek_isa* isa, ek_int8_form form, const ek_conv2d_shape* shape, const int8_t* q,
                                         const float* scale, const float* bias, void* packed, size_t packed_size,
                                         const ek_parallel* parallel) {
  Conv2dLayout layout{};
  ek_status status = check_pack(isa, form, shape, &layout);
  if (status != EK_OK) return status;
  if (q == nullptr || scale == nullptr || packed == nullptr) return EK_ERROR_NULL_POINTER;
  if (!all_finite(scale, shape->out_channels) || (bias != nullptr && !all_finite(bias, shape->out_channels)))
    return EK_ERROR_VALUE;
  size_t size = ek_int8_conv2d_packed_size(isa, form, shape, q, parallel);
  if (size == 0) return EK_ERROR_FORM;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 || packed_size < size) return EK_ERROR_PACKED;
  advise_huge_pages(packed, packed_size);
  Conv2dHeader header{};
  memcpy(header.magic, kConv2dMagic, sizeof(kConv2dMagic));
  header.shape = *shape;
  header.depth = static_cast<int32_t>(layout.depth);
  header.has_bias = bias != nullptr;
  memcpy(packed, &header, sizeof(header));
  char* body = static_cast<char*>(packed) + sizeof(header);
  if (layout.depthwise()) {
    pack_depthwise(layout.lanes(), q, scale, bias, body);
    return EK_OK;
  }
  const int64_t n = layout.group_out(), k = layout.k();
  const size_t matrix = (size - sizeof(header)) / static_cast<size_t>(shape->groups);
  for (int64_t g = 0; g < shape->groups && status == EK_OK; ++g, body += matrix)
    status = ek_int8_pack(isa, form, n, k, q + g * n * k, k, scale + g * n, bias == nullptr ? nullptr : bias + g * n, body,
                          matrix, parallel);
  return status;
}

extern "C" ek_status ek_int8_conv2d_describe(const void* packed, size_t packed_size, ek_int8_conv2d_packed* out) {
  if (out == nullptr) return EK_ERROR_NULL_POINTER;
  Conv2dPacked layer{};
  ek_status status = open_conv2d(packed, packed_size, &layer);
  if (status == EK_OK && layer.nibbles) status = EK_ERROR_PACKED;
  if (status != EK_OK) return status;
  *out = {layer.layout.shape, static_cast<const Conv2dHeader*>(packed)->has_bias, layer.layout.depthwise(), EK_INT8_DENSE};
  if (layer.layout.depthwise()) return EK_OK;
  for (int64_t g = 0; g < layer.layout.shape.groups; ++g) {
    ek_int8_shape matrix;
    if (ek_int8_describe(layer.matrix(g), layer.matrix_bytes, &matrix) != EK_OK || matrix.n != layer.layout.group_out() ||
        matrix.k != layer.layout.k() || (g > 0 && matrix.form != out->form))
      return EK_ERROR_PACKED;
    out->form = matrix.form;
  }
  return EK_OK;
}

extern "C" ek_status ek_int8_conv2d_unpack(const void* packed, size_t packed_size, int8_t* q, float* scale, float* bias,
                                           const ek_parallel* parallel) {
  ek_int8_conv2d_packed described;
  ek_status status = ek_int8_conv2d_describe(packed, packed_size, &described);
  if (status != EK_OK) return status;
  if (q == nullptr || scale == nullptr) return EK_ERROR_NULL_POINTER;
  Conv2dPacked layer{};
  open_conv2d(packed, packed_size, &layer);
  if (layer.layout.depthwise()) {
    unpack_depthwise(layer.layout.lanes(), layer.body, q, scale, bias);
    return EK_OK;
  }
  const int64_t n = layer.layout.group_out(), k = layer.layout.k();
  for (int64_t g = 0; g < described.shape.groups && status == EK_OK; ++g)
    status = ek_int8_unpack(layer.matrix(g), layer.matrix_bytes, q + g * n * k, k, scale + g * n,
                            bias == nullptr ? nullptr : bias + g * n, parallel);
  return status;
}

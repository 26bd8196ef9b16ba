// A convolution's f32 weights with zeros, packed and unpacked: a matrix of kept blocks a group.
#include <string.h>

#include "base/at.h"
#include "base/dtype.h"
#include "base/huge_pages.h"
#include "formats/f32/conv2d_layout.h"

using namespace edgekern;
using namespace edgekern::f32;
using int8::Conv2dHeader;
using int8::Conv2dLayout;

namespace {

// What the arguments of packing have in common.
ek_status check_pack(int64_t channels, const ek_conv2d_shape* shape, const void* w, ek_dtype dtype, Conv2dLayout* layout) {
  if (shape == nullptr || w == nullptr) return EK_ERROR_NULL_POINTER;
  const ek_status status = int8::check_shape(*shape);
  if (status != EK_OK) return status;
  if (!blocks::valid_group_rows(channels) || int8::is_depthwise(*shape)) return EK_ERROR_FORM;
  *layout = {*shape, 0};
  return valid_dtype(dtype) ? EK_OK : EK_ERROR_DTYPE;
}

// The weights of a group, of all in w.
const void* rows_of(const Conv2dLayout& layout, const void* w, ek_dtype dtype, int64_t group) {
  return at<char>(w, group * layout.group_out() * layout.k() * bytes_of(dtype));
}

// Bytes of the largest of the groups' matrices; 0 where one cannot be packed.
size_t matrix_size(int64_t channels, const Conv2dLayout& layout, const void* w, ek_dtype dtype, const ek_parallel* parallel) {
  size_t largest = 0;
  for (int64_t g = 0; g < layout.shape.groups; ++g) {
    const size_t size =
        ek_f32_packed_size(channels, layout.group_out(), layout.k(), rows_of(layout, w, dtype, g), dtype, layout.k(), parallel);
    if (size == 0) return 0;
    largest = size > largest ? size : largest;
  }
  return static_cast<size_t>(round_up(static_cast<int64_t>(largest), 64));
}

}  // namespace

ek_status f32::open_conv2d(const void* packed, size_t packed_size, Conv2dPacked* out) {
  if (packed == nullptr) return EK_ERROR_NULL_POINTER;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 || packed_size < sizeof(Conv2dHeader)) return EK_ERROR_PACKED;
  const Conv2dHeader* header = static_cast<const Conv2dHeader*>(packed);
  if (memcmp(header->magic, kConv2dMagic, sizeof(kConv2dMagic)) != 0) return EK_ERROR_PACKED;
  if (int8::check_shape(header->shape) != EK_OK || int8::is_depthwise(header->shape)) return EK_ERROR_PACKED;
  const size_t rest = packed_size - sizeof(Conv2dHeader);
  *out = {{header->shape, 0},
          static_cast<const char*>(packed) + sizeof(Conv2dHeader),
          rest / static_cast<size_t>(header->shape.groups) / 64 * 64};
  return out->matrix_bytes == 0 ? EK_ERROR_PACKED : EK_OK;
}

ek_status Conv2dPacked::open_matrix(int64_t group, blocks::Layout* out) const {
  const ek_status status = Format::open(matrix(group), matrix_bytes, out);
  if (status != EK_OK) return status;
  blocks::Layout first = *out;
  if (group > 0 && Format::open(matrix(0), matrix_bytes, &first) != EK_OK) return EK_ERROR_PACKED;
  const bool fits = out->n == layout.group_out() && out->k == layout.k() && out->group_rows == first.group_rows;
  return fits ? EK_OK : EK_ERROR_PACKED;
}

extern "C" size_t ek_f32_conv2d_packed_size(int64_t channels, const ek_conv2d_shape* shape, const void* w, ek_dtype dtype,
                                            const ek_parallel* parallel) {
  Conv2dLayout layout{};
  if (check_pack(channels, shape, w, dtype, &layout) != EK_OK) return 0;
  const size_t matrix = matrix_size(channels, layout, w, dtype, parallel);
  return matrix == 0 ? 0 : sizeof(Conv2dHeader) + matrix * static_cast<size_t>(shape->groups);
}

extern "C" ek_status ek_f32_conv2d_pack(int64_t channels, const ek_conv2d_shape* shape, const void* w, ek_dtype dtype,
                                        const float* bias, void* packed, size_t packed_size, const ek_parallel* parallel) {
  Conv2dLayout layout{};
  ek_status status = check_pack(channels, shape, w, dtype, &layout);
  if (status != EK_OK) return status;
  if (packed == nullptr) return EK_ERROR_NULL_POINTER;
  const size_t matrix = matrix_size(channels, layout, w, dtype, parallel);
  if (matrix == 0) return EK_ERROR_FORM;
  const size_t size = sizeof(Conv2dHeader) + matrix * static_cast<size_t>(shape->groups);
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 || packed_size < size) return EK_ERROR_PACKED;
  advise_huge_pages(packed, packed_size);
  Conv2dHeader header{};
  memcpy(header.magic, kConv2dMagic, sizeof(header.magic));
  header.shape = *shape;
  header.has_bias = bias != nullptr;
  memcpy(packed, &header, sizeof(header));
  char* body = static_cast<char*>(packed) + sizeof(header);
  const int64_t n = layout.group_out(), k = layout.k();
  for (int64_t g = 0; g < shape->groups && status == EK_OK; ++g, body += matrix)
    status = ek_f32_pack(channels, n, k, rows_of(layout, w, dtype, g), dtype, k, bias == nullptr ? nullptr : bias + g * n, body,
                         matrix, parallel);
  return status;
}

extern "C" ek_status ek_f32_conv2d_describe(const void* packed, size_t packed_size, ek_f32_conv2d_packed* out) {
  if (out == nullptr) return EK_ERROR_NULL_POINTER;
  Conv2dPacked layer{};
  const ek_status status = open_conv2d(packed, packed_size, &layer);
  if (status != EK_OK) return status;
  *out = {layer.layout.shape, static_cast<const Conv2dHeader*>(packed)->has_bias, 0, 0};
  for (int64_t g = 0; g < layer.layout.shape.groups; ++g) {
    blocks::Layout matrix{};
    if (layer.open_matrix(g, &matrix) != EK_OK) return EK_ERROR_PACKED;
    out->channels = matrix.group_rows;
    out->blocks += *at<uint32_t>(layer.matrix(g), matrix.last_start_offset());
  }
  return EK_OK;
}

extern "C" ek_status ek_f32_conv2d_unpack(const void* packed, size_t packed_size, float* w, float* bias,
                                          const ek_parallel* parallel) {
  ek_f32_conv2d_packed described;
  ek_status status = ek_f32_conv2d_describe(packed, packed_size, &described);
  if (status != EK_OK) return status;
  if (w == nullptr) return EK_ERROR_NULL_POINTER;
  Conv2dPacked layer{};
  open_conv2d(packed, packed_size, &layer);
  const int64_t n = layer.layout.group_out(), k = layer.layout.k();
  for (int64_t g = 0; g < described.shape.groups && status == EK_OK; ++g)
    status = ek_f32_unpack(layer.matrix(g), layer.matrix_bytes, w + g * n * k, k, bias == nullptr ? nullptr : bias + g * n,
                           parallel);
  return status;
}

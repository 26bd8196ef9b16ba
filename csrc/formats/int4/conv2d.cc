// A convolution's int4 weights, packed and unpacked: a matrix a group, behind the header that int8's have.
#include <string.h>

#include "base/huge_pages.h"
#include "formats/int4/layout.h"
#include "formats/int8/conv2d_layout.h"

using namespace edgekern;
using int8::Conv2dHeader;
using int8::Conv2dLayout;
using int8::Conv2dPacked;

namespace {

// A matrix's k in groups of group_size.
int64_t scales_of(const Conv2dLayout& layout, int64_t group_size) { return ceil_div(layout.k(), group_size); }

ek_status check_pack(const ek_conv2d_shape* shape, int64_t group_size, int64_t ld_w, Conv2dLayout* layout) {
  if (shape == nullptr) return EK_ERROR_NULL_POINTER;
  ek_status status = int8::check_shape(*shape);
  if (status != EK_OK) return status;
  if (!int4::valid_group_size(group_size)) return EK_ERROR_GROUP;
  if (int8::is_depthwise(*shape)) return EK_ERROR_FORM;
  *layout = {*shape, 0};
  return shape->out_channels > 1 && ld_w < ceil_div(layout->k(), 2) ? EK_ERROR_STRIDE : EK_OK;
}

// Bytes of the largest of the groups' matrices; 0 where one cannot be packed.
size_t matrix_size(const ek_isa* isa, ek_int4_form form, const Conv2dLayout& layout, int64_t group_size, const uint8_t* w,
                   int64_t ld_w, const uint8_t* zero, const ek_parallel* parallel) {
  const int64_t n = layout.group_out(), groups = form == EK_INT4_DENSE ? 1 : layout.shape.groups;
  size_t largest = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const uint8_t* zeros = zero == nullptr ? nullptr : zero + g * n * scales_of(layout, group_size);
    const uint8_t* rows = w == nullptr ? nullptr : w + g * n * ld_w;
    const size_t size = ek_int4_packed_size(isa, form, n, layout.k(), group_size, rows, ld_w, zeros, parallel);
    if (size == 0) return 0;
    largest = size > largest ? size : largest;
  }
  return static_cast<size_t>(round_up(static_cast<int64_t>(largest), 64));
}

}  // namespace

extern "C" size_t ek_int4_conv2d_packed_size(const ek_isa* isa, ek_int4_form form, const ek_conv2d_shape* shape,
                                             int64_t group_size, const uint8_t* w, int64_t ld_w, const uint8_t* zero,
                                             const ek_parallel* parallel) {
  Conv2dLayout layout{};
  if (check_pack(shape, group_size, w == nullptr ? INT64_MAX : ld_w, &layout) != EK_OK) return 0;
  const size_t matrix = matrix_size(isa, form, layout, group_size, w, ld_w, zero, parallel);
  return matrix == 0 ? 0 : sizeof(Conv2dHeader) + matrix * static_cast<size_t>(shape->groups);
}

extern "C" ek_status ek_int4_conv2d_pack(const ek_isa* isa, ek_int4_form form, const ek_conv2d_shape* shape, int64_t group_size,
                                         const uint8_t* w, int64_t ld_w, const uint16_t* scale, const uint8_t* zero,
                                         const float* bias, void* packed, size_t packed_size, const ek_parallel* parallel) {
  Conv2dLayout layout{};
  ek_status status = check_pack(shape, group_size, ld_w, &layout);
  if (status != EK_OK) return status;
  if (w == nullptr || scale == nullptr || packed == nullptr) return EK_ERROR_NULL_POINTER;
  const size_t size = ek_int4_conv2d_packed_size(isa, form, shape, group_size, w, ld_w, zero, parallel);
  if (size == 0) return EK_ERROR_FORM;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 || packed_size < size) return EK_ERROR_PACKED;
  advise_huge_pages(packed, packed_size);
  Conv2dHeader header{};
  memcpy(header.magic, int8::kInt4Conv2dMagic, sizeof(header.magic));
  header.shape = *shape;
  header.has_bias = bias != nullptr;
  memcpy(packed, &header, sizeof(header));
  char* body = static_cast<char*>(packed) + sizeof(header);
  const size_t matrix = (size - sizeof(header)) / static_cast<size_t>(shape->groups);
  const int64_t n = layout.group_out(), scales = scales_of(layout, group_size);
  for (int64_t g = 0; g < shape->groups && status == EK_OK; ++g, body += matrix) {
    const uint8_t* zeros = zero == nullptr ? nullptr : zero + g * n * scales;
    status = ek_int4_pack(isa, form, n, layout.k(), group_size, w + g * n * ld_w, ld_w, scale + g * n * scales, zeros,
                          bias == nullptr ? nullptr : bias + g * n, body, matrix, parallel);
  }
  return status;
}

extern "C" ek_status ek_int4_conv2d_describe(const void* packed, size_t packed_size, ek_int4_conv2d_packed* out) {
  if (out == nullptr) return EK_ERROR_NULL_POINTER;
  Conv2dPacked layer{};
  ek_status status = int8::open_conv2d(packed, packed_size, &layer);
  if (status == EK_OK && !layer.nibbles) status = EK_ERROR_PACKED;
  if (status != EK_OK) return status;
  *out = {layer.layout.shape, static_cast<const Conv2dHeader*>(packed)->has_bias, 0, 0, EK_INT4_DENSE};
  for (int64_t g = 0; g < layer.layout.shape.groups; ++g) {
    ek_int4_shape matrix;
    if (ek_int4_describe(layer.matrix(g), layer.matrix_bytes, &matrix) != EK_OK || matrix.n != layer.layout.group_out() ||
        matrix.k != layer.layout.k())
      return EK_ERROR_PACKED;
    if (g > 0 && (matrix.form != out->form || matrix.group_size != out->group_size || matrix.has_zero != out->has_zero))
      return EK_ERROR_PACKED;
    out->has_zero = matrix.has_zero;
    out->group_size = matrix.group_size;
    out->form = matrix.form;
  }
  return EK_OK;
}

extern "C" ek_status ek_int4_conv2d_unpack(const void* packed, size_t packed_size, uint8_t* w, int64_t ld_w, uint16_t* scale,
                                           uint8_t* zero, float* bias, const ek_parallel* parallel) {
  ek_int4_conv2d_packed described;
  ek_status status = ek_int4_conv2d_describe(packed, packed_size, &described);
  if (status != EK_OK) return status;
  if (w == nullptr || scale == nullptr) return EK_ERROR_NULL_POINTER;
  Conv2dPacked layer{};
  int8::open_conv2d(packed, packed_size, &layer);
  const int64_t n = layer.layout.group_out(), scales = scales_of(layer.layout, described.group_size);
  for (int64_t g = 0; g < described.shape.groups && status == EK_OK; ++g)
    status =
        ek_int4_unpack(layer.matrix(g), layer.matrix_bytes, w + g * n * ld_w, ld_w, scale + g * n * scales,
                       zero == nullptr ? nullptr : zero + g * n * scales, bias == nullptr ? nullptr : bias + g * n, parallel);
  return status;
}

// Packed f32 weights of a convolution: the header that int8's have (formats/int8/conv2d_layout.h has the picture), with another
// magic, then a matrix of kept blocks for each group, as ek_f32_pack makes it. All matrices take what the largest of them does.
#pragma once

#include "formats/f32/layout.h"
#include "formats/int8/conv2d_layout.h"

namespace edgekern::f32 {

inline constexpr char kConv2dMagic[8] = {'E', 'K', 'F', '3', '2', '2', 'D', '1'};

// A packed layer, opened. A matrix is the group's packed bytes.
struct Conv2dPacked {
  int8::Conv2dLayout layout;
  const char* body;
  size_t matrix_bytes;

  const void* matrix(int64_t group) const { return body + group * static_cast<int64_t>(matrix_bytes); }
  // EK_OK and its layout when that is a whole one of the layer's sizes; blocks are as high in all groups.
  ek_status open_matrix(int64_t group, blocks::Layout* out) const;
};
// EK_OK and the layer when `packed` is a whole, aligned one; the groups' matrices are not looked into. Cheap.
ek_status open_conv2d(const void* packed, size_t packed_size, Conv2dPacked* out);

}  // namespace edgekern::f32

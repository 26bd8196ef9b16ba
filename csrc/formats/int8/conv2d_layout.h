// Packed weights of a convolution, int8 or int4: a header, and what multiplies.
//
//   byte 0              64
//   +-------------------+-----------------------------------------------+
//   | Header (64 bytes) | matrix of group 0 | of group 1 | ...          |    each as ek_int8_pack makes it (layout.h)
//   +-------------------+-----------------------------------------------+
//   | Header            | depthwise weights (depthwise_layout.h)        |
//   +-------------------+-----------------------------------------------+
//
// Those of int4 have another magic, matrices as ek_int4_pack makes them (formats/int4/layout.h), and are never depthwise.
//
// All matrices are of one form, and take what the largest of them does. A group's has an output channel a row, and K = kernel_h *
// kernel_w * channels in that order: the bytes that a row of the filter meets lie side by side in an image whose pixels keep
// their channels together.
#pragma once

#include "formats/int8/depthwise_layout.h"
#include "formats/int8/layout.h"

namespace edgekern::int8 {

struct Conv2dHeader {
  char magic[8];  // one of the two below
  ek_conv2d_shape shape;
  int32_t depth;  // of depthwise words, 4 or 2; 0 where there are matrices
  int32_t has_bias;
  char reserved[8];
};
static_assert(sizeof(Conv2dHeader) == 64);
inline constexpr char kConv2dMagic[8] = {'E', 'K', 'I', '8', 'V', '2', 'D', '1'};
inline constexpr char kInt4Conv2dMagic[8] = {'E', 'K', 'I', '4', 'V', '2', 'D', '1'};

struct Conv2dLayout {
  ek_conv2d_shape shape;
  int64_t depth;  // as in the header

  bool depthwise() const { return depth != 0; }
  int64_t group_in() const { return shape.in_channels / shape.groups; }
  int64_t group_out() const { return shape.out_channels / shape.groups; }
  int64_t k() const { return shape.kernel_h * shape.kernel_w * group_in(); }
  DepthwiseLayout lanes() const { return {shape.out_channels, shape.kernel_h, shape.kernel_w, depth}; }
};

inline bool is_depthwise(const ek_conv2d_shape& shape) {
  return shape.groups > 1 && shape.groups == shape.in_channels && shape.groups == shape.out_channels;
}

// EK_OK when there can be such a layer.
ek_status check_shape(const ek_conv2d_shape& shape);

// A packed layer, opened. A matrix is the group's packed bytes.
struct Conv2dPacked {
  Conv2dLayout layout;
  bool nibbles;  // int4
  const char* body;
  size_t matrix_bytes;

  const void* matrix(int64_t group) const { return body + group * static_cast<int64_t>(matrix_bytes); }
};
// EK_OK and the layer when `packed` is a whole, aligned one; the group's matrices are not looked into. Cheap.
ek_status open_conv2d(const void* packed, size_t packed_size, Conv2dPacked* out);

// formats/int8/depthwise.cc
void pack_depthwise(const DepthwiseLayout& layout, const int8_t* q, const float* scale, const float* bias, void* packed);
void unpack_depthwise(const DepthwiseLayout& layout, const void* packed, int8_t* q, float* scale, float* bias);

}  // namespace edgekern::int8

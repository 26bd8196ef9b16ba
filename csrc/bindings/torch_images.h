// Tensors of images, in torch's two orders: contiguous and channels_last.
#pragma once

#include "torch_tensors.h"

namespace edgekern {

// Strides of a tensor without gaps in one order or the other.
inline void dense_strides(const int64_t (&sizes)[4], ek_image_order order, int64_t (&strides)[4]) {
  const int64_t c = sizes[1] > 1 ? sizes[1] : 1, h = sizes[2] > 1 ? sizes[2] : 1, w = sizes[3] > 1 ? sizes[3] : 1;
  strides[0] = c * h * w;
  strides[1] = order == EK_NHWC ? 1 : h * w;
  strides[2] = order == EK_NHWC ? w * c : w;
  strides[3] = order == EK_NHWC ? c : 1;
}

inline bool is_dense(const View& x, const int64_t (&sizes)[4], ek_image_order order) {
  int64_t strides[4];
  dense_strides(sizes, order, strides);
  for (int d = 0; d < 4; ++d)
    if (sizes[d] > 1 && x.strides[d] != strides[d]) return false;
  return true;
}

inline TensorHandle empty_images(const int64_t (&sizes)[4], ek_image_order order, int32_t dtype) {
  int64_t strides[4];
  dense_strides(sizes, order, strides);
  TorchTensor* tensor = nullptr;
  check_torch(torch_shim.empty_strided(4, sizes, strides, dtype, torch_codes.cpu, -1, &tensor), "allocate a tensor");
  return TensorHandle(tensor);
}

// torch's code of what images hold.
inline int32_t torch_dtype(ek_dtype dtype) {
  if (dtype == EK_U8) return torch_codes.uint8;
  return dtype == EK_F32 ? torch_codes.float32 : dtype == EK_F16 ? torch_codes.float16 : torch_codes.bfloat16;
}

}  // namespace edgekern

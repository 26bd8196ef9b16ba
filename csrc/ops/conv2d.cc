// What convolutions of all formats have in common: the sizes of their images.
#include "ops/conv2d.h"

#include <initializer_list>

#include "formats/int8/conv2d_layout.h"

using namespace edgekern;

namespace {

constexpr int64_t kLimit = int64_t{1} << 24;  // of a size

}  // namespace

ek_status conv2d::geometry_of(const ek_conv2d_shape& shape, const ek_window* window, int64_t images, int64_t height,
                              int64_t width, Geometry* out) {
  if (window == nullptr) return EK_ERROR_NULL_POINTER;
  for (int64_t size : {images, height, width})
    if (size < 0 || size > kLimit) return EK_ERROR_SHAPE;
  *out = {shape, *window, height, width, 0, 0};
  ek_status status = ek_conv2d_output(&shape, window, height, width, &out->out_height, &out->out_width);
  if (status != EK_OK) return status;
  for (double bytes :
       {4.0 * out->met_height() * out->met_width() * shape.in_channels, 4.0 * images * height * width * shape.in_channels,
        4.0 * images * out->out_height * out->out_width * shape.out_channels})
    if (bytes > 4e18) return EK_ERROR_SHAPE;
  return EK_OK;
}

extern "C" ek_status ek_conv2d_output(const ek_conv2d_shape* shape, const ek_window* window, int64_t height, int64_t width,
                                      int64_t* out_height, int64_t* out_width) {
  if (shape == nullptr || window == nullptr || out_height == nullptr || out_width == nullptr) return EK_ERROR_NULL_POINTER;
  ek_status status = int8::check_shape(*shape);
  if (status != EK_OK) return status;
  if (height < 0 || width < 0 || height > kLimit || width > kLimit) return EK_ERROR_SHAPE;
  const ek_window& w = *window;
  for (int64_t step : {w.stride_h, w.stride_w, w.dilation_h, w.dilation_w})
    if (step < 1 || step > kLimit) return EK_ERROR_WINDOW;
  for (int64_t zeros : {w.top, w.bottom, w.left, w.right})
    if (zeros < 0 || zeros > kLimit) return EK_ERROR_WINDOW;
  const int64_t room_h = height + w.top + w.bottom - (shape->kernel_h - 1) * w.dilation_h - 1;
  const int64_t room_w = width + w.left + w.right - (shape->kernel_w - 1) * w.dilation_w - 1;
  if (room_h < 0 || room_w < 0) return EK_ERROR_WINDOW;
  *out_height = room_h / w.stride_h + 1;
  *out_width = room_w / w.stride_w + 1;
  return EK_OK;
}

// Images to u8, with the zeros around them.
#include <string.h>

#include "ops/int8_conv2d_call.h"

namespace edgekern::int8 {

void find_range(const Call& call, int64_t ticket) {
  int64_t b = ticket / call.plan.range_pieces, start = ticket % call.plan.range_pieces * kRangeElements;
  int64_t count = min_of(kRangeElements, call.x_elements() - start);
  call.ranges[ticket] = call.kernels->int8_images.range(call.x.data, call.x.dtype, b * call.x_elements() + start, count);
}

int64_t quantize_rows(const Call& call, int64_t b, int64_t row, int64_t end, const RowScale& scale) {
  const Geometry& g = call.plan.geometry;
  const int64_t channels = g.shape.in_channels, met = g.met_width(), y = row - g.window.top;
  uint8_t* out = call.image(b) + row * g.row_bytes();
  const int64_t left = min_of(g.window.left, met), used = y < 0 || y >= g.height ? 0 : min_of(g.width, met - left);
  const int64_t rows = used == met && met == g.width ? min_of(end, g.window.top + g.height) - row : 1;
  memset(out, scale.zero_point, static_cast<size_t>(left * channels));
  if (used > 0) {
    const int64_t image = b * call.x_elements(), plane = call.plan.planes ? g.height * g.width : 0;
    const int64_t start = image + y * g.width * (call.plan.planes ? 1 : channels), pixels = rows * used;
    if (call.x.dtype == EK_U8)
      memcpy(out + left * channels, static_cast<const uint8_t*>(call.x.data) + start, static_cast<size_t>(pixels * channels));
    else
      call.kernels->int8_images.quantize(call.x.data, call.x.dtype, start, plane, pixels, channels, scale,
                                         out + left * channels);
  }
  if (left + used < met)
    memset(out + (left + used) * channels, scale.zero_point, static_cast<size_t>((met - left - used) * channels));
  return rows;
}

}  // namespace edgekern::int8

// int8 convolutions: images to u8, then an implicit GEMM, or the depthwise kernel, from windows of them.
//
//   for each slab of images whose u8 form stays in cache, one parallel region:
//     range       pieces of images: what x holds, unless that is given          formats/int8/image.h
//     quantize    rows of images to u8 [H][W][C], with the zeros around them     the same
//     multiply    blocks of pixels of y x panels: the rows of activations that these pixels need are gathered into L1 or L2
//                 and multiplied as a linear layer's; or runs of pixels x 64 channels of a depthwise one
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <initializer_list>

#include "base/activation.h"
#include "base/at.h"
#include "base/dtype.h"
#include "formats/int8/conv2d_layout.h"
#include "ops/conv2d.h"
#include "ops/int8_forms.h"
#include "ops/tickets.h"

namespace edgekern::int8 {
namespace {

using conv2d::Geometry;

constexpr int64_t kRangeElements = 64 * 1024;  // a ticket of x to look through
constexpr int64_t kGatherBytes = 64 * 1024;    // of rows at a time: half of a small L2, beside the weights
constexpr int64_t kMostRows = 96;
constexpr int64_t kRunPixels = 32;     // of a row of y of a depthwise layer at a time
constexpr int64_t kTileChannels = 64;  // that the widest tile holds, and a depthwise kernel's
constexpr int64_t kSlack = 64;         // bytes that may be read, and for copies written, beyond the last

bool valid_order(ek_image_order order) { return order == EK_NCHW || order == EK_NHWC; }

int64_t aligned(int64_t bytes) { return round_up(bytes, 64); }

// Rows of activations need not be gathered: they are the pixels of a u8 image, and nothing beyond the last is read.
bool reads_in_place(const DenseKernels& kernels, const Geometry& geometry) {
  const ek_window& w = geometry.window;
  return kernels.lhs.plain && geometry.windows_are_pixels() && geometry.shape.in_channels % kDepthUnit == 0 &&
         w.top + w.bottom + w.left + w.right == 0;
}

// How a call's work is cut, and where its parts stand in the workspace.
struct Plan {
  Geometry geometry;
  bool planes;          // x and y are channel by channel
  bool in_place;        // x is u8 already, and all that windows meet
  bool folds;           // y is u8, and its range and activation go into the layer's scale and bias
  int64_t value_bytes;  // of y
  int64_t slab_images, range_pieces;
  int64_t threads;

  // Of a ticket of pixels of y. Rows of activations:
  int64_t block_rows, k_blocks, gather_stride, lhs_stride;
  // Depthwise: columns of the image that a run of pixels meets.
  int64_t span, column_bytes;
  int64_t tile_stride;      // elements, of results that are on their way to planes
  int64_t folded_channels;  // of which a ticket folds the scales and biases: a group's, or 64 of a depthwise layer

  int64_t images_bytes() const { return in_place ? 0 : aligned(slab_images * geometry.image_bytes() + kSlack); }
  int64_t ranges_bytes() const { return aligned(slab_images * range_pieces * static_cast<int64_t>(sizeof(RowRange))); }
  int64_t tile_bytes() const { return planes ? aligned(round_up(block_rows, 16) * tile_stride * value_bytes) : 0; }
  int64_t rows_bytes() const { return aligned(block_rows * gather_stride + kSlack) + aligned(block_rows * lhs_stride); }
  int64_t numbers_bytes() const { return aligned(4 * block_rows * (3 + k_blocks)); }
  int64_t folded_bytes() const { return folds ? aligned(8 * folded_channels) : 0; }
  int64_t slot_bytes() const { return tile_bytes() + rows_bytes() + numbers_bytes() + folded_bytes() + column_bytes; }
  int64_t bytes() const { return kSlack + images_bytes() + ranges_bytes() + threads * slot_bytes(); }
};

bool is_limits(ek_activation activation) { return activation == EK_NONE || activation == EK_RELU || activation == EK_RELU6; }

Plan plan_of(const edgekern::Kernels& kernels, const Conv2dLayout& layout, const Geometry& geometry, int64_t images,
             const ek_images& x, const ek_images& y, ek_activation activation, const ek_parallel* parallel) {
  Plan plan{};
  plan.geometry = geometry;
  plan.planes = x.order == EK_NCHW;
  plan.folds = y.dtype == EK_U8 && is_limits(activation);
  plan.in_place = x.dtype == EK_U8 && reads_in_place(kernels.int8, geometry);
  plan.value_bytes = bytes_of(y.dtype);
  plan.slab_images = min_of(images, max_of(1, kSlabBytes / geometry.image_bytes()));
  if (x.range.scale == 0)
    plan.range_pieces = ceil_div(geometry.shape.in_channels * geometry.height * geometry.width, kRangeElements);
  plan.threads = thread_count(parallel);
  if (layout.depthwise()) {
    plan.block_rows = min_of(kRunPixels, geometry.out_width);
    plan.span =
        (plan.block_rows - 1) * geometry.window.stride_w + (geometry.shape.kernel_w - 1) * geometry.window.dilation_w + 1;
    plan.column_bytes = layout.lanes().row_groups() * plan.span * kTileChannels * layout.depth;
    plan.tile_stride = plan.folded_channels = kTileChannels;
    return plan;
  }
  const RowLayout& rows = kernels.int8.lhs;
  const int64_t k = layout.k();
  plan.k_blocks = blocks_of(k);
  plan.gather_stride = round_up(k, 64) + 64;  // rows do not all start in the same cache set
  plan.lhs_stride = rows.plain ? 0 : round_up(k, 64) * rows.lhs_bytes + 64;
  const int64_t fit = round_up(max_of(1, min_of(kMostRows, kGatherBytes / plan.gather_stride)), rows.rows);
  // Blocks of about one size: the last of an image is then not much shorter.
  const int64_t blocks = ceil_div(geometry.out_pixels(), fit);
  plan.block_rows = round_up(ceil_div(geometry.out_pixels(), blocks), rows.rows);
  plan.tile_stride = plan.folded_channels = round_up(layout.group_out(), kPanelColumns);
  return plan;
}

// What one thread works in.
struct Slot {
  char* tile;
  uint8_t* gathered;
  LhsRows lhs;
  int32_t* zero_point;  // u8's, of every row
  uint8_t* columns;
  float *scale, *bias;  // folded
};

Slot slot_at(const Plan& plan, char* start) {
  Slot slot{};
  slot.tile = start;
  slot.gathered = reinterpret_cast<uint8_t*>(slot.tile + plan.tile_bytes());
  uint8_t* data = slot.gathered + aligned(plan.block_rows * plan.gather_stride + kSlack);
  float* scale = reinterpret_cast<float*>(slot.gathered + plan.rows_bytes());
  int32_t* numbers = reinterpret_cast<int32_t*>(scale + plan.block_rows);
  slot.zero_point = numbers + plan.block_rows;
  slot.lhs = {data, plan.lhs_stride, scale, numbers, slot.zero_point + plan.block_rows, plan.block_rows};
  slot.columns = reinterpret_cast<uint8_t*>(scale) + plan.numbers_bytes();
  slot.scale = reinterpret_cast<float*>(slot.columns + plan.column_bytes);
  slot.bias = slot.scale + plan.folded_channels;
  return slot;
}

// One call, with all that its tickets share.
struct Call {
  const edgekern::Kernels& kernels;
  const Conv2dPacked& layer;
  Plan plan;
  ek_images x, y;  // from the slab's first image on
  ek_activation activation;
  const ek_parallel* parallel;
  uint8_t* images;
  RowRange* ranges;
  char* slots;

  int64_t x_elements() const { return plan.geometry.shape.in_channels * plan.geometry.height * plan.geometry.width; }
  int64_t y_elements() const { return plan.geometry.shape.out_channels * plan.geometry.out_pixels(); }
  uint8_t* image(int64_t b) const { return images + b * plan.geometry.image_bytes(); }

  RowScale scale(int64_t b) const {
    if (x.range.scale != 0) return scale_of(x.range);
    RowRange all{0.0f, 0.0f, true};
    for (int64_t i = 0; i < plan.range_pieces; ++i) {
      const RowRange& piece = ranges[b * plan.range_pieces + i];
      all = {piece.low < all.low ? piece.low : all.low, piece.high > all.high ? piece.high : all.high,
             all.finite && piece.finite};
    }
    return scale_of(all);
  }
};

void find_range(const Call& call, int64_t ticket) {
  int64_t b = ticket / call.plan.range_pieces, start = ticket % call.plan.range_pieces * kRangeElements;
  int64_t count = min_of(kRangeElements, call.x_elements() - start);
  call.ranges[ticket] = call.kernels.int8_images.range(call.x.data, call.x.dtype, b * call.x_elements() + start, count);
}

// Rows [row, row + 1) of the u8 image, whose first `top` rows are zeros, or, where rows follow each other without zeros between
// them, as many as are asked for at once. Returns how many it was.
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
      call.kernels.int8_images.quantize(call.x.data, call.x.dtype, start, plane, pixels, channels, scale,
                                        out + left * channels);
  }
  if (left + used < met)
    memset(out + (left + used) * channels, scale.zero_point, static_cast<size_t>((met - left - used) * channels));
  return rows;
}

// Results of pixels [p0, p0 + rows) of image b, channels [c0, c0 + columns), from the tile to planes of y.
void store_planes(const Call& call, const Slot& slot, int64_t b, int64_t p0, int64_t rows, int64_t tile_column, int64_t c0,
                  int64_t columns) {
  const int64_t plane = call.plan.geometry.out_pixels();
  call.kernels.int8_images.store_planes(slot.tile + tile_column * call.plan.value_bytes, call.plan.tile_stride, rows, columns,
                                        call.y.dtype, call.y.data, b * call.y_elements() + c0 * plane + p0, plane);
}

// Where results of pixel p0 and channel c0 of image b go: to y, or to the tile.
Output output_at(const Call& call, const Slot& slot, int64_t b, int64_t p0, int64_t c0) {
  const int64_t channels = call.plan.geometry.shape.out_channels;
  if (call.plan.planes) return {slot.tile, call.plan.tile_stride, call.y.dtype, call.activation, false};
  char* y = static_cast<char*>(call.y.data) + (b * call.y_elements() + p0 * channels + c0) * call.plan.value_bytes;
  Output output{y, channels, call.y.dtype, call.activation, false};
  if (call.y.dtype != EK_U8) return output;
  const int32_t zero_point = call.y.range.zero_point;
  const float six = 6.0f / call.y.range.scale + static_cast<float>(zero_point);
  output.u8 = {1.0f / call.y.range.scale, zero_point, call.plan.folds, 0, 255};
  if (call.activation != EK_NONE) output.u8.low = zero_point;
  if (call.activation == EK_RELU6 && six < 255) output.u8.high = static_cast<int32_t>(lrintf(six));
  return output;
}

// The scales and biases of `channels`, with what turns sums into u8 (U8Output).
void fold(const Call& call, const Slot& slot, float x_scale, const float* scale, const float* bias, int64_t channels) {
  const float inverse = 1.0f / call.y.range.scale, zero_point = static_cast<float>(call.y.range.zero_point);
  for (int64_t c = 0; c < channels; ++c) {
    slot.scale[c] = x_scale * scale[c] * inverse;
    slot.bias[c] = bias[c] * inverse + zero_point;
  }
}

// Pixels [p0, p1) of y of image b by panels [n0, n1) of each group.
void multiply(const Call& call, const Slot& slot, int64_t b, int64_t p0, int64_t p1, int64_t n0, int64_t n1) {
  const Geometry& g = call.plan.geometry;
  const DenseKernels& kernels = call.kernels.int8;
  const RowScale scale = call.scale(b);
  const int64_t rows = p1 - p0, group_out = call.layer.layout.group_out();
  LhsRows lhs = slot.lhs;
  for (int64_t m = 0; m < lhs.rows; ++m) {
    lhs.scale[m] = scale.scale;
    lhs.zero_point[m] = slot.zero_point[m] = scale.zero_point;
  }
  if (kernels.lhs.plain) memset(lhs.row_sum, 0, static_cast<size_t>(4 * call.plan.k_blocks * lhs.rows));
  for (int64_t group = 0; group < g.shape.groups; ++group) {
    if (reads_in_place(kernels, g)) {
      lhs.data = call.image(b) + p0 * g.shape.in_channels;
      lhs.stride = g.shape.in_channels;
    } else {
      conv2d::gather_rows(g, call.image(b), group, p0, p1, slot.gathered, call.plan.gather_stride);
      if (kernels.lhs.plain) {
        lhs.data = slot.gathered;
        lhs.stride = call.plan.gather_stride;
      } else {
        kernels.load_u8(slot.gathered, call.plan.gather_stride, slot.zero_point, g.k(), 0, rows, lhs);
      }
    }
    Layout layout{};
    if (open_packed(call.layer.matrix(group), call.layer.matrix_bytes, &layout) != EK_OK) return;  // open_layer has looked
    PanelGemm matrix = panel_gemm(call.kernels, call.layer.matrix(group), layout);
    const int64_t c0 = group * group_out, first = n0 * kPanelColumns;
    if (call.plan.folds) {
      fold(call, slot, scale.scale, matrix.rhs.scale, matrix.rhs.bias, call.plan.folded_channels);
      matrix.rhs.scale = slot.scale;
      matrix.rhs.bias = slot.bias;
    }
    matrix.gemm({lhs, matrix.rhs, output_at(call, slot, b, p0, c0)}, 0, rows, n0, n1);
    if (call.plan.planes)
      store_planes(call, slot, b, p0, rows, first, c0 + first, min_of(group_out, n1 * kPanelColumns) - first);
  }
}

// Rows [y0, y1) of y of image b, depthwise: 64 of channels [c0, c1) after another, and each row of theirs in runs of pixels.
void multiply_lanes(const Call& call, const Slot& slot, int64_t b, int64_t y0, int64_t y1, int64_t c0, int64_t c1) {
  const Geometry& g = call.plan.geometry;
  const DepthwiseLayout lanes = call.layer.layout.lanes();
  const RowScale scale = call.scale(b);
  DepthwiseArgs args{.image = call.image(b),
                     .row_bytes = g.row_bytes(),
                     .pixel_bytes = g.shape.in_channels,
                     .channels = lanes.channels,
                     .padded_channels = lanes.padded_channels(),
                     .kernel_h = lanes.kernel_h,
                     .kernel_w = lanes.kernel_w,
                     .row_groups = lanes.row_groups(),
                     .stride_h = g.window.stride_h,
                     .stride_w = g.window.stride_w,
                     .dilation_h = g.window.dilation_h,
                     .dilation_w = g.window.dilation_w,
                     .words = at<int32_t>(call.layer.body, lanes.words_offset()),
                     .column_sum = at<int32_t>(call.layer.body, lanes.column_sum_offset()),
                     .rhs_scale = at<float>(call.layer.body, lanes.scale_offset()),
                     .bias = at<float>(call.layer.body, lanes.bias_offset()),
                     .scale = scale.scale,
                     .zero_point = scale.zero_point,
                     .columns = slot.columns,
                     .span = call.plan.span,
                     .output = {}};
  for (; c0 < c1; c0 += kTileChannels) {
    if (call.plan.folds) {
      fold(call, slot, scale.scale, at<float>(call.layer.body, lanes.scale_offset()) + c0,
           at<float>(call.layer.body, lanes.bias_offset()) + c0, call.plan.folded_channels);
      args.rhs_scale = slot.scale - c0;
      args.bias = slot.bias - c0;
    }
    for (int64_t oy = y0; oy < y1; ++oy) {
      for (int64_t ox = 0; ox < g.out_width; ox += call.plan.block_rows) {
        const int64_t p0 = oy * g.out_width + ox, pixels = min_of(call.plan.block_rows, g.out_width - ox);
        // The kernel counts channels of y from 0: the tile holds 64 from c0 on.
        args.output = output_at(call, slot, b, p0, 0);
        if (call.plan.planes) args.output.y = slot.tile - c0 * call.plan.value_bytes;
        call.kernels.int8_images.depthwise(args, oy, ox, pixels, c0);
        if (call.plan.planes) store_planes(call, slot, b, p0, pixels, 0, c0, min_of(kTileChannels, c1 - c0));
      }
    }
  }
}

// The multiplication of a slab, cut into tickets: blocks of pixels by pieces of channels. Those of a depthwise layer are rows of y
// with all of their channels where y is pixel by pixel: threads that shared a pixel would write to the same cache lines.
struct Tickets {
  int64_t count;
  int64_t blocks, block_rows;      // of an image: of pixels, or of rows of y
  int64_t pieces, piece_channels;  // of a group, or of all

  Tickets(const Call& call, int64_t images) {
    const Plan& plan = call.plan;
    const Conv2dLayout& layout = call.layer.layout;
    const int64_t wanted = plan.threads == 1 ? 1 : ceil_div(kTicketsPerThread * plan.threads, images);
    if (layout.depthwise()) {
      piece_channels = plan.planes ? kTileChannels : layout.shape.out_channels;
      pieces = ceil_div(layout.shape.out_channels, piece_channels);
      block_rows = ceil_div(plan.geometry.out_height, ceil_div(wanted, pieces));
      blocks = ceil_div(plan.geometry.out_height, block_rows);
    } else {
      block_rows = plan.block_rows;
      blocks = ceil_div(plan.geometry.out_pixels(), block_rows);
      piece_channels = round_up(ceil_div(layout.group_out(), ceil_div(wanted, blocks)), kTileChannels);
      pieces = ceil_div(layout.group_out(), piece_channels);
    }
    count = images * blocks * pieces;
  }

  void run(const Call& call, const Slot& slot, int64_t ticket) const {
    const Plan& plan = call.plan;
    const Conv2dLayout& layout = call.layer.layout;
    const int64_t c0 = ticket % pieces * piece_channels, start = ticket / pieces % blocks * block_rows;
    const int64_t b = ticket / pieces / blocks;
    if (layout.depthwise())
      return multiply_lanes(call, slot, b, start, min_of(plan.geometry.out_height, start + block_rows), c0,
                            min_of(layout.shape.out_channels, c0 + piece_channels));
    multiply(call, slot, b, start, min_of(plan.geometry.out_pixels(), start + block_rows), c0 / kPanelColumns,
             ceil_div(min_of(layout.group_out(), c0 + piece_channels), kPanelColumns));
  }
};

void run_slab(const Call& call, int64_t images) {
  const Geometry& g = call.plan.geometry;
  const int64_t macs = images * g.out_pixels() * g.k() * g.shape.out_channels;
  const int64_t rows_at_once = max_of(1, kQuantizeTicketElements / g.row_bytes());
  const int64_t row_tickets = call.plan.in_place ? 0 : ceil_div(g.met_height(), rows_at_once);
  const Tickets tickets(call, images);
  run_phases<3>(macs < kSerialMacs ? nullptr : call.parallel,
                {images * call.plan.range_pieces, images * row_tickets, tickets.count},
                [&](int phase, int64_t ticket, int64_t thread) {
                  if (phase == 0) return find_range(call, ticket);
                  if (phase == 1) {
                    const int64_t b = ticket / row_tickets, row = ticket % row_tickets * rows_at_once;
                    const int64_t end = min_of(g.met_height(), row + rows_at_once);
                    const RowScale scale = call.scale(b);
                    for (int64_t r = row; r < end;) r += quantize_rows(call, b, r, end, scale);
                    return;
                  }
                  tickets.run(call, slot_at(call.plan, call.slots + thread * call.plan.slot_bytes()), ticket);
                });
}

// The sizes of a call, all within 62 bits.
ek_status geometry_of(const ek_conv2d_shape& shape, const ek_window* window, int64_t images, int64_t height, int64_t width,
                      Geometry* out) {
  if (window == nullptr) return EK_ERROR_NULL_POINTER;
  constexpr int64_t kLimit = int64_t{1} << 24;
  for (int64_t size : {images, height, width})
    if (size < 0 || size > kLimit) return EK_ERROR_SHAPE;
  *out = {shape, *window, height, width, 0, 0};
  ek_status status = ek_conv2d_output(&shape, window, height, width, &out->out_height, &out->out_width);
  if (status != EK_OK) return status;
  for (double bytes :
       {1.0 * out->met_height() * out->met_width() * shape.in_channels, 4.0 * images * height * width * shape.in_channels,
        4.0 * images * out->out_height * out->out_width * shape.out_channels})
    if (bytes > 4e18) return EK_ERROR_SHAPE;
  return EK_OK;
}

// What x and y may be to each other.
ek_status check_images(const ek_images& x, const ek_images& y) {
  for (const ek_images& images : {x, y}) {
    if (!valid_dtype(images.dtype) && images.dtype != EK_U8) return EK_ERROR_DTYPE;
    const bool none = images.range.scale == 0;
    if (!valid_order(images.order) || !(none || valid_range(images.range))) return EK_ERROR_IMAGES;
    if (images.dtype == EK_U8 && (none || images.order != EK_NHWC)) return EK_ERROR_IMAGES;
  }
  const bool same = x.dtype == y.dtype || x.dtype == EK_U8 || y.dtype == EK_U8;
  return same && x.order == y.order ? EK_OK : EK_ERROR_IMAGES;
}

// A packed layer that this ISA can run.
ek_status open_layer(const edgekern::Kernels& kernels, const void* packed, size_t packed_size, Conv2dPacked* layer) {
  ek_status status = open_conv2d(packed, packed_size, layer);
  if (status != EK_OK) return status;
  const Conv2dLayout& conv = layer->layout;
  if (conv.depthwise()) return conv.depth == kernels.int8_images.depth ? EK_OK : EK_ERROR_ORDER;
  for (int64_t group = 0; group < conv.shape.groups; ++group) {
    Layout layout{};
    status = open_packed(layer->matrix(group), layer->matrix_bytes, &layout);
    if (status != EK_OK) return status;
    if (layout.n != conv.group_out() || layout.k != conv.k() || !in_panels(layout.form)) return EK_ERROR_PACKED;
    if (!(layout.order == kernels.int8.order)) return EK_ERROR_ORDER;
  }
  return EK_OK;
}

}  // namespace
}  // namespace edgekern::int8

using namespace edgekern;
using namespace edgekern::int8;

extern "C" ek_status ek_conv2d_output(const ek_conv2d_shape* shape, const ek_window* window, int64_t height, int64_t width,
                                      int64_t* out_height, int64_t* out_width) {
  if (shape == nullptr || window == nullptr || out_height == nullptr || out_width == nullptr) return EK_ERROR_NULL_POINTER;
  ek_status status = check_shape(*shape);
  if (status != EK_OK) return status;
  constexpr int64_t kLimit = int64_t{1} << 24;
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

extern "C" size_t ek_int8_conv2d_workspace_size(const ek_isa* isa, const void* packed, size_t packed_size,
                                                const ek_window* window, int64_t images, int64_t height, int64_t width,
                                                const ek_images* x, const ek_images* y, ek_activation activation,
                                                const ek_parallel* parallel) {
  const edgekern::Kernels* kernels = nullptr;
  Conv2dPacked layer{};
  Geometry geometry{};
  if (x == nullptr || y == nullptr || check_images(*x, *y) != EK_OK || resolve_isa(isa, &kernels) != EK_OK ||
      open_conv2d(packed, packed_size, &layer) != EK_OK ||
      geometry_of(layer.layout.shape, window, images, height, width, &geometry) != EK_OK)
    return 0;
  return static_cast<size_t>(plan_of(*kernels, layer.layout, geometry, images, *x, *y, activation, parallel).bytes());
}

extern "C" ek_status ek_int8_conv2d(const ek_isa* isa, const void* packed, size_t packed_size, const ek_window* window,
                                    int64_t images, int64_t height, int64_t width, const ek_images* x, const ek_images* y,
                                    ek_activation activation, void* workspace, size_t workspace_size,
                                    const ek_parallel* parallel) {
  if (x == nullptr || y == nullptr) return EK_ERROR_NULL_POINTER;
  if (!valid_activation(activation)) return EK_ERROR_ACTIVATION;
  const edgekern::Kernels* kernels = nullptr;
  Conv2dPacked layer{};
  Geometry geometry{};
  ek_status status = check_images(*x, *y);
  if (status == EK_OK) status = resolve_isa(isa, &kernels);
  if (status == EK_OK) status = open_layer(*kernels, packed, packed_size, &layer);
  if (status == EK_OK) status = geometry_of(layer.layout.shape, window, images, height, width, &geometry);
  if (status != EK_OK || images == 0) return status;
  const Plan plan = plan_of(*kernels, layer.layout, geometry, images, *x, *y, activation, parallel);
  const bool empty = height == 0 || width == 0;  // all that windows meet are zeros
  if ((x->data == nullptr && !empty) || y->data == nullptr || workspace == nullptr) return EK_ERROR_NULL_POINTER;
  if (static_cast<int64_t>(workspace_size) < plan.bytes()) return EK_ERROR_WORKSPACE;

  char* start = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(workspace) + 63) & ~uintptr_t{63});
  char* ranges = start + plan.images_bytes();
  Call call{*kernels,
            layer,
            plan,
            *x,
            *y,
            activation,
            parallel,
            reinterpret_cast<uint8_t*>(start),
            reinterpret_cast<RowRange*>(ranges),
            ranges + plan.ranges_bytes()};
  if (plan.in_place) call.images = static_cast<uint8_t*>(x->data);
  for (int64_t b = 0; b < images; b += plan.slab_images) {
    run_slab(call, min_of(plan.slab_images, images - b));
    const int64_t read = plan.slab_images * call.x_elements() * bytes_of(x->dtype);
    call.x.data = static_cast<char*>(call.x.data) + read;
    call.y.data = static_cast<char*>(call.y.data) + plan.slab_images * call.y_elements() * plan.value_bytes;
    if (plan.in_place) call.images += read;
  }
  return EK_OK;
}

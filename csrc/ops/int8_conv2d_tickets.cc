// The tickets of a convolution: images to u8 (int8_conv2d_images.cc), then blocks of pixels of y by panels of weights.
#include <math.h>
#include <string.h>

#include "base/at.h"
#include "formats/int8/blocks.h"
#include "ops/int4_forms.h"
#include "ops/int8_conv2d_call.h"
#include "ops/int8_forms.h"
#include "ops/kept_blocks.h"
#include "ops/tickets.h"

namespace edgekern::int8 {
namespace {

// Results of pixels [p0, p0 + rows) of image b, channels [c0, c0 + columns), from the tile to planes of y.
void store_planes(const Call& call, const Slot& slot, int64_t b, int64_t p0, int64_t rows, int64_t tile_column, int64_t c0,
                  int64_t columns) {
  const int64_t plane = call.plan.geometry.out_pixels();
  call.kernels->int8_images.store_planes(slot.tile + tile_column * call.plan.value_bytes, call.plan.tile_stride, rows, columns,
                                         call.y.dtype, call.y.data, b * call.y_elements() + c0 * plane + p0, plane);
}

// The same to y of the sum, with what is added to them.
void store_sums(const Call& call, const Slot& slot, int64_t b, int64_t p0, int64_t rows, int64_t tile_column, int64_t c0,
                int64_t columns) {
  const int64_t channels = call.plan.geometry.shape.out_channels;
  // Whole pixels follow each other on all sides.
  const bool whole = columns == channels && call.plan.tile_stride == channels;
  const Addend made{slot.tile + tile_column * call.plan.value_bytes, call.plan.tile_stride, call.y.dtype, 0.0f, 0};
  const SumArgs args = sum_args(made, call.y.dtype, call.sum, b * call.y_elements() + p0 * channels + c0, channels);
  call.kernels->int8_images.add(args, whole ? 1 : rows, whole ? rows * columns : columns);
}

// The results of such a block, from the tile to wherever they go; those of a tile go nowhere else.
void store_tile(const Call& call, const Slot& slot, int64_t b, int64_t p0, int64_t rows, int64_t tile_column, int64_t c0,
                int64_t columns) {
  if (call.plan.planes) store_planes(call, slot, b, p0, rows, tile_column, c0, columns);
  if (call.plan.adds) store_sums(call, slot, b, p0, rows, tile_column, c0, columns);
}

// Where results of pixel p0 and channel c0 of image b go: to y, or to the tile; nowhere where they become part of a sum at once.
Output output_at(const Call& call, const Slot& slot, int64_t b, int64_t p0, int64_t c0) {
  const int64_t channels = call.plan.geometry.shape.out_channels;
  if (call.plan.adds_directly) return {nullptr, 0, call.y.dtype, EK_NONE, false};
  if (call.plan.through_tile()) return {slot.tile, call.plan.tile_stride, call.y.dtype, call.activation, false};
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

// Rows of activations in u8, one after the other.
struct U8Rows {
  uint8_t* data;
  int64_t stride;
};

// Rows of activations of pixels [p0, p1) of image b to slot.gathered.
void gather(const Call& call, const Slot& slot, int64_t b, int64_t group, int64_t p0, int64_t p1) {
  const Geometry& g = call.plan.geometry;
  const int64_t channels = g.group_in(), pixel = g.shape.in_channels;
  const bool whole = g.lines_are_runs();
  call.kernels->int8_images.gather({.image = call.image(b) + group * channels,
                                    .next_line = g.window.stride_h * g.row_bytes(),
                                    .next_pixel = g.window.stride_w * pixel,
                                    .width = g.out_width,
                                    .lines = g.shape.kernel_h,
                                    .next_line_of_window = g.window.dilation_h * g.row_bytes(),
                                    .runs = whole ? 1 : g.shape.kernel_w,
                                    .next_run = g.window.dilation_w * pixel,
                                    .run = whole ? g.shape.kernel_w * channels : channels,
                                    .rows = slot.gathered,
                                    .stride = call.plan.gather_stride},
                                   p0, p1);
}

// What is not 0 of the rows of a part, all zeros around the image being that.
Span span_of(const Geometry& g, const conv2d::Frame& frame, int64_t part) {
  const ek_window& w = g.window;
  const int64_t line = g.shape.kernel_w * g.group_in();
  const auto [y, x, height, width] = frame.part(g, part);
  // Rows of y keep their whole lines, columns and what is within all of them.
  const bool row = part < frame.top + frame.bottom;
  const conv2d::Within lines = conv2d::within(y * w.stride_h - w.top, g.shape.kernel_h, w.dilation_h, g.height);
  const conv2d::Within values = row || width == 0 || frame.left + frame.right == 0
                                    ? conv2d::Within{0, g.shape.kernel_w}
                                    : conv2d::within(x * w.stride_w - w.left, g.shape.kernel_w, w.dilation_w, g.width);
  return {lines.begin * line, lines.end * line, values.begin * g.group_in(), (values.end - values.begin) * g.group_in(), 0};
}

// Where the windows of rows [p0, p1) of image b are, whose results these make, and what of them is not 0.
void find_rows(const Call& call, const Slot& slot, int64_t b, int64_t p0, int64_t p1) {
  const Plan& plan = call.plan;
  const Geometry& g = plan.geometry;
  const int64_t next_line = g.window.stride_h * g.row_bytes(), next_pixel = g.window.stride_w * g.shape.in_channels;
  int64_t i = plan.framed ? 0 : p0 / g.out_width, start = i * g.out_width;  // of a part
  for (; i < plan.frame.parts() && start < p1; ++i) {
    const conv2d::Frame::Part part = plan.frame.part(g, i);
    const int64_t end = start + part.height * part.width, last = min_of(end, p1);
    if (end > p0) {
      Span span = span_of(g, plan.frame, i);
      for (int64_t p = max_of(start, p0); p < last; ++p) {
        const int64_t y = part.y + (p - start) / part.width, x = part.x + (p - start) % part.width, m = p - p0;
        span.same = last - p;
        if (plan.spans) slot.spans[m] = span;
        if (plan.windows) slot.windows[m] = call.image(b) + y * next_line + x * next_pixel;
        if (plan.framed) slot.places[m] = static_cast<int32_t>(y * g.out_width + x);
      }
    }
    start = end;
  }
}

// Those of pixels [p0, p1) and `group`: where they lie in the image, or gathered.
U8Rows rows_of(const Call& call, const Slot& slot, int64_t b, int64_t group, int64_t p0, int64_t p1) {
  const Geometry& g = call.plan.geometry;
  if (call.plan.reads_image) return {call.image(b) + p0 * g.shape.in_channels, g.shape.in_channels};
  if (call.plan.windows) return {nullptr, 0};
  gather(call, slot, b, group, p0, p1);
  return {slot.gathered, call.plan.gather_stride};
}

// These rows by panels [n0, n1) of an int8 matrix, all of one scale.
void multiply_bytes(const Call& call, const Slot& slot, const U8Rows& from, int64_t rows, float x_scale, const void* packed,
                    const Output& output, int64_t n0, int64_t n1) {
  const DenseKernels& kernels = call.kernels->int8;
  LhsRows lhs = slot.lhs;
  const Geometry& g = call.plan.geometry;
  const Windows windows{slot.windows, g.shape.kernel_w * g.group_in(), g.window.dilation_h * g.row_bytes(),
                        call.plan.framed ? slot.places : nullptr};
  if (kernels.lhs.plain) {
    lhs.data = from.data;
    lhs.stride = from.stride;
    if (call.plan.windows) lhs.windows = &windows;
    if (call.plan.spans && slot.zero_point[0] == 0) lhs.spans = slot.spans;
  } else {
    kernels.load_u8(from.data, from.stride, slot.zero_point, call.plan.geometry.k(), 0, rows, lhs);
  }
  PanelGemm matrix = panel_gemm(*call.kernels, packed, call.layer.matrix);
  if (call.plan.folds) {
    fold(call, slot, x_scale, matrix.rhs.scale, matrix.rhs.bias, call.plan.folded_channels);
    matrix.rhs.scale = slot.scale;
    matrix.rhs.bias = slot.bias;
  }
  matrix.gemm({lhs, matrix.rhs, output}, 0, rows, n0, n1);
}

// The same of an int4 matrix. The scale of a group of k stands at no single sum, so that nothing is folded.
void multiply_nibbles(const Call& call, const Slot& slot, const U8Rows& from, int64_t rows, const void* packed,
                      const Output& output, int64_t n0, int64_t n1) {
  const int4::Kernels& kernels = call.kernels->int4;
  const int4::Layout& layout = call.layer.int4_matrix;
  kernels.load_u8(from.data, from.stride, slot.zero_point, layout.k, layout.group_size, 0, rows, slot.lhs);
  int4::gemm_of(kernels, layout.form)({slot.lhs, int4::panels_of(packed, layout), output}, 0, rows, n0, n1);
}

// Pixels [p0, p1) of y of image b by panels [n0, n1) of each group.
void multiply(const Call& call, const Slot& slot, int64_t b, int64_t p0, int64_t p1, int64_t n0, int64_t n1) {
  const RowScale scale = call.scale(b);
  const int64_t rows = p1 - p0, group_out = call.layer.packed.layout.group_out(), first = n0 * kPanelColumns;
  for (int64_t m = 0; m < slot.lhs.rows; ++m) {
    slot.lhs.scale[m] = scale.scale;
    slot.lhs.zero_point[m] = slot.zero_point[m] = scale.zero_point;
  }
  // What is multiplied as it lies owes nothing; elsewhere loading the rows fills this.
  memset(slot.lhs.row_sum, 0, static_cast<size_t>(4 * call.plan.sums * slot.lhs.rows));
  if (call.plan.spans || call.plan.windows) find_rows(call, slot, b, p0, p1);
  const int64_t first_pixel = call.plan.framed ? 0 : p0;
  for (int64_t group = 0; group < call.plan.geometry.shape.groups; ++group) {
    const U8Rows from = rows_of(call, slot, b, group, p0, p1);
    const void* packed = call.layer.packed.matrix(group);
    const int64_t c0 = group * group_out;
    Output output = output_at(call, slot, b, first_pixel, c0);
    SumArgs sum{};
    if (call.plan.adds_directly) {
      const int64_t channels = call.plan.geometry.shape.out_channels;
      sum = sum_args({}, call.y.dtype, call.sum, b * call.y_elements() + first_pixel * channels + c0, channels);
      output.sum = &sum;
    }
    if (call.layer.nibbles())
      multiply_nibbles(call, slot, from, rows, packed, output, n0, n1);
    else
      multiply_bytes(call, slot, from, rows, scale.scale, packed, output, n0, n1);
    if (call.plan.through_tile())
      store_tile(call, slot, b, p0, rows, first, c0 + first, min_of(group_out, n1 * kPanelColumns) - first);
  }
}

// Rows of activations of `group`, from pixel p0 of image b on, to the tiles that kept blocks multiply.
void fill_tiles(const Call& call, const Slot& slot, const LhsTiles& lhs, int64_t b, int64_t group, int64_t p0) {
  const Geometry& g = call.plan.geometry;
  const BlockKernels& kernels = block_kernels(*call.kernels, call.layer.matrix.form);
  const int64_t rows = lhs.tiles.rows, stride = call.plan.gather_stride, channels = g.shape.in_channels;
  if (call.plan.reads_image)
    return kernels.load_u8(call.image(b) + p0 * channels, channels, slot.zero_point, g.k(), 0, rows, lhs);
  for (int64_t m = 0; m < rows; m += call.plan.gather_rows) {
    const int64_t end = min_of(rows, m + call.plan.gather_rows);
    gather(call, slot, b, group, p0 + m, p0 + end);
    kernels.load_u8(slot.gathered - m * stride, stride, slot.zero_point, g.k(), m, end, lhs);
  }
}

// Pixels [p0, p1) of y of image b by one of `pieces` runs of panels of kept blocks, of each group.
void multiply_blocks(const Call& call, const Slot& slot, int64_t b, int64_t p0, int64_t p1, int64_t piece, int64_t pieces) {
  const Layout& layout = call.layer.matrix;
  const blocks::Layout kept = kept_blocks(layout);
  const auto spmm = block_kernels(*call.kernels, layout.form).spmm[blocks::log2_of_group_rows(kept.group_rows)];
  const RowScale scale = call.scale(b);
  LhsTiles lhs = slot.tiles;
  lhs.tiles.rows = p1 - p0;
  for (int64_t m = 0; m < call.plan.block_rows; ++m) {
    lhs.scale[m] = scale.scale;
    lhs.zero_point[m] = slot.zero_point[m] = scale.zero_point;
  }
  for (int64_t group = 0; group < call.plan.geometry.shape.groups; ++group) {
    fill_tiles(call, slot, lhs, b, group, p0);
    const void* packed = call.layer.packed.matrix(group);
    SpmmArgs args = spmm_args(layout, packed);
    const int64_t c0 = group * layout.n;
    if (call.plan.folds) {
      fold(call, slot, scale.scale, args.scale, args.bias, call.plan.folded_channels);
      args.scale = slot.scale;
      args.bias = slot.bias;
    }
    args.lhs = lhs;
    args.output = output_at(call, slot, b, p0, c0);
    const uint32_t* work = at<uint32_t>(packed, kept.begin);
    const int64_t n0 = blocks::run_start(work, kept.panels(), pieces, piece);
    const int64_t n1 = blocks::run_start(work, kept.panels(), pieces, piece + 1), first = n0 * kPanelColumns;
    if (n0 == n1) continue;
    blocks::for_each_tile(lhs.tiles, [&](blocks::RowTile tile) { spmm(args, tile.start, tile.width, n0, n1); });
    if (call.plan.through_tile())
      store_tile(call, slot, b, p0, p1 - p0, first, c0 + first, min_of(layout.n, n1 * kPanelColumns) - first);
  }
}

// Rows [y0, y1) of y of image b, depthwise: 64 of channels [c0, c1) after another, and each row of theirs in runs of pixels.
void multiply_lanes(const Call& call, const Slot& slot, int64_t b, int64_t y0, int64_t y1, int64_t c0, int64_t c1) {
  const Plan& plan = call.plan;
  const Geometry& g = plan.geometry;
  const DepthwiseLayout lanes = call.layer.packed.layout.lanes();
  const RowScale scale = call.scale(b);
  const float *rhs_scale = at<float>(call.layer.packed.body, lanes.scale_offset()),
              *bias = at<float>(call.layer.packed.body, lanes.bias_offset());
  DepthwiseArgs args{.image = call.image(b),
                     .zeros = call.zeros,
                     .height = plan.in_place ? g.height : g.met_height(),
                     .width = plan.in_place ? g.width : g.met_width(),
                     .top = plan.in_place ? g.window.top : 0,
                     .left = plan.in_place ? g.window.left : 0,
                     .row_bytes = plan.row_bytes(),
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
                     .words = at<int32_t>(call.layer.packed.body, lanes.words_offset()),
                     .column_sum = at<int32_t>(call.layer.packed.body, lanes.column_sum_offset()),
                     .rhs_scale = rhs_scale,
                     .bias = bias,
                     .scale = scale.scale,
                     .zero_point = scale.zero_point,
                     .columns = slot.columns,
                     .span = plan.span,
                     .output = {}};
  for (; c0 < c1; c0 += kTileChannels) {
    if (plan.folds) {
      fold(call, slot, scale.scale, rhs_scale + c0, bias + c0, plan.folded_channels);
      args.rhs_scale = slot.scale - c0;
      args.bias = slot.bias - c0;
    }
    for (int64_t oy = y0; oy < y1; ++oy) {
      for (int64_t ox = 0; ox < g.out_width; ox += plan.block_rows) {
        const int64_t p0 = oy * g.out_width + ox, pixels = min_of(plan.block_rows, g.out_width - ox);
        // The kernel counts channels of y from 0: the tile holds 64 from c0 on.
        args.output = output_at(call, slot, b, p0, 0);
        if (plan.through_tile()) args.output.y = slot.tile - c0 * plan.value_bytes;
        call.kernels->int8_images.depthwise(args, oy, ox, pixels, c0);
        if (plan.through_tile()) store_tile(call, slot, b, p0, pixels, 0, c0, min_of(kTileChannels, c1 - c0));
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
    const Conv2dLayout& layout = call.layer.packed.layout;
    const int64_t wanted = plan.threads == 1 ? 1 : ceil_div(kTicketsPerThread * plan.threads, images);
    if (layout.depthwise()) {
      piece_channels = plan.planes ? kTileChannels : layout.shape.out_channels;
      pieces = ceil_div(layout.shape.out_channels, piece_channels);
      block_rows = ceil_div(plan.geometry.out_height, ceil_div(wanted, pieces));
      blocks = ceil_div(plan.geometry.out_height, block_rows);
    } else {
      block_rows = plan.block_rows;
      blocks = ceil_div(plan.geometry.out_pixels(), block_rows);
      // Tiles are filled anew for each piece of kept blocks: there are no more pieces than keep all threads at work.
      const int64_t tickets = !call.layer.in_blocks() || plan.threads == 1 ? wanted : ceil_div(plan.threads, images);
      // Few tickets are shared out evenly, if channels allow that.
      const int64_t few = images * blocks <= kTicketsPerThread * kTicketsPerThread * plan.threads ? plan.threads : 1;
      int64_t wished = ceil_div(tickets, blocks);
      while (!call.layer.in_blocks() && images * blocks * wished % few != 0) ++wished;
      piece_channels = round_up(ceil_div(layout.group_out(), wished), kTileChannels);
      pieces = ceil_div(layout.group_out(), piece_channels);
    }
    count = images * blocks * pieces;
  }

  void run(const Call& call, const Slot& slot, int64_t ticket) const {
    const Plan& plan = call.plan;
    const Conv2dLayout& layout = call.layer.packed.layout;
    const int64_t piece = ticket % pieces, c0 = piece * piece_channels, b = ticket / pieces / blocks;
    const int64_t start = ticket / pieces % blocks * block_rows;
    if (layout.depthwise())
      return multiply_lanes(call, slot, b, start, min_of(plan.geometry.out_height, start + block_rows), c0,
                            min_of(layout.shape.out_channels, c0 + piece_channels));
    const int64_t end = min_of(plan.geometry.out_pixels(), start + block_rows);
    if (call.layer.in_blocks()) return multiply_blocks(call, slot, b, start, end, piece, pieces);
    multiply(call, slot, b, start, end, c0 / kPanelColumns,
             ceil_div(min_of(layout.group_out(), c0 + piece_channels), kPanelColumns));
  }
};

// Rows of the u8 image that a ticket makes, and how many tickets an image has. Where x is read in place one ticket makes the row of
// zeros that it is surrounded by, if it needs one.
struct RowTickets {
  int64_t rows, count;

  explicit RowTickets(const Call& call)
      : rows(max_of(1, kQuantizeTicketElements / call.plan.geometry.row_bytes())),
        count(call.plan.in_place ? 0 : ceil_div(call.plan.geometry.met_height(), rows)) {}

  int64_t of(const Call& call, int64_t images) const {
    return call.plan.in_place ? (call.plan.zeros_bytes > 0 ? 1 : 0) : images * count;
  }
  void run(const Call& call, int64_t ticket) const {
    if (call.plan.in_place)
      return void(memset(call.zeros, call.x.range.zero_point, static_cast<size_t>(call.plan.zeros_bytes)));
    const int64_t b = ticket / count, row = ticket % count * rows, end = min_of(call.plan.geometry.met_height(), row + rows);
    const RowScale scale = call.scale(b);
    for (int64_t r = row; r < end;) r += quantize_rows(call, b, r, end, scale);
  }
};

}  // namespace

int64_t ticket_count(const Call& call, int64_t phase, int64_t images) {
  if (phase == kRanges) return images * call.plan.range_pieces;
  return phase == kRows ? RowTickets(call).of(call, images) : Tickets(call, images).count;
}

void run_ticket(const Call& call, int64_t phase, int64_t images, int64_t ticket, int64_t thread) {
  if (phase == kRanges) return find_range(call, ticket);
  if (phase == kRows) return RowTickets(call).run(call, ticket);
  Tickets(call, images).run(call, slot_at(call.plan, call.slots + thread * call.plan.slot_bytes()), ticket);
}

}  // namespace edgekern::int8

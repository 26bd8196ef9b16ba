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
  const int64_t rows = p1 - p0, group_out = call.layer.packed.layout.group_out();
  LhsRows lhs = slot.lhs;
  for (int64_t m = 0; m < lhs.rows; ++m) {
    lhs.scale[m] = scale.scale;
    lhs.zero_point[m] = slot.zero_point[m] = scale.zero_point;
  }
  if (kernels.lhs.plain) memset(lhs.row_sum, 0, static_cast<size_t>(4 * call.plan.sums * lhs.rows));
  for (int64_t group = 0; group < g.shape.groups; ++group) {
    if (call.plan.reads_image) {
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
    PanelGemm matrix = panel_gemm(call.kernels, call.layer.packed.matrix(group), call.layer.matrix);
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

// The same by panels of int4. The scale of a group of k stands at no single sum, so that nothing is folded.
void multiply_nibbles(const Call& call, const Slot& slot, int64_t b, int64_t p0, int64_t p1, int64_t n0, int64_t n1) {
  const Geometry& g = call.plan.geometry;
  const int4::Layout& layout = call.layer.int4_matrix;
  const int4::Kernels& kernels = call.kernels.int4;
  const RowScale scale = call.scale(b);
  const int64_t rows = p1 - p0, stride = call.plan.gather_stride, first = n0 * kPanelColumns;
  const LhsRows& lhs = slot.lhs;
  for (int64_t m = 0; m < lhs.rows; ++m) {
    lhs.scale[m] = scale.scale;
    slot.zero_point[m] = scale.zero_point;
  }
  for (int64_t group = 0; group < g.shape.groups; ++group) {
    conv2d::gather_rows(g, call.image(b), group, p0, p1, slot.gathered, stride);
    kernels.load_u8(slot.gathered, stride, slot.zero_point, g.k(), layout.group_size, 0, rows, lhs);
    const int4::RhsPanels rhs = int4::panels_of(call.layer.packed.matrix(group), layout);
    const int64_t c0 = group * layout.n;
    int4::gemm_of(kernels, layout.form)({lhs, rhs, output_at(call, slot, b, p0, c0)}, 0, rows, n0, n1);
    if (call.plan.planes)
      store_planes(call, slot, b, p0, rows, first, c0 + first, min_of(layout.n, n1 * kPanelColumns) - first);
  }
}

// Rows of activations of `group`, from pixel p0 of image b on, to the tiles that kept blocks multiply.
void fill_tiles(const Call& call, const Slot& slot, const LhsTiles& lhs, int64_t b, int64_t group, int64_t p0) {
  const Geometry& g = call.plan.geometry;
  const BlockKernels& kernels = block_kernels(call.kernels, call.layer.matrix.form);
  const int64_t rows = lhs.tiles.rows, stride = call.plan.gather_stride, channels = g.shape.in_channels;
  if (call.plan.reads_image)
    return kernels.load_u8(call.image(b) + p0 * channels, channels, slot.zero_point, g.k(), 0, rows, lhs);
  for (int64_t m = 0; m < rows; m += call.plan.gather_rows) {
    const int64_t end = min_of(rows, m + call.plan.gather_rows);
    conv2d::gather_rows(g, call.image(b), group, p0 + m, p0 + end, slot.gathered, stride);
    kernels.load_u8(slot.gathered - m * stride, stride, slot.zero_point, g.k(), m, end, lhs);
  }
}

// Pixels [p0, p1) of y of image b by one of `pieces` runs of panels of kept blocks, of each group.
void multiply_blocks(const Call& call, const Slot& slot, int64_t b, int64_t p0, int64_t p1, int64_t piece, int64_t pieces) {
  const Layout& layout = call.layer.matrix;
  const blocks::Layout kept = kept_blocks(layout);
  const auto spmm = block_kernels(call.kernels, layout.form).spmm[blocks::log2_of_group_rows(kept.group_rows)];
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
    if (call.plan.planes)
      store_planes(call, slot, b, p0, p1 - p0, first, c0 + first, min_of(layout.n, n1 * kPanelColumns) - first);
  }
}

// A run of pixels of row oy of y of image b, channels [c0, c0 + 64).
void multiply_lanes(const Call& call, const Slot& slot, int64_t b, int64_t oy, int64_t ox, int64_t pixels, int64_t c0) {
  const Geometry& g = call.plan.geometry;
  const DepthwiseLayout lanes = call.layer.packed.layout.lanes();
  const RowScale scale = call.scale(b);
  const int64_t p0 = oy * g.out_width + ox;
  // The kernel counts channels of y from 0: the tile holds 64 from c0 on.
  Output output = output_at(call, slot, b, p0, 0);
  if (call.plan.planes) output.y = slot.tile - c0 * call.plan.value_bytes;
  const float *rhs_scale = at<float>(call.layer.packed.body, lanes.scale_offset()),
              *bias = at<float>(call.layer.packed.body, lanes.bias_offset());
  if (call.plan.folds) {
    fold(call, slot, scale.scale, rhs_scale + c0, bias + c0, call.plan.folded_channels);
    rhs_scale = slot.scale - c0;
    bias = slot.bias - c0;
  }
  call.kernels.int8_images.depthwise({.image = call.image(b),
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
                                      .words = at<int32_t>(call.layer.packed.body, lanes.words_offset()),
                                      .column_sum = at<int32_t>(call.layer.packed.body, lanes.column_sum_offset()),
                                      .rhs_scale = rhs_scale,
                                      .bias = bias,
                                      .scale = scale.scale,
                                      .zero_point = scale.zero_point,
                                      .columns = slot.columns,
                                      .span = call.plan.span,
                                      .output = output},
                                     oy, ox, pixels, c0);
  if (call.plan.planes) store_planes(call, slot, b, p0, pixels, 0, c0, min_of(64, lanes.channels - c0));
}

// The multiplication of a slab, cut into tickets.
struct Tickets {
  int64_t count;
  int64_t blocks, pieces, piece_panels;  // of an image: blocks of pixels, and pieces of N
  int64_t runs;                          // depthwise, of a row of y

  Tickets(const Call& call, int64_t images) {
    const Plan& plan = call.plan;
    const Conv2dLayout& layout = call.layer.packed.layout;
    if (layout.depthwise()) {
      runs = ceil_div(plan.geometry.out_width, plan.block_rows);
      pieces = ceil_div(layout.shape.out_channels, 64);
      blocks = plan.geometry.out_height * runs;
    } else {
      const int64_t panels = ceil_div(layout.group_out(), kPanelColumns);
      blocks = ceil_div(plan.geometry.out_pixels(), plan.block_rows);
      // Tiles are filled anew for each piece of kept blocks: there are no more pieces than keep all threads at work.
      const int64_t tickets = plan.threads * (call.layer.blocks() ? 1 : kTicketsPerThread);
      const int64_t wanted = plan.threads == 1 ? 1 : ceil_div(tickets, images * blocks);
      piece_panels = round_up(ceil_div(panels, wanted), 4);
      pieces = ceil_div(panels, piece_panels);
    }
    count = images * blocks * pieces;
  }

  void run(const Call& call, const Slot& slot, int64_t ticket) const {
    const Plan& plan = call.plan;
    const int64_t piece = ticket % pieces, block = ticket / pieces % blocks, b = ticket / pieces / blocks;
    if (call.layer.packed.layout.depthwise()) {
      const int64_t ox = block % runs * plan.block_rows;
      return multiply_lanes(call, slot, b, block / runs, ox, min_of(plan.block_rows, plan.geometry.out_width - ox), piece * 64);
    }
    const int64_t panels = ceil_div(call.layer.packed.layout.group_out(), kPanelColumns);
    const int64_t p0 = block * plan.block_rows, p1 = min_of(plan.geometry.out_pixels(), p0 + plan.block_rows);
    const int64_t n0 = piece * piece_panels;
    if (call.layer.blocks()) return multiply_blocks(call, slot, b, p0, p1, piece, pieces);
    const int64_t n1 = min_of(panels, n0 + piece_panels);
    call.layer.nibbles ? multiply_nibbles(call, slot, b, p0, p1, n0, n1) : multiply(call, slot, b, p0, p1, n0, n1);
  }
};

}  // namespace

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

}  // namespace edgekern::int8

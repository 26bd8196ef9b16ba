// How a call of a convolution is cut.
#include "base/activation.h"
#include "base/dtype.h"
#include "formats/int8/blocks.h"
#include "ops/int8_conv2d_call.h"
#include "ops/int8_forms.h"
#include "ops/tickets.h"

namespace edgekern::int8 {
namespace {

constexpr int64_t kGatherBytes = 64 * 1024;  // of rows at a time: half of a small L2, beside the weights
constexpr int64_t kMostRows = 96;
constexpr int64_t kRunPixels = 32;  // of a row of y of a depthwise layer at a time

bool is_limits(ek_activation activation) { return activation == EK_NONE || activation == EK_RELU || activation == EK_RELU6; }

bool rows_are_pixels(const Geometry& geometry) {
  const ek_window& w = geometry.window;
  return geometry.windows_are_pixels() && w.top + w.bottom + w.left + w.right == 0;
}

// Lines of a window are whole steps of k, and all of k is one block.
bool lines_are_steps(const Geometry& geometry) {
  return geometry.shape.kernel_w * geometry.group_in() % kDepthUnit == 0 && blocks_of(geometry.k()) == 1;
}

bool leaves_image(const Geometry& g) {
  const ek_window& w = g.window;
  return w.top > 0 || w.left > 0 || g.met_height() > w.top + g.height || g.met_width() > w.left + g.width;
}

// What reaches over which edge, and is put in order by that if y takes any order.
void plan_frame(Plan* plan) {
  const Geometry& g = plan->geometry;
  const ek_window& w = g.window;
  const conv2d::Edges rows = conv2d::edges_of(g.out_height, w.stride_h, w.top, (g.shape.kernel_h - 1) * w.dilation_h, g.height);
  const conv2d::Edges columns = conv2d::edges_of(g.out_width, w.stride_w, w.left, g.shape.kernel_w - 1, g.width);
  plan->frame = {g.out_height, 0, 0, 0};
  const bool any_order = plan->folds || plan->adds_directly;
  plan->framed = plan->windows && plan->spans && any_order && g.out_pixels() <= INT32_MAX;
  if (!plan->framed) return;
  plan->frame = {rows.before, rows.behind, 0, 0};
  if (g.group_in() % kDepthUnit == 0) plan->frame.left = columns.before, plan->frame.right = columns.behind;
}

// A ticket of runs of 64 channels of a depthwise layer.
void plan_lanes(const Conv2dLayout& layout, Plan* plan) {
  const Geometry& g = plan->geometry;
  plan->block_rows = min_of(kRunPixels, g.out_width);
  plan->span = (plan->block_rows - 1) * g.window.stride_w + (g.shape.kernel_w - 1) * g.window.dilation_w + 1;
  plan->column_bytes = layout.lanes().row_groups() * plan->span * kTileChannels * layout.depth;
  plan->tile_stride = plan->folded_channels = kTileChannels;
}

void plan_panels(const RowLayout& rows, int64_t k, int64_t sums, Plan* plan) {
  // Where rows are multiplied as they lie, none may be read beyond its end.
  plan->reads_image = rows_are_pixels(plan->geometry) && (!rows.plain || k % kDepthUnit == 0);
  plan->windows = plan->windows && !plan->reads_image;
  plan->sums = sums;
  plan->lhs_stride = rows.plain ? 0 : round_up(k, 64) * rows.lhs_bytes + 64;
  const int64_t pixels = plan->geometry.out_pixels();
  const int64_t gathered = plan->windows ? kMostRows : max_of(1, min_of(kMostRows, kGatherBytes / plan->gather_stride));
  const int64_t fit = round_up(gathered, rows.rows);
  // Blocks of about one size: the last of an image is then not much shorter.
  plan->block_rows = round_up(ceil_div(pixels, ceil_div(pixels, fit)), rows.rows);
  plan->gather_rows = plan->windows ? 0 : plan->block_rows;
  plan->lhs_bytes = plan->block_rows * plan->lhs_stride;
}

// A ticket is a tile of the widest, or all of an image that has less: what multiplies the last pixels is narrower.
void plan_blocks(const BlockKernels& kernels, int64_t group_rows, int64_t k, Plan* plan) {
  plan->reads_image = rows_are_pixels(plan->geometry);
  plan->tiles.depth = round_up(k, 64) / kernels.order.line_depth;
  plan->tiles.tile_rows = kernels.tile_rows[blocks::log2_of_group_rows(group_rows)];
  plan->tiles.narrowest = kernels.narrowest;
  plan->block_rows = min_of(plan->tiles.tile_rows, round_up(plan->geometry.out_pixels(), kernels.narrowest));
  plan->gather_rows = min_of(plan->block_rows, kernels.read_rows);
  plan->lhs_bytes = plan->block_rows * plan->tiles.depth * 4;
}

}  // namespace

Plan plan_of(const edgekern::Kernels& kernels, const OpenConv2d& layer, const Geometry& geometry, int64_t images,
             const ek_images& x, const ek_images& y, ek_activation activation, bool adds, const ek_parallel* parallel) {
  Plan plan{};
  plan.geometry = geometry;
  plan.planes = x.order == EK_NCHW;
  plan.adds = adds;
  plan.folds = y.dtype == EK_U8 && is_limits(activation) && !layer.nibbles();
  plan.value_bytes = bytes_of(y.dtype);
  plan.slab_images = min_of(images, max_of(1, kSlabBytes / geometry.image_bytes()));
  if (x.range.scale == 0)
    plan.range_pieces = ceil_div(geometry.shape.in_channels * geometry.height * geometry.width, kRangeElements);
  plan.threads = thread_count(parallel);
  const Conv2dLayout& layout = layer.packed.layout;
  if (layout.depthwise()) {
    plan_lanes(layout, &plan);
    // Lanes are read by sixteens.
    plan.in_place = x.dtype == EK_U8 && geometry.shape.in_channels % 16 == 0;
    if (plan.in_place) plan.zeros_bytes = aligned(plan.row_bytes());
    return plan;
  }
  const int64_t k = layout.k();
  plan.gather_stride = round_up(k, 64) + 64;  // rows do not all start in the same cache set
  plan.folded_channels = round_up(layout.group_out(), kPanelColumns);
  // Pixels to be added to are as in y, so that one follows the other without a gap.
  plan.tile_stride = plan.adds ? layout.shape.out_channels : plan.folded_channels;
  if (layer.nibbles()) {
    plan.zero_byte = 128;  // int4 takes s8, in which that is 0: sums over a group are then 0, and y is the bias, exactly
    plan_panels(kernels.int4.lhs, k, layer.int4_matrix.groups(), &plan);
  } else if (in_panels(layer.matrix.form)) {
    const bool dense = layer.matrix.form == EK_INT8_DENSE;
    // By whole vectors: pixels with few channels are better added many at a time.
    const bool whole = layout.group_out() % kTileChannels == 0;
    plan.adds_directly = adds && dense && whole && blocks_of(k) == 1 && activation == EK_NONE && y.dtype == EK_F32;
    const bool lines = kernels.int8.lhs.plain && dense && lines_are_steps(geometry);
    plan.windows = lines && geometry.lines_are_runs();
    plan.spans = lines && leaves_image(geometry);
    plan_frame(&plan);
    plan_panels(kernels.int8.lhs, k, blocks_of(k), &plan);
  } else {
    const ek_int8_form form = layer.matrix.form;
    plan_blocks(block_kernels(kernels, form), group_rows_of(form), k, &plan);
  }
  plan.in_place = x.dtype == EK_U8 && plan.reads_image;
  return plan;
}

Slot slot_at(const Plan& plan, char* start) {
  Slot slot{};
  slot.tile = start;
  slot.gathered = reinterpret_cast<uint8_t*>(slot.tile + plan.tile_bytes());
  uint8_t* data = slot.gathered + plan.gathered_bytes();
  float* scale = reinterpret_cast<float*>(slot.gathered + plan.rows_bytes());
  int32_t* numbers = reinterpret_cast<int32_t*>(scale + plan.block_rows);
  slot.zero_point = numbers + plan.block_rows;
  slot.lhs = {data, plan.lhs_stride, scale, numbers, slot.zero_point + plan.block_rows, plan.block_rows};
  slot.tiles = {plan.tiles, reinterpret_cast<int32_t*>(data), scale, numbers};
  slot.columns = reinterpret_cast<uint8_t*>(scale) + plan.numbers_bytes();
  slot.scale = reinterpret_cast<float*>(slot.columns + plan.column_bytes);
  slot.bias = slot.scale + plan.folded_channels;
  char* rest = reinterpret_cast<char*>(slot.scale) + plan.folded_bytes();
  slot.spans = reinterpret_cast<Span*>(rest);
  slot.windows = reinterpret_cast<const uint8_t**>(rest + plan.spans_bytes());
  slot.places = reinterpret_cast<int32_t*>(rest + plan.spans_bytes() + plan.windows_bytes());
  return slot;
}

}  // namespace edgekern::int8

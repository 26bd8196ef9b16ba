// How a call of an int8 convolution is cut.
#include "base/activation.h"
#include "base/dtype.h"
#include "ops/int8_conv2d_call.h"
#include "ops/tickets.h"

namespace edgekern::int8 {
namespace {

constexpr int64_t kGatherBytes = 64 * 1024;  // of rows at a time: half of a small L2, beside the weights
constexpr int64_t kMostRows = 96;
constexpr int64_t kRunPixels = 32;  // of a row of y of a depthwise layer at a time

bool is_limits(ek_activation activation) { return activation == EK_NONE || activation == EK_RELU || activation == EK_RELU6; }

}  // namespace

bool reads_in_place(const DenseKernels& kernels, const Geometry& geometry) {
  const ek_window& w = geometry.window;
  return kernels.lhs.plain && geometry.windows_are_pixels() && geometry.shape.in_channels % kDepthUnit == 0 &&
         w.top + w.bottom + w.left + w.right == 0;
}

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
    // Lanes are read by sixteens.
    plan.in_place = x.dtype == EK_U8 && geometry.shape.in_channels % 16 == 0;
    if (plan.in_place) plan.zeros_bytes = aligned(plan.row_bytes());
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

}  // namespace edgekern::int8

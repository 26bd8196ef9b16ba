// Convolutions of pruned weights that stay floats: an implicit GEMM by kept blocks.
//
//   for each slab of images, one parallel region:
//     copy        lines of images with the zeros around them, where there are any, or windows are more than pixels
//     multiply    a tile of pixels of y x panels: what their windows meet becomes a tile, in L1 or L2, and is multiplied as a
//                 linear layer's                                                  ops/float_conv2d_images.cc, formats/f32/spmm.h
#include "ops/float_conv2d.h"

#include "base/activation.h"
#include "base/at.h"
#include "ops/kept_blocks.h"
#include "ops/tickets.h"

namespace edgekern::f32 {
namespace {

// What a caller gives.
struct Given {
  const ek_isa* isa;
  const void* packed;
  size_t packed_size;
  const ek_window* window;
  int64_t images, height, width;
  const ek_images *x, *y;
  ek_activation activation;
  const ek_parallel* parallel;
};

ek_status check_images(const ek_images& x, const ek_images& y) {
  for (const ek_images& images : {x, y}) {
    if (!valid_dtype(images.dtype)) return EK_ERROR_DTYPE;
    if (!conv2d::valid_order(images.order) || images.range.scale != 0) return EK_ERROR_IMAGES;
  }
  return x.dtype == y.dtype && x.order == y.order ? EK_OK : EK_ERROR_IMAGES;
}

// The layer, and how many multiply-adds a pixel of y takes.
ek_status open_layer(const Given& given, Call* call, int64_t* macs) {
  ek_status status = open_conv2d(given.packed, given.packed_size, &call->packed);
  *macs = 0;
  for (int64_t group = call->packed.layout.shape.groups; status == EK_OK && group-- > 0;) {
    status = call->packed.open_matrix(group, &call->matrix);
    if (status != EK_OK) break;
    const int64_t kept = *at<uint32_t>(call->packed.matrix(group), call->matrix.last_start_offset());
    *macs += kept * call->matrix.group_rows + call->matrix.n;
  }
  return status;
}

void plan_call(Call* call) {
  Plan& plan = call->plan;
  const conv2d::Geometry& g = plan.geometry;
  const floats::Kernels<float>& kernels = call->kernels->f32;
  plan.met = plan.planes ? EK_F32 : plan.dtype;
  plan.slab_images = plan.in_place ? call->images : min_of(call->images, max_of(1, kSlabBytes / plan.image_bytes()));
  plan.threads = thread_count(call->parallel);
  plan.tiles.depth = round_up(g.k(), kernels.narrowest);
  plan.tiles.narrowest = kernels.narrowest;
  plan.tiles.tile_rows = kernels.tile_rows[blocks::log2_of_group_rows(call->matrix.group_rows)];
  plan.tiles.rows = min_of(plan.tiles.tile_rows, g.out_pixels());
  plan.gather_rows = kernels.read_rows;
  plan.gather_stride = round_up(g.k() * bytes_of(plan.met), 64) + 64;  // rows do not all start in the same cache set
  plan.tile_stride = call->matrix.padded_n();
}

ek_status open_call(const Given& given, Call* call) {
  if (given.x == nullptr || given.y == nullptr) return EK_ERROR_NULL_POINTER;
  if (!valid_activation(given.activation)) return EK_ERROR_ACTIVATION;
  int64_t macs = 0;
  conv2d::Geometry g{};
  ek_status status = check_images(*given.x, *given.y);
  if (status == EK_OK) status = resolve_isa(given.isa, &call->kernels);
  if (status == EK_OK) status = open_layer(given, call, &macs);
  if (status == EK_OK)
    status = conv2d::geometry_of(call->packed.layout.shape, given.window, given.images, given.height, given.width, &g);
  if (status != EK_OK) return status;
  const ek_window& w = g.window;
  const bool planes = given.x->order == EK_NCHW, bare = w.top + w.bottom + w.left + w.right == 0;
  const bool pixels = bare && g.shape.kernel_h == 1 && g.shape.kernel_w == 1, side_by_side = w.stride_h == 1 && w.stride_w == 1;
  call->plan.planes = planes;
  call->plan.dtype = given.x->dtype;
  call->plan.in_place = pixels && (planes ? given.x->dtype == EK_F32 : side_by_side);
  call->images = given.images;
  if (call->plan.in_place && !planes) {  // all images are one, and no tile ends with the first
    g.height = g.out_height = given.images * given.height;
    call->images = min_of(1, given.images);
  }
  call->plan.geometry = g;
  call->x = *given.x;
  call->y = *given.y;
  call->activation = given.activation;
  call->parallel = given.images * g.out_pixels() * macs < kSerialMacs ? nullptr : given.parallel;
  plan_call(call);
  return EK_OK;
}

// The multiplication of a slab, cut into tickets: tiles of pixels by runs of panels. Tiles are filled anew for each run: there are
// no more than keep all threads at work.
struct Tickets {
  int64_t blocks, pieces, count;

  Tickets(const Plan& plan, const blocks::Layout& matrix, int64_t images)
      : blocks(ceil_div(plan.geometry.out_pixels(), plan.tiles.tile_rows)),
        pieces(min_of(matrix.panels(), ceil_div(plan.threads, images * blocks))),
        count(images * blocks * pieces) {}
};

// Pixels [p0, p0 + rows) of image b by one of `pieces` runs of panels, of each group.
void multiply(const Call& call, const Slot& slot, int64_t b, int64_t p0, int64_t rows, int64_t piece, int64_t pieces) {
  const Plan& plan = call.plan;
  const conv2d::Geometry& g = plan.geometry;
  const auto spmm = call.kernels->f32.spmm[blocks::log2_of_group_rows(call.matrix.group_rows)];
  const int64_t bytes = bytes_of(plan.dtype), plane = g.out_pixels();
  blocks::Tiles tiles = plan.tiles;
  tiles.rows = rows;
  for (int64_t group = 0; group < g.shape.groups; ++group) {
    const void* packed = call.packed.matrix(group);
    const uint32_t* work = at<uint32_t>(packed, call.matrix.begin);
    const int64_t n0 = blocks::run_start(work, call.matrix.panels(), pieces, piece);
    const int64_t n1 = blocks::run_start(work, call.matrix.panels(), pieces, piece + 1);
    if (n0 == n1) continue;
    fill_tiles(call, slot, tiles, b, group, p0);
    const int64_t c0 = group * call.matrix.n, first = n0 * blocks::kPanelChannels;
    char* y = static_cast<char*>(call.y.data) + (b * call.y_elements() + p0 * g.shape.out_channels + c0) * bytes;
    Output output{y, g.shape.out_channels, plan.dtype, call.activation, false};
    if (plan.planes) output = {slot.results, plan.tile_stride, plan.dtype, call.activation, false};
    const floats::SpmmArgs<float> args{{tiles, slot.lhs, nullptr},
                                       blocks::rhs_of<float>(call.matrix, packed),
                                       at<float>(packed, floats::kBiasOffset),
                                       nullptr,
                                       output};
    blocks::for_each_tile(tiles, [&](blocks::RowTile tile) { spmm(args, tile.start, tile.width, n0, n1); });
    if (plan.planes)
      call.kernels->int8_images.store_planes(slot.results + first * bytes, plan.tile_stride, rows,
                                             min_of(call.matrix.n, n1 * blocks::kPanelChannels) - first, plan.dtype,
                                             call.y.data, b * call.y_elements() + (c0 + first) * plane + p0, plane);
  }
}

// The first `images` of a call, in one parallel region.
void run_slab(const Call& call, int64_t images) {
  const Plan& plan = call.plan;
  const Tickets tickets(plan, call.matrix, images);
  const int64_t lines = max_of(1, kQuantizeTicketElements / (plan.met_width() * plan.pixel()));
  const int64_t copies = plan.in_place ? 0 : ceil_div(plan.lines(), lines);
  auto copy = [&](int64_t ticket) {
    const int64_t line = ticket % copies * lines;
    copy_lines(call, ticket / copies, line, min_of(plan.lines(), line + lines));
  };
  auto work = [&](int64_t ticket, int64_t thread) {
    char* start = call.slots + thread * plan.slot_bytes();
    const Slot slot{reinterpret_cast<float*>(start), start + plan.lhs_bytes(),
                    start + plan.lhs_bytes() + plan.gathered_bytes()};
    const int64_t p0 = ticket / tickets.pieces % tickets.blocks * plan.tiles.tile_rows;
    multiply(call, slot, ticket / tickets.pieces / tickets.blocks, p0,
             min_of(plan.tiles.tile_rows, plan.geometry.out_pixels() - p0), ticket % tickets.pieces, tickets.pieces);
  };
  run_phases<2>(call.parallel, {images * copies, tickets.count},
                [&](int64_t phase, int64_t ticket, int64_t thread) { phase == 0 ? copy(ticket) : work(ticket, thread); });
}

ek_status run(const Given& given, void* workspace, size_t workspace_size) {
  Call call{};
  const ek_status status = open_call(given, &call);
  if (status != EK_OK || given.images == 0) return status;
  const bool empty = given.height == 0 || given.width == 0;  // all that windows meet are zeros
  if ((call.x.data == nullptr && !empty) || call.y.data == nullptr || workspace == nullptr) return EK_ERROR_NULL_POINTER;
  const Plan& plan = call.plan;
  if (static_cast<int64_t>(workspace_size) < plan.bytes()) return EK_ERROR_WORKSPACE;
  char* start = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(workspace) + 63) & ~uintptr_t{63});
  call.slots = start + plan.images_bytes();
  for (int64_t b = 0; b < call.images; b += plan.slab_images) {
    const int64_t images = min_of(plan.slab_images, call.images - b), bytes = bytes_of(plan.dtype);
    call.met = plan.in_place ? static_cast<char*>(call.x.data) : start;
    run_slab(call, images);
    call.x.data = static_cast<char*>(call.x.data) + images * call.x_elements() * bytes;
    call.y.data = static_cast<char*>(call.y.data) + images * call.y_elements() * bytes;
  }
  return EK_OK;
}

}  // namespace
}  // namespace edgekern::f32

using namespace edgekern;

extern "C" size_t ek_f32_conv2d_workspace_size(const ek_isa* isa, const void* packed, size_t packed_size,
                                               const ek_window* window, int64_t images, int64_t height, int64_t width,
                                               const ek_images* x, const ek_images* y, ek_activation activation,
                                               const ek_parallel* parallel) {
  f32::Call call{};
  const ek_status status =
      f32::open_call({isa, packed, packed_size, window, images, height, width, x, y, activation, parallel}, &call);
  return status == EK_OK ? static_cast<size_t>(call.plan.bytes()) : 0;
}

extern "C" ek_status ek_f32_conv2d(const ek_isa* isa, const void* packed, size_t packed_size, const ek_window* window,
                                   int64_t images, int64_t height, int64_t width, const ek_images* x, const ek_images* y,
                                   ek_activation activation, void* workspace, size_t workspace_size,
                                   const ek_parallel* parallel) {
  return f32::run({isa, packed, packed_size, window, images, height, width, x, y, activation, parallel}, workspace,
                  workspace_size);
}

// int8 and int4 convolutions: images to u8, then an implicit GEMM, or the depthwise kernel, from windows of them.
//
//   for each slab of images whose u8 form stays in cache, one parallel region:
//     range       pieces of images: what x holds, unless that is given          formats/int8/image.h
//     quantize    rows of images to u8 [H][W][C], with the zeros around them     the same
//     multiply    blocks of pixels of y x panels: the rows of activations that these pixels need are gathered into L1 or L2
//                 and multiplied as a linear layer's, dense or by kept blocks; or rows of y of a depthwise one
#include <stdint.h>

#include <initializer_list>

#include "base/activation.h"
#include "base/dtype.h"
#include "ops/int8_conv2d_call.h"
#include "ops/int8_forms.h"
#include "ops/tickets.h"

namespace edgekern::int8 {
namespace {

// What x and y may be to each other.
ek_status check_images(const ek_images& x, const ek_images& y) {
  for (const ek_images& images : {x, y}) {
    if (!valid_dtype(images.dtype) && images.dtype != EK_U8) return EK_ERROR_DTYPE;
    const bool none = images.range.scale == 0;
    if (!conv2d::valid_order(images.order) || !(none || valid_range(images.range))) return EK_ERROR_IMAGES;
    if (images.dtype == EK_U8 && (none || images.order != EK_NHWC)) return EK_ERROR_IMAGES;
  }
  const bool same = x.dtype == y.dtype || x.dtype == EK_U8 || y.dtype == EK_U8;
  return same && x.order == y.order ? EK_OK : EK_ERROR_IMAGES;
}

// The matrix of a group; those of all are alike.
ek_status open_matrix(const edgekern::Kernels& kernels, int64_t group, OpenConv2d* layer) {
  const Conv2dPacked& packed = layer->packed;
  const int64_t n = packed.layout.group_out(), k = packed.layout.k();
  if (packed.nibbles) {
    int4::Layout layout{};
    const ek_status status = int4::open_packed(packed.matrix(group), packed.matrix_bytes, &layout);
    if (status != EK_OK) return status;
    const int4::Layout& first = group == 0 ? layout : layer->int4_matrix;
    const bool alike = layout.form == first.form && layout.group_size == first.group_size && layout.has_zero == first.has_zero;
    if (layout.n != n || layout.k != k || !alike) return EK_ERROR_PACKED;
    layer->int4_matrix = layout;
    return layout.line_depth == kernels.int4.line_depth ? EK_OK : EK_ERROR_ORDER;
  }
  Layout layout{};
  const ek_status status = open_packed(packed.matrix(group), packed.matrix_bytes, &layout);
  if (status != EK_OK) return status;
  if (layout.n != n || layout.k != k || (group > 0 && layout.form != layer->matrix.form)) return EK_ERROR_PACKED;
  layer->matrix = layout;
  return layout.order == order_of(kernels, layout.form) ? EK_OK : EK_ERROR_ORDER;
}

// A packed layer that this ISA can run.
ek_status open_layer(const edgekern::Kernels& kernels, const Given& given, OpenConv2d* layer) {
  ek_status status = open_conv2d(given.packed, given.packed_size, &layer->packed);
  if (status != EK_OK) return status;
  if (given.weights != Weights::kEither && (given.weights == Weights::kInt4) != layer->nibbles()) return EK_ERROR_PACKED;
  const Conv2dLayout& conv = layer->packed.layout;
  if (conv.depthwise()) return conv.depth == kernels.int8_images.depth ? EK_OK : EK_ERROR_ORDER;
  for (int64_t group = 0; group < conv.shape.groups && status == EK_OK; ++group) status = open_matrix(kernels, group, layer);
  return status;
}

}  // namespace

ek_status open_call(const Given& given, Call* call) {
  if (given.x == nullptr || given.y == nullptr) return EK_ERROR_NULL_POINTER;
  if (!valid_activation(given.activation)) return EK_ERROR_ACTIVATION;
  Geometry geometry{};
  ek_status status = check_images(*given.x, *given.y);
  if (status == EK_OK) status = resolve_isa(given.isa, &call->kernels);
  if (status == EK_OK) status = open_layer(*call->kernels, given, &call->layer);
  if (status == EK_OK)
    status =
        conv2d::geometry_of(call->layer.packed.layout.shape, given.window, given.images, given.height, given.width, &geometry);
  if (status != EK_OK) return status;
  call->x = *given.x;
  call->y = *given.y;
  call->activation = given.activation;
  call->parallel = given.parallel;
  call->plan.geometry = geometry;
  call->plan.adds = given.sum != nullptr;
  if (call->plan.adds) call->sum = *given.sum;
  plan_call(call, given.images);
  return EK_OK;
}

void plan_call(Call* call, int64_t images) {
  call->plan = plan_of(*call->kernels, call->layer, call->plan.geometry, images, call->x, call->y, call->activation,
                       call->plan.adds, call->parallel);
}

void place_call(Call* call, void* workspace) {
  const Plan& plan = call->plan;
  char* start = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(workspace) + 63) & ~uintptr_t{63});
  call->images = plan.in_place ? static_cast<uint8_t*>(call->x.data) : reinterpret_cast<uint8_t*>(start);
  call->zeros = reinterpret_cast<uint8_t*>(start + plan.images_bytes());
  call->ranges = reinterpret_cast<RowRange*>(call->zeros + plan.zeros_bytes);
  call->slots = reinterpret_cast<char*>(call->ranges) + plan.ranges_bytes();
}

size_t conv2d_workspace_size(const Given& given) {
  Call call{};
  return open_call(given, &call) == EK_OK ? static_cast<size_t>(call.plan.bytes()) : 0;
}

ek_status run_conv2d(const Given& given, void* workspace, size_t workspace_size) {
  Call call{};
  const ek_status status = open_call(given, &call);
  if (status != EK_OK || given.images == 0) return status;
  const bool empty = given.height == 0 || given.width == 0;  // all that windows meet are zeros
  if ((call.x.data == nullptr && !empty) || call.y.data == nullptr || workspace == nullptr) return EK_ERROR_NULL_POINTER;
  if (static_cast<int64_t>(workspace_size) < call.plan.bytes()) return EK_ERROR_WORKSPACE;
  place_call(&call, workspace);
  for (int64_t b = 0; b < given.images; b += call.plan.slab_images) {
    const int64_t images = min_of(call.plan.slab_images, given.images - b);
    int64_t counts[kCallPhases];
    for (int64_t phase = 0; phase < kCallPhases; ++phase) counts[phase] = ticket_count(call, phase, images);
    run_phases(call.macs(images) < kSerialMacs ? nullptr : call.parallel, counts,
               [&](int64_t phase, int64_t ticket, int64_t thread) { run_ticket(call, phase, images, ticket, thread); });
    const int64_t read = images * call.x_elements() * bytes_of(call.x.dtype);
    call.x.data = static_cast<char*>(call.x.data) + read;
    call.y.data = static_cast<char*>(call.y.data) + images * call.y_elements() * call.plan.value_bytes;
    if (call.plan.in_place) call.images += read;
  }
  return EK_OK;
}

}  // namespace edgekern::int8

using namespace edgekern;
using namespace edgekern::int8;

extern "C" size_t ek_int8_conv2d_workspace_size(const ek_isa* isa, const void* packed, size_t packed_size,
                                                const ek_window* window, int64_t images, int64_t height, int64_t width,
                                                const ek_images* x, const ek_images* y, ek_activation activation,
                                                const ek_parallel* parallel) {
  return conv2d_workspace_size(
      {isa, packed, packed_size, Weights::kInt8, window, images, height, width, x, y, activation, parallel});
}

extern "C" ek_status ek_int8_conv2d(const ek_isa* isa, const void* packed, size_t packed_size, const ek_window* window,
                                    int64_t images, int64_t height, int64_t width, const ek_images* x, const ek_images* y,
                                    ek_activation activation, void* workspace, size_t workspace_size,
                                    const ek_parallel* parallel) {
  return run_conv2d({isa, packed, packed_size, Weights::kInt8, window, images, height, width, x, y, activation, parallel},
                    workspace, workspace_size);
}

extern "C" size_t ek_int4_conv2d_workspace_size(const ek_isa* isa, const void* packed, size_t packed_size,
                                                const ek_window* window, int64_t images, int64_t height, int64_t width,
                                                const ek_images* x, const ek_images* y, ek_activation activation,
                                                const ek_parallel* parallel) {
  return conv2d_workspace_size(
      {isa, packed, packed_size, Weights::kInt4, window, images, height, width, x, y, activation, parallel});
}

extern "C" ek_status ek_int4_conv2d(const ek_isa* isa, const void* packed, size_t packed_size, const ek_window* window,
                                    int64_t images, int64_t height, int64_t width, const ek_images* x, const ek_images* y,
                                    ek_activation activation, void* workspace, size_t workspace_size,
                                    const ek_parallel* parallel) {
  return run_conv2d({isa, packed, packed_size, Weights::kInt4, window, images, height, width, x, y, activation, parallel},
                    workspace, workspace_size);
}

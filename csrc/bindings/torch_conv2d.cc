// The torch ops edgekern::int8_conv2d and int8_conv2d_static, the same of int4, and f32_conv2d: check their tensors, lend the
// library torch's memory and threads, make y.
#include <cstring>
#include <string>

#include "threads.h"
#include "torch_images.h"
#include "torch_tensors.h"
#include "workspace.h"

namespace edgekern {
namespace {

// What a format of weights brings.
struct Format {
  Packing packing;
  ek_status (*describe)(const void* packed, size_t size, ek_conv2d_shape* shape);
  decltype(&ek_int8_conv2d_workspace_size) workspace_size;
  decltype(&ek_int8_conv2d) run;
};

ek_status describe_int8_layer(const void* packed, size_t size, ek_conv2d_shape* shape) {
  ek_int8_conv2d_packed layer;
  const ek_status status = ek_int8_conv2d_describe(packed, size, &layer);
  if (status == EK_OK) *shape = layer.shape;
  return status;
}

ek_status describe_int4_layer(const void* packed, size_t size, ek_conv2d_shape* shape) {
  ek_int4_conv2d_packed layer;
  const ek_status status = ek_int4_conv2d_describe(packed, size, &layer);
  if (status == EK_OK) *shape = layer.shape;
  return status;
}

ek_status describe_f32_layer(const void* packed, size_t size, ek_conv2d_shape* shape) {
  ek_f32_conv2d_packed layer;
  const ek_status status = ek_f32_conv2d_describe(packed, size, &layer);
  if (status == EK_OK) *shape = layer.shape;
  return status;
}

constexpr Format kInt8{{"int8 convolution", "int8_conv2d", "int8_conv2d_pack", nullptr},
                       describe_int8_layer,
                       ek_int8_conv2d_workspace_size,
                       ek_int8_conv2d};
constexpr Format kInt4{{"int4 convolution", "int4_conv2d", "int4_conv2d_pack", nullptr},
                       describe_int4_layer,
                       ek_int4_conv2d_workspace_size,
                       ek_int4_conv2d};
constexpr Format kF32{{"f32 convolution", "f32_conv2d", "f32_conv2d_pack", nullptr},
                      describe_f32_layer,
                      ek_f32_conv2d_workspace_size,
                      ek_f32_conv2d};
constexpr char kLayer[] =
    "(Tensor x, Tensor packed, SymInt out_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, SymInt top, "
    "SymInt bottom, SymInt left, SymInt right, int dilation_h, int dilation_w, int activation";
constexpr int kLayerArguments = 14;

// What is known of x and y beforehand. A scale of 0: nothing.
struct Ranges {
  float x_scale = 0, y_scale = 0;
  int64_t x_zero_point = 0, y_zero_point = 0;
  int64_t dtype = EK_F32;  // of y where x is u8 and y is not
};

ek_conv2d_shape describe_layer(const Format& format, const View& packed, const std::byte* data) {
  expect_packed_bytes(format.packing, packed, data);
  ek_conv2d_shape shape;
  if (format.describe(data, static_cast<size_t>(packed.sizes[0]), &shape) == EK_OK) return shape;
  fail(format.packing, text("packed (", packed.sizes[0], " bytes) holds no packed ", format.packing.name,
                            " of this version, or a truncated one; make it with edgekern.ops.", format.packing.pack));
}

void expect(const Packing& packing, const char* name, int64_t got, int64_t packed) {
  if (got != packed) fail(packing, text(name, " must be ", packed, " as in packed, got ", got));
}

void conv2d(const Format& format, StableIValue* stack, const Ranges& ranges) {
  const Packing& packing = format.packing;
  TensorHandle x(stack[0]), packed(stack[1]);
  auto number = [&](int i) { return static_cast<int64_t>(stack[i]); };
  const View view(x), packed_view(packed);
  const std::byte* weights = data_of(packed);
  const bool integers = ranges.x_scale != 0 && view.dtype == torch_codes.uint8;
  const ek_dtype dtype = integers ? EK_U8 : library_dtype(packing, view.dtype);
  if (integers && (ranges.dtype < EK_F32 || ranges.dtype > EK_BF16))
    fail(packing, text("dtype must be a code of edgekern.ops.FLOATS (0 to 2), got ", ranges.dtype));
  const ek_dtype out_dtype = ranges.y_scale != 0 ? EK_U8 : integers ? static_cast<ek_dtype>(ranges.dtype) : dtype;
  const ek_conv2d_shape shape = describe_layer(format, packed_view, weights);
  const ek_window window{number(5), number(6), number(11), number(12), number(7), number(8), number(9), number(10)};
  if (view.dim != 4) fail(packing, text("x must be images [batch, channels, height, width], got shape ", view.shape()));
  if (view.sizes[1] != shape.in_channels) {
    fail(packing, text("x must have ", shape.in_channels, " channels (what packed was made for), got shape ", view.shape()));
  }
  expect(packing, "out_channels", number(2), shape.out_channels);
  expect(packing, "kernel_h", number(3), shape.kernel_h);
  expect(packing, "kernel_w", number(4), shape.kernel_w);
  expect_activation(packing, number(13));
  expect_no_gradient(packing, x);

  const int64_t sizes[4] = {view.sizes[0], view.sizes[1], view.sizes[2], view.sizes[3]};
  int64_t out[4] = {sizes[0], shape.out_channels, 0, 0};
  ek_status status = ek_conv2d_output(&shape, &window, sizes[2], sizes[3], &out[2], &out[3]);
  if (status == EK_ERROR_WINDOW) {
    fail(packing, text("a window of ", shape.kernel_h, " x ", shape.kernel_w, " at dilation (", window.dilation_h, ", ",
                       window.dilation_w, ") must fit x with its padding, and strides be at least 1: got x of shape ",
                       view.shape(), ", padding ", window.top, ", ", window.bottom, ", ", window.left, ", ", window.right,
                       " (top, bottom, left, right) and stride (", window.stride_h, ", ", window.stride_w, ")"));
  }
  check(status, packing.op);
  // One pixel is the same memory in either order, and pixel by pixel is the faster.
  const bool one_pixel = sizes[2] * sizes[3] == 1 && out[2] * out[3] == 1;
  const bool by_pixels = dtype == EK_U8 || out_dtype == EK_U8;
  ek_image_order order = by_pixels ? EK_NHWC : EK_NCHW;
  if (!by_pixels && !is_dense(view, sizes, EK_NCHW)) order = sizes[1] > 1 && view.strides[1] == 1 ? EK_NHWC : EK_NCHW;
  if (!is_dense(view, sizes, order)) {
    TensorHandle dense = empty_images(sizes, order, view.dtype);
    check_torch(torch_shim.copy(dense.get(), x.get(), 0), "copy x");
    x = std::move(dense);
  }
  TensorHandle y = empty_images(out, order, torch_dtype(out_dtype));
  if (sizes[0] > 0) {
    const ek_image_order memory = one_pixel ? EK_NHWC : order;
    const ek_images from{data_of(x), dtype, memory, {ranges.x_scale, static_cast<int32_t>(ranges.x_zero_point)}};
    const ek_images to{data_of(y), out_dtype, memory, {ranges.y_scale, static_cast<int32_t>(ranges.y_zero_point)}};
    const ek_activation activation = static_cast<ek_activation>(number(13));
    const size_t packed_size = static_cast<size_t>(packed_view.sizes[0]);
    Threads threads;
    Workspace workspace(format.workspace_size(nullptr, weights, packed_size, &window, sizes[0], sizes[2], sizes[3], &from, &to,
                                              activation, threads.parallel()));
    check(format.run(nullptr, weights, packed_size, &window, sizes[0], sizes[2], sizes[3], &from, &to, activation,
                     workspace.data(), workspace.size(), threads.parallel()),
          packing.op);
    threads.check();
  }
  stack[0] = reinterpret_cast<StableIValue>(y.release());
}

template <const Format& kFormat>
void conv2d_cpu(StableIValue* stack, uint64_t, uint64_t) {
  conv2d(kFormat, stack, {});
}

template <const Format& kFormat>
void conv2d_static_cpu(StableIValue* stack, uint64_t, uint64_t) {
  auto scale = [&](int i) {
    double value;
    memcpy(&value, stack + kLayerArguments + i, sizeof(value));
    return static_cast<float>(value);
  };
  auto number = [&](int i) { return static_cast<int64_t>(stack[kLayerArguments + i]); };
  conv2d(kFormat, stack, {scale(0), scale(2), number(1), number(3), number(4)});
}

template <const Format& kFormat>
void conv2d_elsewhere(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle x(stack[0]), packed(stack[1]);
  fail_elsewhere(kFormat.packing);
}

template <const Format& kFormat>
void define_layer(TorchLibrary* fragment) {
  const std::string op = kFormat.packing.op;
  define_op(fragment, op.c_str(), text(op, kLayer, ") -> Tensor"), conv2d_cpu<kFormat>, conv2d_elsewhere<kFormat>);
}

// The same with ranges.
template <const Format& kFormat>
void define_static_layer(TorchLibrary* fragment) {
  const std::string op = kFormat.packing.op;
  define_op(
      fragment, (op + "_static").c_str(),
      text(op, "_static", kLayer, ", float x_scale, int x_zero_point, float y_scale, int y_zero_point, int dtype) -> Tensor"),
      conv2d_static_cpu<kFormat>, conv2d_elsewhere<kFormat>);
}

}  // namespace

void define_conv2d(TorchLibrary* fragment) {
  define_layer<kInt8>(fragment);
  define_layer<kInt4>(fragment);
  define_layer<kF32>(fragment);
  define_static_layer<kInt8>(fragment);
  define_static_layer<kInt4>(fragment);
}

}  // namespace edgekern

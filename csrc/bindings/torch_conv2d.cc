// The torch ops edgekern::int8_conv2d and int8_conv2d_static: check their tensors, lend the library torch's memory and threads,
// make y.
#include <cstring>

#include "threads.h"
#include "torch_images.h"
#include "torch_tensors.h"
#include "workspace.h"

namespace edgekern {
namespace {

constexpr Packing kConv2d{"int8 convolution", "int8_conv2d", "int8_conv2d_pack", nullptr};
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

ek_int8_conv2d_packed describe_layer(const View& packed, const std::byte* data) {
  expect_packed_bytes(kConv2d, packed, data);
  ek_int8_conv2d_packed layer;
  if (ek_int8_conv2d_describe(data, static_cast<size_t>(packed.sizes[0]), &layer) == EK_OK) return layer;
  fail(kConv2d, text("packed (", packed.sizes[0],
                     " bytes) holds no packed int8 convolution of this version, or a truncated one; make it with "
                     "edgekern.ops.int8_conv2d_pack"));
}

void expect(const char* name, int64_t got, int64_t packed) {
  if (got != packed) fail(kConv2d, text(name, " must be ", packed, " as in packed, got ", got));
}

void conv2d(StableIValue* stack, const Ranges& ranges) {
  TensorHandle x(stack[0]), packed(stack[1]);
  auto number = [&](int i) { return static_cast<int64_t>(stack[i]); };
  const View view(x), packed_view(packed);
  const std::byte* weights = data_of(packed);
  const bool integers = ranges.x_scale != 0 && view.dtype == torch_codes.uint8;
  const ek_dtype dtype = integers ? EK_U8 : library_dtype(kConv2d, view.dtype);
  if (integers && (ranges.dtype < EK_F32 || ranges.dtype > EK_BF16))
    fail(kConv2d, text("dtype must be a code of edgekern.ops.FLOATS (0 to 2), got ", ranges.dtype));
  const ek_dtype out_dtype = ranges.y_scale != 0 ? EK_U8 : integers ? static_cast<ek_dtype>(ranges.dtype) : dtype;
  const ek_int8_conv2d_packed layer = describe_layer(packed_view, weights);
  const ek_window window{number(5), number(6), number(11), number(12), number(7), number(8), number(9), number(10)};
  if (view.dim != 4) fail(kConv2d, text("x must be images [batch, channels, height, width], got shape ", view.shape()));
  if (view.sizes[1] != layer.shape.in_channels) {
    fail(kConv2d,
         text("x must have ", layer.shape.in_channels, " channels (what packed was made for), got shape ", view.shape()));
  }
  expect("out_channels", number(2), layer.shape.out_channels);
  expect("kernel_h", number(3), layer.shape.kernel_h);
  expect("kernel_w", number(4), layer.shape.kernel_w);
  expect_activation(kConv2d, number(13));
  expect_no_gradient(kConv2d, x);

  const int64_t sizes[4] = {view.sizes[0], view.sizes[1], view.sizes[2], view.sizes[3]};
  int64_t out[4] = {sizes[0], layer.shape.out_channels, 0, 0};
  ek_status status = ek_conv2d_output(&layer.shape, &window, sizes[2], sizes[3], &out[2], &out[3]);
  if (status == EK_ERROR_WINDOW) {
    fail(kConv2d, text("a window of ", layer.shape.kernel_h, " x ", layer.shape.kernel_w, " at dilation (", window.dilation_h,
                       ", ", window.dilation_w, ") must fit x with its padding, and strides be at least 1: got x of shape ",
                       view.shape(), ", padding ", window.top, ", ", window.bottom, ", ", window.left, ", ", window.right,
                       " (top, bottom, left, right) and stride (", window.stride_h, ", ", window.stride_w, ")"));
  }
  check(status, kConv2d.op);
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
    Workspace workspace(ek_int8_conv2d_workspace_size(nullptr, weights, packed_size, &window, sizes[0], sizes[2], sizes[3],
                                                      &from, &to, activation, threads.parallel()));
    check(ek_int8_conv2d(nullptr, weights, packed_size, &window, sizes[0], sizes[2], sizes[3], &from, &to, activation,
                         workspace.data(), workspace.size(), threads.parallel()),
          kConv2d.op);
    threads.check();
  }
  stack[0] = reinterpret_cast<StableIValue>(y.release());
}

void conv2d_cpu(StableIValue* stack, uint64_t, uint64_t) { conv2d(stack, {}); }

void conv2d_static_cpu(StableIValue* stack, uint64_t, uint64_t) {
  auto scale = [&](int i) {
    double value;
    memcpy(&value, stack + kLayerArguments + i, sizeof(value));
    return static_cast<float>(value);
  };
  auto number = [&](int i) { return static_cast<int64_t>(stack[kLayerArguments + i]); };
  conv2d(stack, {scale(0), scale(2), number(1), number(3), number(4)});
}

void conv2d_elsewhere(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle x(stack[0]), packed(stack[1]);
  fail_elsewhere(kConv2d);
}

}  // namespace

void define_conv2d(TorchLibrary* fragment) {
  define_op(fragment, "int8_conv2d", text("int8_conv2d", kLayer, ") -> Tensor"), conv2d_cpu, conv2d_elsewhere);
  define_op(fragment, "int8_conv2d_static",
            text("int8_conv2d_static", kLayer,
                 ", float x_scale, int x_zero_point, float y_scale, int y_zero_point, int dtype) -> Tensor"),
            conv2d_static_cpu, conv2d_elsewhere);
}

}  // namespace edgekern

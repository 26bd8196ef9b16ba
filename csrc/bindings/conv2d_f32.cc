// Packing of convolutions whose pruned weights stay floats, over NumPy arrays; edgekern/ops documents them.
#include "calls.h"
#include "conv2d.h"
#include "floats.h"

namespace edgekern {
namespace {

// Weights [out][kernel_h * kernel_w * in / groups] without gaps.
struct Filters {
  FloatMatrix w;
  ek_conv2d_shape shape;
};

Filters filters_of(const py::object& weight, int64_t in_channels, int64_t groups, int64_t kernel_h, int64_t kernel_w,
                   const py::object& dtype) {
  FloatMatrix w = float_matrix(weight, dtype, "weight");
  const ek_conv2d_shape shape = conv2d_shape(w.rows, in_channels, groups, kernel_h, kernel_w);
  if (groups > 1 && groups == in_channels && groups == shape.out_channels)
    throw py::value_error("a depthwise convolution cannot be packed as f32");
  expect_columns("weight", w.cols, kernel_h * kernel_w * (in_channels / groups));
  if (w.ld != w.cols) w.array = w.array.attr("copy")("C").cast<py::array>();
  return {w, shape};
}

size_t size_of(const Filters& filters, int64_t channels) {
  expect_channels(channels);
  size_t size = 0;
  check(run([&](const ek_parallel* parallel) {
          size = ek_f32_conv2d_packed_size(channels, &filters.shape, filters.w.data(), filters.w.dtype, parallel);
          return size == 0 ? EK_ERROR_FORM : EK_OK;
        }),
        "f32_conv2d_packed_size");
  return size;
}

size_t packed_size(const py::object& weight, int64_t channels, int64_t in_channels, int64_t groups, int64_t kernel_h,
                   int64_t kernel_w, const py::object& dtype) {
  return size_of(filters_of(weight, in_channels, groups, kernel_h, kernel_w, dtype), channels);
}

void pack(const py::object& weight, const py::object& bias_object, const py::object& out, int64_t channels, int64_t in_channels,
          int64_t groups, int64_t kernel_h, int64_t kernel_w, const py::object& dtype) {
  expect_channels(channels);
  const Filters filters = filters_of(weight, in_channels, groups, kernel_h, kernel_w, dtype);
  py::array bias = bias_of(bias_object, filters.w.rows, "weight"), packed = packed_bytes(out, "f32_conv2d_pack");
  const float* bias_data = bias_object.is_none() ? nullptr : static_cast<const float*>(bias.data());
  void* packed_data = packed.mutable_data();
  const ek_status status = run([&](const ek_parallel* parallel) {
    return ek_f32_conv2d_pack(channels, &filters.shape, filters.w.data(), filters.w.dtype, bias_data, packed_data,
                              static_cast<size_t>(packed.nbytes()), parallel);
  });
  if (status == EK_ERROR_PACKED) {
    throw py::value_error(
        text("out must have the ", size_of(filters, channels), " bytes of f32_conv2d_packed_size, got ", packed.nbytes()));
  }
  if (status == EK_ERROR_VALUE) throw py::value_error("weight and bias must be finite, got NaN or Inf");
  check(status, "f32_conv2d_pack");
}

py::tuple unpack(const py::object& packed_object) {
  py::array packed = packed_bytes(packed_object, "f32_conv2d_pack");
  ek_f32_conv2d_packed layer;
  if (ek_f32_conv2d_describe(packed.data(), static_cast<size_t>(packed.nbytes()), &layer) != EK_OK) {
    throw py::value_error(text("packed (", packed.nbytes(),
                               " bytes) holds no packed f32 convolution of this version, or a truncated one; make it with "
                               "f32_conv2d_pack"));
  }
  const ek_conv2d_shape& shape = layer.shape;
  py::array_t<float> weight({shape.out_channels, shape.kernel_h, shape.kernel_w, shape.in_channels / shape.groups});
  py::array_t<float> bias(shape.out_channels);
  float *weight_data = weight.mutable_data(), *bias_data = layer.has_bias ? bias.mutable_data() : nullptr;
  check(run([&](const ek_parallel* parallel) {
          return ek_f32_conv2d_unpack(packed.data(), static_cast<size_t>(packed.nbytes()), weight_data, bias_data, parallel);
        }),
        "f32_conv2d_unpack");
  return py::make_tuple(weight.attr("transpose")(0, 3, 1, 2).attr("copy")("C"), layer.has_bias ? py::object(bias) : py::none());
}

}  // namespace

void bind_f32_conv2d(py::module_& core) {
  const py::none none;
  core.def("f32_conv2d_packed_size", packed_size, py::arg("weight"), py::arg("channels"), py::arg("in_channels"),
           py::arg("groups"), py::arg("kernel_h"), py::arg("kernel_w"), py::arg("dtype") = none);
  core.def("f32_conv2d_pack", pack, py::arg("weight"), py::arg("bias"), py::arg("out"), py::arg("channels"),
           py::arg("in_channels"), py::arg("groups"), py::arg("kernel_h"), py::arg("kernel_w"), py::arg("dtype") = none);
  core.def("f32_conv2d_unpack", unpack, py::arg("packed"));
}

}  // namespace edgekern

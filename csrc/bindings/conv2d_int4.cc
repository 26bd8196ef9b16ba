// Packing of int4 convolutions over NumPy arrays; edgekern/ops documents them.
#include "calls.h"
#include "conv2d.h"
#include "int4_weights.h"

namespace edgekern {
namespace {

struct Filters {
  Int4Weights weights;
  ek_conv2d_shape shape;
};

Filters filters_of(const py::object& w, const py::object& scale, const py::object& zero, int64_t in_channels, int64_t groups,
                   int64_t kernel_h, int64_t kernel_w, int64_t group_size) {
  const ek_conv2d_shape shape = conv2d_shape(array_of<uint8_t>(w, "w", 2).shape(0), in_channels, groups, kernel_h, kernel_w);
  return {weights_of(w, scale, zero, kernel_h * kernel_w * (in_channels / groups), group_size), shape};
}

size_t size_of(const Filters& filters, int form, const ek_isa* isa) {
  const Int4Weights& rhs = filters.weights;
  size_t size = 0;
  ek_status status = run([&](const ek_parallel* parallel) {
    size = ek_int4_conv2d_packed_size(isa, static_cast<ek_int4_form>(form), &filters.shape, rhs.group_size, rhs.w_data(),
                                      leading_dimension(rhs.w), rhs.zero_data(), parallel);
    return size == 0 ? EK_ERROR_FORM : EK_OK;
  });
  check(status, "int4_conv2d_packed_size");
  return size;
}

size_t packed_size(const py::object& w, const py::object& scale, const py::object& zero, int64_t in_channels, int64_t groups,
                   int64_t kernel_h, int64_t kernel_w, int64_t group_size, int form, const py::object& isa) {
  return size_of(filters_of(w, scale, zero, in_channels, groups, kernel_h, kernel_w, group_size), form, isa_of(isa));
}

// Bytes in the dense form, from sizes alone.
size_t dense_packed_size(int64_t out_channels, int64_t in_channels, int64_t groups, int64_t kernel_h, int64_t kernel_w,
                         int64_t group_size, bool symmetric) {
  expect_group_size(group_size);
  const ek_conv2d_shape shape = conv2d_shape(out_channels, in_channels, groups, kernel_h, kernel_w);
  const uint8_t zero = 0;
  const size_t size =
      ek_int4_conv2d_packed_size(nullptr, EK_INT4_DENSE, &shape, group_size, nullptr, 0, symmetric ? nullptr : &zero, nullptr);
  if (size == 0) throw py::value_error("a depthwise convolution cannot be packed as int4");
  return size;
}

void pack(const py::object& w, const py::object& scale, const py::object& zero, const py::object& bias_object,
          int64_t in_channels, int64_t groups, int64_t kernel_h, int64_t kernel_w, int64_t group_size, const py::object& out,
          int form, const py::object& isa_object) {
  Filters filters = filters_of(w, scale, zero, in_channels, groups, kernel_h, kernel_w, group_size);
  const Int4Weights& rhs = filters.weights;
  py::array bias = bias_of(bias_object, rhs.n, "w"), packed = packed_bytes(out, "int4_conv2d_pack");
  const ek_isa* isa = isa_of(isa_object);
  const float* bias_data = bias_object.is_none() ? nullptr : static_cast<const float*>(bias.data());
  void* packed_data = packed.mutable_data();
  ek_status status = run([&](const ek_parallel* parallel) {
    return ek_int4_conv2d_pack(isa, static_cast<ek_int4_form>(form), &filters.shape, rhs.group_size, rhs.w_data(),
                               leading_dimension(rhs.w), static_cast<const uint16_t*>(rhs.scale.data()), rhs.zero_data(),
                               bias_data, packed_data, static_cast<size_t>(packed.nbytes()), parallel);
  });
  if (status == EK_ERROR_PACKED) {
    throw py::value_error(
        text("out must have the ", size_of(filters, form, isa), " bytes of int4_conv2d_packed_size, got ", packed.nbytes()));
  }
  if (status == EK_ERROR_VALUE) throw py::value_error("scale and bias must be finite, and zero at most 15");
  check(status, "int4_conv2d_pack");
}

py::tuple unpack(const py::object& packed_object) {
  py::array packed = packed_bytes(packed_object, "int4_conv2d_pack");
  ek_int4_conv2d_packed layer;
  if (ek_int4_conv2d_describe(packed.data(), static_cast<size_t>(packed.nbytes()), &layer) != EK_OK) {
    throw py::value_error(text("packed (", packed.nbytes(),
                               " bytes) holds no packed int4 convolution of this version, or a truncated one; make it with "
                               "int4_conv2d_pack"));
  }
  const ek_conv2d_shape& shape = layer.shape;
  const int64_t k = shape.kernel_h * shape.kernel_w * (shape.in_channels / shape.groups);
  const int64_t n = shape.out_channels, row_bytes = (k + 1) / 2, groups = groups_of(k, layer.group_size);
  py::array_t<uint8_t> w({n, row_bytes}), zero({n, groups});
  py::array scale(py::dtype("float16"), {n, groups});
  py::array_t<float> bias(n);
  uint8_t *w_data = w.mutable_data(), *zero_data = layer.has_zero ? zero.mutable_data() : nullptr;
  uint16_t* scale_data = static_cast<uint16_t*>(scale.mutable_data());
  float* bias_data = layer.has_bias ? bias.mutable_data() : nullptr;
  check(run([&](const ek_parallel* parallel) {
          return ek_int4_conv2d_unpack(packed.data(), static_cast<size_t>(packed.nbytes()), w_data, row_bytes, scale_data,
                                       zero_data, bias_data, parallel);
        }),
        "int4_conv2d_unpack");
  return py::make_tuple(w, scale, layer.has_zero ? py::object(zero) : py::none(),
                        layer.has_bias ? py::object(bias) : py::none());
}

}  // namespace

void bind_int4_conv2d(py::module_& core) {
  const py::none none;
  core.def("int4_conv2d_packed_size", packed_size, py::arg("w"), py::arg("scale"), py::arg("zero"), py::arg("in_channels"),
           py::arg("groups"), py::arg("kernel_h"), py::arg("kernel_w"), py::arg("group_size"), py::arg("form") = 0,
           py::arg("isa") = none);
  core.def("int4_conv2d_dense_packed_size", dense_packed_size, py::arg("out_channels"), py::arg("in_channels"),
           py::arg("groups"), py::arg("kernel_h"), py::arg("kernel_w"), py::arg("group_size"), py::arg("symmetric") = true);
  core.def("int4_conv2d_pack", pack, py::arg("w"), py::arg("scale"), py::arg("zero"), py::arg("bias"), py::arg("in_channels"),
           py::arg("groups"), py::arg("kernel_h"), py::arg("kernel_w"), py::arg("group_size"), py::arg("out"),
           py::arg("form") = 0, py::arg("isa") = none);
  core.def("int4_conv2d_unpack", unpack, py::arg("packed"));
}

}  // namespace edgekern

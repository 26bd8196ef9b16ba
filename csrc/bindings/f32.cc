// f32 weights with zeros over NumPy arrays; see int8.cc for what is checked where.
#include "f32.h"

#include "calls.h"
#include "workspace.h"

namespace edgekern {
namespace {

ek_f32_shape shape_of(const py::array& packed) {
  ek_f32_shape shape;
  if (ek_f32_describe(packed.data(), packed.nbytes(), &shape) != EK_OK) {
    throw py::value_error(text("packed (", packed.nbytes(),
                               " bytes) holds no packed f32 matrix of this version, or a truncated one; make it with "
                               "f32_pack"));
  }
  return shape;
}

void expect_channels(int64_t channels) {
  if (channels == 1 || channels == 2 || channels == 4 || channels == 8) return;
  throw py::value_error(text("channels must be 1, 2, 4 or 8, got ", channels));
}

size_t size_of(const FloatMatrix& w, int64_t channels) {
  size_t size = 0;
  ek_status status = run([&](const ek_parallel* parallel) {
    size = ek_f32_packed_size(channels, w.rows, w.cols, w.data(), w.dtype, w.ld, parallel);
    return size == 0 ? EK_ERROR_SHAPE : EK_OK;
  });
  check(status, "f32_packed_size");
  return size;
}

size_t packed_size(const py::object& weight, int64_t channels, const py::object& dtype) {
  expect_channels(channels);
  return size_of(float_matrix(weight, dtype, "weight"), channels);
}

void pack(const py::object& weight, const py::object& bias_object, const py::object& out, int64_t channels,
          const py::object& dtype) {
  expect_channels(channels);
  FloatMatrix w = float_matrix(weight, dtype, "weight");
  py::array bias = bias_of(bias_object, w.rows, "weight"), packed = packed_bytes(out, "f32_pack");
  const float* bias_data = bias_object.is_none() ? nullptr : static_cast<const float*>(bias.data());
  void* packed_data = packed.mutable_data();
  ek_status status = run([&](const ek_parallel* parallel) {
    return ek_f32_pack(channels, w.rows, w.cols, w.data(), w.dtype, w.ld, bias_data, packed_data,
                       static_cast<size_t>(packed.nbytes()), parallel);
  });
  if (status == EK_ERROR_PACKED) {
    throw py::value_error(text("out must have the ", size_of(w, channels), " bytes of f32_packed_size, got ", packed.nbytes()));
  }
  if (status == EK_ERROR_VALUE) throw py::value_error("weight and bias must be finite, got NaN or Inf");
  check(status, "f32_pack");
}

py::tuple describe_packed(const py::object& packed) {
  ek_f32_shape shape = shape_of(packed_bytes(packed, "f32_pack"));
  return py::make_tuple(shape.n, shape.k, shape.has_bias != 0, shape.channels, shape.blocks);
}

py::tuple unpack(const py::object& packed_object) {
  py::array packed = packed_bytes(packed_object, "f32_pack");
  ek_f32_shape shape = shape_of(packed);
  py::array_t<float> weight({shape.n, shape.k}), bias(shape.n);
  float *weight_data = weight.mutable_data(), *bias_data = shape.has_bias ? bias.mutable_data() : nullptr;
  check(run([&](const ek_parallel* parallel) {
          return ek_f32_unpack(packed.data(), packed.nbytes(), weight_data, shape.k, bias_data, parallel);
        }),
        "f32_unpack");
  return py::make_tuple(weight, shape.has_bias ? py::object(bias) : py::none());
}

py::array linear(const py::object& x, const py::object& packed_object, int activation, const py::object& isa_object,
                 const py::object& dtype) {
  FloatMatrix lhs = float_matrix(x, dtype, "x");
  py::array packed = packed_bytes(packed_object, "f32_pack");
  ek_f32_shape shape = shape_of(packed);
  expect_columns("x", lhs.cols, shape.k);
  const ek_isa* isa = isa_of(isa_object);
  py::array y(lhs.array.dtype(), {lhs.rows, shape.n});
  void* y_data = y.mutable_data();
  check(run([&](const ek_parallel* parallel) {
          Workspace workspace(ek_f32_workspace_size(isa, shape.channels, lhs.rows, lhs.cols));
          return ek_f32_linear(isa, packed.data(), packed.nbytes(), lhs.rows, lhs.data(), lhs.dtype, lhs.ld, y_data, shape.n,
                               static_cast<ek_activation>(activation), workspace.data(), workspace.size(), parallel);
        }),
        "f32_linear");
  return y;
}

}  // namespace

void bind_f32(py::module_& core) {
  const py::none none;
  core.def("f32_packed_size", packed_size, py::arg("weight"), py::arg("channels"), py::arg("dtype") = none);
  core.def("f32_pack", pack, py::arg("weight"), py::arg("bias"), py::arg("out"), py::arg("channels"), py::arg("dtype") = none);
  core.def("f32_describe", describe_packed, py::arg("packed"));
  core.def("f32_unpack", unpack, py::arg("packed"));
  core.def("f32_linear", linear, py::arg("x"), py::arg("packed"), py::arg("activation"), py::arg("isa") = none,
           py::arg("dtype") = none);
}

}  // namespace edgekern

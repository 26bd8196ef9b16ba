// int4 weights over NumPy arrays; see int8.cc for what is checked where. f16 scales are float16 arrays.
#include "int4.h"

#include "calls.h"
#include "int4_weights.h"
#include "workspace.h"

namespace edgekern {
namespace {

ek_int4_shape shape_of(const py::array& packed) {
  ek_int4_shape shape;
  if (ek_int4_describe(packed.data(), packed.nbytes(), &shape) != EK_OK) {
    throw py::value_error(text("packed (", packed.nbytes(),
                               " bytes) holds no packed int4 matrix of this version, or a truncated one; make it with "
                               "int4_pack"));
  }
  return shape;
}

py::tuple quantize_rhs(const py::object& weight, int64_t group_size, bool symmetric, int clip, const py::object& dtype) {
  expect_group_size(group_size);
  FloatMatrix rhs = float_matrix(weight, dtype, "weight");
  const int64_t row_bytes = (rhs.cols + 1) / 2, groups = groups_of(rhs.cols, group_size);
  py::array_t<uint8_t> w({rhs.rows, row_bytes}), zero({rhs.rows, groups});
  py::array scale(py::dtype("float16"), {rhs.rows, groups});
  uint8_t *w_data = w.mutable_data(), *zero_data = symmetric ? nullptr : zero.mutable_data();
  uint16_t* scale_data = static_cast<uint16_t*>(scale.mutable_data());
  ek_status status = run([&](const ek_parallel* parallel) {
    return ek_int4_quantize_rhs(rhs.rows, rhs.cols, group_size, static_cast<ek_int4_clip>(clip), rhs.data(), rhs.dtype, rhs.ld,
                                w_data, row_bytes, scale_data, zero_data, parallel);
  });
  if (status == EK_ERROR_VALUE) {
    throw py::value_error(
        "weight must be finite and below 458,000 in magnitude, 7 times the largest float16; numpy.isfinite(weight) finds "
        "NaN and Inf");
  }
  check(status, "int4_quantize");
  return py::make_tuple(w, scale, symmetric ? py::object(py::none()) : py::object(zero));
}

size_t size_of(const Int4Weights& rhs, int form, const ek_isa* isa) {
  size_t size = 0;
  ek_status status = run([&](const ek_parallel* parallel) {
    size = ek_int4_packed_size(isa, static_cast<ek_int4_form>(form), rhs.n, rhs.k, rhs.group_size, rhs.w_data(),
                               leading_dimension(rhs.w), rhs.zero_data(), parallel);
    return size == 0 ? EK_ERROR_FORM : EK_OK;
  });
  check(status, "int4_packed_size");
  return size;
}

size_t packed_size(const py::object& w, const py::object& scale, const py::object& zero, int64_t k, int64_t group_size,
                   int form, const py::object& isa) {
  return size_of(weights_of(w, scale, zero, k, group_size), form, isa_of(isa));
}

// Of the dense form, whatever the weights are.
size_t dense_packed_size(int64_t n, int64_t k, int64_t group_size, bool symmetric) {
  expect_group_size(group_size);
  const uint8_t zero = 0;
  size_t size = ek_int4_packed_size(nullptr, EK_INT4_DENSE, n, k, group_size, nullptr, 0, symmetric ? nullptr : &zero, nullptr);
  if (size == 0) throw py::value_error(text("a matrix of ", n, " x ", k, " is negative or too large to pack"));
  return size;
}

void pack(const py::object& w, const py::object& scale, const py::object& zero, const py::object& bias_object, int64_t k,
          int64_t group_size, const py::object& out, int form, const py::object& isa_object) {
  Int4Weights rhs = weights_of(w, scale, zero, k, group_size);
  py::array bias = bias_of(bias_object, rhs.n, "w"), packed = packed_bytes(out, "int4_pack");
  const ek_isa* isa = isa_of(isa_object);
  const float* bias_data = bias_object.is_none() ? nullptr : static_cast<const float*>(bias.data());
  void* packed_data = packed.mutable_data();
  ek_status status = run([&](const ek_parallel* parallel) {
    return ek_int4_pack(isa, static_cast<ek_int4_form>(form), rhs.n, rhs.k, rhs.group_size, rhs.w_data(),
                        leading_dimension(rhs.w), static_cast<const uint16_t*>(rhs.scale.data()), rhs.zero_data(), bias_data,
                        packed_data, static_cast<size_t>(packed.nbytes()), parallel);
  });
  if (status == EK_ERROR_PACKED) {
    throw py::value_error(
        text("out must have the ", size_of(rhs, form, isa), " bytes of int4_packed_size, got ", packed.nbytes()));
  }
  if (status == EK_ERROR_VALUE) throw py::value_error("scale and bias must be finite, and zero at most 15");
  check(status, "int4_pack");
}

py::tuple describe_packed(const py::object& packed) {
  ek_int4_shape shape = shape_of(packed_bytes(packed, "int4_pack"));
  return py::make_tuple(shape.n, shape.k, shape.has_bias != 0, shape.group_size, shape.has_zero == 0,
                        static_cast<int>(shape.form));
}

py::tuple unpack(const py::object& packed_object) {
  py::array packed = packed_bytes(packed_object, "int4_pack");
  ek_int4_shape shape = shape_of(packed);
  const int64_t row_bytes = (shape.k + 1) / 2, groups = groups_of(shape.k, shape.group_size);
  py::array_t<uint8_t> w({shape.n, row_bytes}), zero({shape.n, groups});
  py::array scale(py::dtype("float16"), {shape.n, groups});
  py::array_t<float> bias(shape.n);
  uint8_t *w_data = w.mutable_data(), *zero_data = shape.has_zero ? zero.mutable_data() : nullptr;
  uint16_t* scale_data = static_cast<uint16_t*>(scale.mutable_data());
  float* bias_data = shape.has_bias ? bias.mutable_data() : nullptr;
  check(run([&](const ek_parallel* parallel) {
          return ek_int4_unpack(packed.data(), packed.nbytes(), w_data, row_bytes, scale_data, zero_data, bias_data, parallel);
        }),
        "int4_unpack");
  return py::make_tuple(w, scale, shape.has_zero ? py::object(zero) : py::none(),
                        shape.has_bias ? py::object(bias) : py::none());
}

py::array linear(const py::object& x, const py::object& packed_object, int activation, const py::object& isa_object,
                 const py::object& dtype) {
  FloatMatrix lhs = float_matrix(x, dtype, "x");
  py::array packed = packed_bytes(packed_object, "int4_pack");
  ek_int4_shape shape = shape_of(packed);
  expect_columns("x", lhs.cols, shape.k);
  const ek_isa* isa = isa_of(isa_object);
  py::array y(lhs.array.dtype(), {lhs.rows, shape.n});
  void* y_data = y.mutable_data();
  check(run([&](const ek_parallel* parallel) {
          Workspace workspace(ek_int4_workspace_size(isa, lhs.rows, lhs.cols));
          return ek_int4_linear(isa, packed.data(), packed.nbytes(), lhs.rows, lhs.data(), lhs.dtype, lhs.ld, y_data, shape.n,
                                static_cast<ek_activation>(activation), workspace.data(), workspace.size(), parallel);
        }),
        "int4_linear");
  return y;
}

}  // namespace

void bind_int4(py::module_& core) {
  const py::none none;
  core.def("int4_quantize_rhs", quantize_rhs, py::arg("weight"), py::arg("group_size"), py::arg("symmetric") = true,
           py::arg("clip") = 0, py::arg("dtype") = none);
  core.def("int4_packed_size", packed_size, py::arg("w"), py::arg("scale"), py::arg("zero"), py::arg("k"),
           py::arg("group_size"), py::arg("form") = 0, py::arg("isa") = none);
  core.def("int4_dense_packed_size", dense_packed_size, py::arg("n"), py::arg("k"), py::arg("group_size"),
           py::arg("symmetric") = true);
  core.def("int4_pack", pack, py::arg("w"), py::arg("scale"), py::arg("zero"), py::arg("bias"), py::arg("k"),
           py::arg("group_size"), py::arg("out"), py::arg("form") = 0, py::arg("isa") = none);
  core.def("int4_describe", describe_packed, py::arg("packed"));
  core.def("int4_unpack", unpack, py::arg("packed"));
  core.def("int4_linear", linear, py::arg("x"), py::arg("packed"), py::arg("activation"), py::arg("isa") = none,
           py::arg("dtype") = none);
}

}  // namespace edgekern

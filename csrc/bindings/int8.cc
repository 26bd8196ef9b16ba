// The int8 format over NumPy arrays. edgekern/kernels is the public face: it folds leading dimensions, allocates
// aligned memory and documents; every check that guards memory is here.
#include "int8.h"

#include <optional>
#include <utility>

#include "calls.h"
#include "workspace.h"

namespace edgekern {
namespace {

ek_int8_shape shape_of(const py::array& packed) {
  ek_int8_shape shape;
  if (ek_int8_describe(packed.data(), packed.nbytes(), &shape) != EK_OK) {
    throw py::value_error(text("packed (", packed.nbytes(),
                               " bytes) holds no packed int8 matrix of this version, or a "
                               "truncated one; make it with int8_pack"));
  }
  return shape;
}

// (scale, zero_point), or None.
py::object range_or_none(const ek_int8_shape& shape) {
  if (!shape.has_range) return py::none();
  return py::make_tuple(shape.range.scale, shape.range.zero_point);
}

// A range of activations from (scale, zero_point), or nullopt from None. The library says which are valid.
std::optional<ek_int8_range> range_of(const py::object& object) {
  if (object.is_none()) return std::nullopt;
  try {
    auto [scale, zero_point] = object.cast<std::pair<double, int64_t>>();
    const bool byte = zero_point >= 0 && zero_point <= 255;
    return ek_int8_range{static_cast<float>(scale), byte ? static_cast<int32_t>(zero_point) : -1};
  } catch (const py::cast_error&) {
    throw py::type_error(
        text("range must be a pair (scale, zero_point) of a float and an int, or None; got ", std::string(py::repr(object))));
  }
}

const ek_int8_range* pointer_to(const std::optional<ek_int8_range>& range) { return range ? &*range : nullptr; }

void check_range(ek_status status, const py::object& range, const char* op) {
  if (status == EK_ERROR_VALUE) {
    throw py::value_error(
        text("range must be a scale from 2^-100 to 2^100 and a zero point from 0 to 255, got ", std::string(py::repr(range))));
  }
  check(status, op);
}

py::tuple quantize_rhs(const py::object& weight, const py::object& dtype) {
  FloatMatrix rhs = float_matrix(weight, dtype, "weight");
  py::array_t<int8_t> q({rhs.rows, rhs.cols});
  py::array_t<float> scale(rhs.rows);
  int8_t* q_data = q.mutable_data();
  float* scale_data = scale.mutable_data();
  ek_status status = run([&](const ek_parallel* parallel) {
    return ek_int8_quantize_rhs(rhs.rows, rhs.cols, rhs.data(), rhs.dtype, rhs.ld, q_data, rhs.cols, scale_data, parallel);
  });
  if (status == EK_ERROR_VALUE) {
    throw py::value_error("weight must be finite, got NaN or Inf; numpy.isfinite(weight) finds where");
  }
  check(status, "int8_quantize");
  return py::make_tuple(q, scale);
}

size_t dense_packed_size(int64_t n, int64_t k, const py::object& isa) {
  size_t size = ek_int8_packed_size(isa_of(isa), EK_INT8_DENSE, n, k, nullptr, 0, nullptr);
  if (size == 0) throw py::value_error(text("a matrix of ", n, " x ", k, " is negative or too large to pack"));
  return size;
}

size_t packed_size(const py::object& q_object, int form, const py::object& isa_object) {
  py::array q = array_of<int8_t>(q_object, "q", 2);
  const ek_isa* isa = isa_of(isa_object);
  size_t size = 0;
  ek_status status = run([&](const ek_parallel* parallel) {
    size = ek_int8_packed_size(isa, static_cast<ek_int8_form>(form), q.shape(0), q.shape(1),
                               static_cast<const int8_t*>(q.data()), leading_dimension(q), parallel);
    return size == 0 ? EK_ERROR_FORM : EK_OK;
  });
  check(status, "int8_packed_size");
  return size;
}

void pack(const py::object& q_object, const py::object& scale_object, const py::object& bias_object, const py::object& out,
          int form, const py::object& isa_object) {
  py::array q = array_of<int8_t>(q_object, "q", 2);
  py::array scale = array_of<float>(scale_object, "scale", 1);
  const int64_t n = q.shape(0), k = q.shape(1);
  if (scale.size() != n) throw py::value_error(text("scale must have ", n, " values, one a row of q; got ", scale.size()));
  py::array bias = bias_of(bias_object, n, "q"), packed = packed_bytes(out, "int8_pack");
  const ek_isa* isa = isa_of(isa_object);
  const float* bias_data = bias_object.is_none() ? nullptr : static_cast<const float*>(bias.data());
  ek_status status = run([&](const ek_parallel* parallel) {
    return ek_int8_pack(isa, static_cast<ek_int8_form>(form), n, k, static_cast<const int8_t*>(q.data()), leading_dimension(q),
                        static_cast<const float*>(scale.data()), bias_data, packed.mutable_data(),
                        static_cast<size_t>(packed.nbytes()), parallel);
  });
  if (status == EK_ERROR_PACKED) {
    throw py::value_error(text("out must have the ", packed_size(q_object, form, isa_object),
                               " bytes of int8_packed_size, got ", packed.nbytes()));
  }
  if (status == EK_ERROR_VALUE) throw py::value_error("scale must be finite, got NaN or Inf");
  check(status, "int8_pack");
}

py::tuple describe_packed(const py::object& packed_object) {
  ek_int8_shape shape = shape_of(packed_bytes(packed_object, "int8_pack"));
  return py::make_tuple(shape.n, shape.k, shape.has_bias != 0, static_cast<int>(shape.form), range_or_none(shape));
}

void set_range(const py::object& packed_object, const py::object& range_object) {
  py::array packed = packed_bytes(packed_object, "int8_pack");
  shape_of(packed);
  std::optional<ek_int8_range> range = range_of(range_object);
  check_range(ek_int8_set_range(packed.mutable_data(), packed.nbytes(), pointer_to(range)), range_object, "int8_set_range");
}

py::tuple unpack(const py::object& packed_object) {
  py::array packed = packed_bytes(packed_object, "int8_pack");
  ek_int8_shape shape = shape_of(packed);
  py::array_t<int8_t> q({shape.n, shape.k});
  py::array_t<float> scale(shape.n), bias(shape.n);
  int8_t* q_data = q.mutable_data();
  float *scale_data = scale.mutable_data(), *bias_data = shape.has_bias ? bias.mutable_data() : nullptr;
  check(run([&](const ek_parallel* parallel) {
          return ek_int8_unpack(packed.data(), packed.nbytes(), q_data, shape.k, scale_data, bias_data, parallel);
        }),
        "int8_unpack");
  return py::make_tuple(q, scale, shape.has_bias ? py::object(bias) : py::none());
}

py::array linear(const py::object& x, const py::object& packed_object, int activation, const py::object& isa_object,
                 const py::object& dtype) {
  FloatMatrix lhs = float_matrix(x, dtype, "x");
  py::array packed = packed_bytes(packed_object, "int8_pack");
  ek_int8_shape shape = shape_of(packed);
  expect_columns("x", lhs.cols, shape.k);
  const ek_isa* isa = isa_of(isa_object);
  py::array y(lhs.array.dtype(), {lhs.rows, shape.n});
  void* y_data = y.mutable_data();
  check(run([&](const ek_parallel* parallel) {
          Workspace workspace(ek_int8_workspace_size(isa, shape.form, lhs.rows, lhs.cols));
          return ek_int8_linear(isa, packed.data(), packed.nbytes(), lhs.rows, lhs.data(), lhs.dtype, lhs.ld, y_data, shape.n,
                                static_cast<ek_activation>(activation), workspace.data(), workspace.size(), parallel);
        }),
        "int8_linear");
  return y;
}

py::tuple quantize_lhs(const py::object& x, const py::object& isa_object, const py::object& dtype,
                       const py::object& range_object) {
  FloatMatrix lhs = float_matrix(x, dtype, "x");
  std::optional<ek_int8_range> range = range_of(range_object);
  const ek_isa* isa = isa_of(isa_object);
  py::array_t<uint8_t> q({lhs.rows, lhs.cols});
  py::array_t<float> scale(lhs.rows);
  py::array_t<int32_t> zero_point(lhs.rows);
  uint8_t* q_data = q.mutable_data();
  float* scale_data = scale.mutable_data();
  int32_t* zero_data = zero_point.mutable_data();
  ek_status status = run([&](const ek_parallel* parallel) {
    return ek_int8_quantize_lhs(isa, lhs.rows, lhs.cols, lhs.data(), lhs.dtype, lhs.ld, pointer_to(range), q_data, lhs.cols,
                                scale_data, zero_data, parallel);
  });
  check_range(status, range_object, "int8_quantize_lhs");
  return py::make_tuple(q, scale, zero_point);
}

py::array matmul(const py::object& q_object, const py::object& zero_point_object, const py::object& packed_object,
                 const py::object& isa_object) {
  py::array q = array_of<uint8_t>(q_object, "q", 2);
  py::array zero_point = array_of<int32_t>(zero_point_object, "zero_point", 1);
  py::array packed = packed_bytes(packed_object, "int8_pack");
  ek_int8_shape shape = shape_of(packed);
  expect_columns("q", q.shape(1), shape.k);
  if (shape.k > EK_INT8_MAX_K_EXACT) {
    throw py::value_error(text("packed must have at most ", EK_INT8_MAX_K_EXACT, " columns for one exact int32 sum, got ",
                               shape.k, "; int8_linear takes more"));
  }
  const int64_t m = q.shape(0);
  if (zero_point.size() != m) {
    throw py::value_error(text("zero_point must have ", m, " values, one a row of q; got ", zero_point.size()));
  }
  const ek_isa* isa = isa_of(isa_object);
  py::array_t<int32_t> acc({m, shape.n});
  int32_t* acc_data = acc.mutable_data();
  check(run([&](const ek_parallel* parallel) {
          Workspace workspace(ek_int8_workspace_size(isa, shape.form, m, shape.k));
          return ek_int8_matmul_s32(isa, packed.data(), packed.nbytes(), m, static_cast<const uint8_t*>(q.data()),
                                    leading_dimension(q), static_cast<const int32_t*>(zero_point.data()), acc_data, shape.n,
                                    workspace.data(), workspace.size(), parallel);
        }),
        "int8_matmul");
  return acc;
}

}  // namespace

void bind_int8(py::module_& core) {
  const py::none none;
  core.def("int8_quantize_rhs", quantize_rhs, py::arg("weight"), py::arg("dtype") = none);
  core.def("int8_dense_packed_size", dense_packed_size, py::arg("n"), py::arg("k"), py::arg("isa") = none);
  core.def("int8_packed_size", packed_size, py::arg("q"), py::arg("form") = 0, py::arg("isa") = none);
  core.def("int8_pack", pack, py::arg("q"), py::arg("scale"), py::arg("bias"), py::arg("out"), py::arg("form") = 0,
           py::arg("isa") = none);
  core.def("int8_describe", describe_packed, py::arg("packed"));
  core.def("int8_set_range", set_range, py::arg("packed"), py::arg("range"));
  core.def("int8_unpack", unpack, py::arg("packed"));
  core.def("int8_linear", linear, py::arg("x"), py::arg("packed"), py::arg("activation"), py::arg("isa") = none,
           py::arg("dtype") = none);
  core.def("int8_quantize_lhs", quantize_lhs, py::arg("x"), py::arg("isa") = none, py::arg("dtype") = none,
           py::arg("range") = none);
  core.def("int8_matmul", matmul, py::arg("q"), py::arg("zero_point"), py::arg("packed"), py::arg("isa") = none);
}

}  // namespace edgekern

// int8 and int4 weights by activations that stay floats, over NumPy arrays; see int8.cc for what is checked where.
#include "mixed.h"

#include "calls.h"
#include "workspace.h"

namespace edgekern {
namespace {

// What a format brings: its names, and its functions.
template <class Shape>
struct Format {
  const char *name, *op, *maker;
  ek_status (*describe)(const void* packed, size_t size, Shape* shape);
  decltype(&ek_int8_float_workspace_size) workspace_size;
  decltype(&ek_int8_float_linear) linear;
};
constexpr Format<ek_int8_shape> kInt8{"int8",           "int8_float_linear",          "int8_pack",
                                      ek_int8_describe, ek_int8_float_workspace_size, ek_int8_float_linear};
constexpr Format<ek_int4_shape> kInt4{"int4",           "int4_float_linear",          "int4_pack",
                                      ek_int4_describe, ek_int4_float_workspace_size, ek_int4_float_linear};

template <const auto& kFormat, class Shape>
py::array linear(const py::object& x, const py::object& packed_object, int activation, const py::object& isa_object,
                 const py::object& dtype) {
  FloatMatrix lhs = float_matrix(x, dtype, "x");
  py::array packed = packed_bytes(packed_object, kFormat.maker);
  Shape shape;
  if (kFormat.describe(packed.data(), packed.nbytes(), &shape) != EK_OK) {
    throw py::value_error(text("packed (", packed.nbytes(), " bytes) holds no packed ", kFormat.name,
                               " matrix of this version, or a truncated one; make it with ", kFormat.maker));
  }
  expect_columns("x", lhs.cols, shape.k);
  const ek_isa* isa = isa_of(isa_object);
  py::array y(lhs.array.dtype(), {lhs.rows, shape.n});
  void* y_data = y.mutable_data();
  check(run([&](const ek_parallel* parallel) {
          Workspace workspace(kFormat.workspace_size(isa, lhs.rows, lhs.cols));
          return kFormat.linear(isa, packed.data(), packed.nbytes(), lhs.rows, lhs.data(), lhs.dtype, lhs.ld, y_data, shape.n,
                                static_cast<ek_activation>(activation), workspace.data(), workspace.size(), parallel);
        }),
        kFormat.op);
  return y;
}

}  // namespace

void bind_mixed(py::module_& core) {
  const py::none none;
  core.def("int8_float_linear", linear<kInt8, ek_int8_shape>, py::arg("x"), py::arg("packed"), py::arg("activation"),
           py::arg("isa") = none, py::arg("dtype") = none);
  core.def("int4_float_linear", linear<kInt4, ek_int4_shape>, py::arg("x"), py::arg("packed"), py::arg("activation"),
           py::arg("isa") = none, py::arg("dtype") = none);
}

}  // namespace edgekern

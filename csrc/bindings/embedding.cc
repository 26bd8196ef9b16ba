// Rows of packed int8 and int4 matrices over NumPy arrays; see int8.cc for what is checked where.
#include "embedding.h"

#include "calls.h"

namespace edgekern {
namespace {

// What a format brings: its names, and its functions.
template <class Shape>
struct Table {
  const char *name, *op, *maker;
  ek_status (*describe)(const void* packed, size_t size, Shape* shape);
  decltype(&ek_int8_embedding) read;
};
constexpr Table<ek_int8_shape> kInt8{"int8", "int8_embedding", "int8_pack", ek_int8_describe, ek_int8_embedding};
constexpr Table<ek_int4_shape> kInt4{"int4", "int4_embedding", "int4_pack", ek_int4_describe, ek_int4_embedding};

struct Indices {
  py::array array;
  ek_index type;

  int64_t at(py::ssize_t i) const {
    const void* data = array.data();
    return type == EK_INDEX_I32 ? static_cast<const int32_t*>(data)[i] : static_cast<const int64_t*>(data)[i];
  }
};

Indices indices_of(const py::object& value) {
  if (is_array_of(value, py::dtype::of<int32_t>())) return {array_of<int32_t>(value, "indices", 1), EK_INDEX_I32};
  if (is_array_of(value, py::dtype::of<int64_t>())) return {array_of<int64_t>(value, "indices", 1), EK_INDEX_I64};
  throw py::type_error(text("indices must be a NumPy array of int64 or int32, got ", describe(value)));
}

[[noreturn]] void fail_index(const Indices& indices, int64_t n) {
  py::ssize_t i = 0;
  while (i + 1 < indices.array.size() && indices.at(i) >= 0 && indices.at(i) < n) ++i;
  throw py::index_error(text("indices must be from 0 to ", n - 1, ", got ", indices.at(i)));
}

// dtype: what the rows become, a code of ek_dtype; bfloat16 as bits.
template <const auto& kTable, class Shape>
py::array embedding(const py::object& indices_object, const py::object& packed_object, int dtype,
                    const py::object& isa_object) {
  Indices indices = indices_of(indices_object);
  py::array packed = packed_bytes(packed_object, kTable.maker);
  Shape shape;
  if (kTable.describe(packed.data(), packed.nbytes(), &shape) != EK_OK) {
    throw py::value_error(text("packed (", packed.nbytes(), " bytes) holds no packed ", kTable.name,
                               " matrix of this version, or a truncated one; make it with ", kTable.maker));
  }
  const ek_isa* isa = isa_of(isa_object);
  py::array y(py::dtype(dtype == EK_F32 ? "float32" : dtype == EK_F16 ? "float16" : "uint16"), {indices.array.size(), shape.k});
  void* y_data = y.mutable_data();
  ek_status status = run([&](const ek_parallel* parallel) {
    return kTable.read(isa, packed.data(), packed.nbytes(), indices.array.size(), indices.array.data(), indices.type, y_data,
                       static_cast<ek_dtype>(dtype), shape.k, parallel);
  });
  if (status == EK_ERROR_INDEX) fail_index(indices, shape.n);
  check(status, kTable.op);
  return y;
}

}  // namespace

void bind_embedding(py::module_& core) {
  const py::none none;
  core.def("int8_embedding", embedding<kInt8, ek_int8_shape>, py::arg("indices"), py::arg("packed"), py::arg("dtype") = 0,
           py::arg("isa") = none);
  core.def("int4_embedding", embedding<kInt4, ek_int4_shape>, py::arg("indices"), py::arg("packed"), py::arg("dtype") = 0,
           py::arg("isa") = none);
}

}  // namespace edgekern

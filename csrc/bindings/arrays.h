// NumPy arguments: checks with errors that name the argument, and layouts the library takes.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "status.h"

namespace edgekern {

namespace py = pybind11;

// "float32 array of shape (3, 4)", or the type of what is no array.
inline std::string describe(const py::handle& value) {
  if (!py::isinstance<py::array>(value)) return py::str(py::type::of(value).attr("__name__"));
  return py::str("{} array of shape {}").format(value.attr("dtype"), value.attr("shape"));
}

// A row-major array of `dim` dimensions whose last one is contiguous: the array itself when it is that already, with
// any distance between rows, else a copy. Not checked: dtype.
inline py::array rows_of(const py::array& array) {
  const py::ssize_t item = array.itemsize(), dim = array.ndim();
  bool usable = (py::detail::array_proxy(array.ptr())->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
  if (dim > 0) usable = usable && (array.shape(dim - 1) <= 1 || array.strides(dim - 1) == item);
  if (dim == 2 && array.shape(0) > 1) {
    usable = usable && array.strides(0) % item == 0 && array.strides(0) >= array.shape(1) * item;
  }
  return usable ? array : array.attr("copy")("C").cast<py::array>();
}

inline bool is_array_of(const py::object& value, const py::dtype& dtype) {
  return py::isinstance<py::array>(value) && py::reinterpret_borrow<py::array>(value).dtype().equal(dtype);
}

inline void expect_dim(const py::object& value, const char* name, py::ssize_t dim) {
  if (py::reinterpret_borrow<py::array>(value).ndim() == dim) return;
  throw py::value_error(text(name, " must have ", dim, " dimension", dim == 1 ? "" : "s", ", got ", describe(value)));
}

// `value` as an array of T and `dim` dimensions, rows contiguous.
template <class T>
py::array array_of(const py::object& value, const char* name, py::ssize_t dim) {
  const py::dtype dtype = py::dtype::of<T>();
  if (!is_array_of(value, dtype)) {
    throw py::type_error(text(name, " must be a NumPy array of ", std::string(py::str(dtype)), ", got ", describe(value),
                              "; convert it with numpy.asarray"));
  }
  expect_dim(value, name, dim);
  return rows_of(py::reinterpret_borrow<py::array>(value));
}

// Elements from one row to the next of what rows_of() returned.
inline int64_t leading_dimension(const py::array& matrix) {
  return matrix.shape(0) > 1 ? matrix.strides(0) / matrix.itemsize() : matrix.shape(1);
}

// A float matrix: float32, float16, or bfloat16 as uint16 bits when `dtype` says so.
struct FloatMatrix {
  py::array array;
  ek_dtype dtype;
  int64_t rows, cols, ld;

  const void* data() const { return array.data(); }
};

inline FloatMatrix float_matrix(const py::object& value, const py::object& dtype, const char* name) {
  const bool bits = !dtype.is_none();
  if (bits && !dtype.equal(py::str("bfloat16"))) {
    throw py::value_error(text("dtype must be None or 'bfloat16', got ", std::string(py::repr(dtype))));
  }
  ek_dtype code;
  if (bits && is_array_of(value, py::dtype::of<uint16_t>())) {
    code = EK_BF16;
  } else if (!bits && is_array_of(value, py::dtype("float16"))) {
    code = EK_F16;
  } else if (!bits && is_array_of(value, py::dtype::of<float>())) {
    code = EK_F32;
  } else {
    throw py::type_error(text(name,
                              " must be a NumPy array of float32 or float16, or of bfloat16 bits as uint16 with "
                              "dtype='bfloat16'; got ",
                              describe(value), " and dtype=", std::string(py::repr(dtype))));
  }
  expect_dim(value, name, 2);
  py::array array = rows_of(py::reinterpret_borrow<py::array>(value));
  return {array, code, array.shape(0), array.shape(1), leading_dimension(array)};
}

// The bytes of a packed matrix, as the function `maker` makes them: 1-D, contiguous, 64-byte aligned.
inline py::array packed_bytes(const py::object& value, const char* maker) {
  py::array packed = array_of<uint8_t>(value, "packed", 1);
  const bool aligned = packed.size() == 0 || reinterpret_cast<uintptr_t>(packed.data()) % 64 == 0;
  if (!packed.is(value) || !aligned) {
    throw py::value_error(text("packed must be contiguous and start at a multiple of 64 bytes; ", maker, " makes it so"));
  }
  return packed;
}

}  // namespace edgekern

// Canonical int4 weights as NumPy arrays, checked; f16 scales are float16 arrays.
#pragma once

#include "arrays.h"

namespace edgekern {

inline void expect_group_size(int64_t group_size) {
  if (group_size == 32 || group_size == 64 || group_size == 128) return;
  throw py::value_error(text("group_size must be 32, 64 or 128, got ", group_size));
}

inline int64_t groups_of(int64_t k, int64_t group_size) { return (k + group_size - 1) / group_size; }

// Canonical weights, checked: w [N, ceil(K / 2)], scale and zero [N, groups].
struct Int4Weights {
  py::array w, scale, zero;  // zero: empty when there is none
  int64_t n, k, group_size;
  bool symmetric;

  const uint8_t* w_data() const { return static_cast<const uint8_t*>(w.data()); }
  const uint8_t* zero_data() const { return symmetric ? nullptr : static_cast<const uint8_t*>(zero.data()); }
};

// Contiguous, as the library wants its numbers of groups.
inline py::array group_numbers(py::array numbers, const char* name, int64_t n, int64_t groups) {
  if (numbers.shape(0) != n || numbers.shape(1) != groups) {
    throw py::value_error(
        text(name, " must have shape (", n, ", ", groups, "), one a row of w and group; got ", describe(numbers)));
  }
  return leading_dimension(numbers) == groups ? numbers : numbers.attr("copy")("C").cast<py::array>();
}

inline Int4Weights weights_of(const py::object& w, const py::object& scale, const py::object& zero, int64_t k,
                              int64_t group_size) {
  expect_group_size(group_size);
  Int4Weights out{array_of<uint8_t>(w, "w", 2), {}, {}, 0, k, group_size, zero.is_none()};
  out.n = out.w.shape(0);
  if (k < 0 || out.w.shape(1) != (k + 1) / 2) {
    throw py::value_error(text("w must have ", (k + 1) / 2, " columns for k=", k, ", two weights a byte; got ", describe(w)));
  }
  if (!is_array_of(scale, py::dtype("float16"))) {
    throw py::type_error(text("scale must be a NumPy array of float16, got ", describe(scale)));
  }
  expect_dim(scale, "scale", 2);
  int64_t groups = groups_of(k, group_size);
  out.scale = group_numbers(rows_of(py::reinterpret_borrow<py::array>(scale)), "scale", out.n, groups);
  if (!out.symmetric) out.zero = group_numbers(array_of<uint8_t>(zero, "zero", 2), "zero", out.n, groups);
  return out;
}

}  // namespace edgekern

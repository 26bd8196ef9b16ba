// What every function over NumPy arrays does around its call of the library.
#pragma once

#include "arrays.h"
#include "edgekern/edgekern.h"
#include "status.h"
#include "threads.h"

namespace edgekern {

// Runs call(parallel) without the GIL, on this process's threads.
template <class Call>
ek_status run(Call&& call) {
  py::gil_scoped_release nogil;
  Threads threads;
  ek_status status = call(threads.parallel());
  threads.check();
  return status;
}

inline const ek_isa* isa_of(const py::object& isa) {
  if (isa.is_none()) return isa_named(nullptr);
  if (!py::isinstance<py::str>(isa)) throw py::type_error(text("isa must be a name or None, got ", describe(isa)));
  return isa_named(isa.cast<std::string>().c_str());
}

// packed has k columns.
inline void expect_columns(const char* name, int64_t got, int64_t k) {
  if (got == k) return;
  throw py::value_error(text(name, " must have ", k, " columns (what packed was made for), got ", got));
}

// A bias of n values, or null for None.
inline py::array bias_of(const py::object& bias, int64_t n, const char* rows_of) {
  if (bias.is_none()) return {};
  py::array values = array_of<float>(bias, "bias", 1);
  if (values.size() == n) return values;
  throw py::value_error(text("bias must have ", n, " values, one a row of ", rows_of, "; got ", values.size()));
}

}  // namespace edgekern

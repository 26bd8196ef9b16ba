// The Python module edgekern._core: CPU, ISAs, threads, and the formats' functions.
#include <pybind11/stl.h>

#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "arrays.h"
#include "conv2d.h"
#include "edgekern/edgekern.h"
#include "embedding.h"
#include "floats.h"
#include "int4.h"
#include "int8.h"
#include "mixed.h"
#include "status.h"
#include "threads.h"
#include "torch_ops.h"
#include "torch_shim.h"

namespace edgekern {
namespace {

std::vector<std::string> words(const char* names) {
  std::istringstream stream(names);
  return {std::istream_iterator<std::string>(stream), {}};
}

std::vector<py::dict> isas() {
  std::vector<py::dict> rows;
  for (size_t i = 0; i < ek_isa_count(); ++i) {
    const ek_isa* isa = ek_isa_at(i);
    char missing[256];
    ek_isa_missing(isa, missing, sizeof missing);
    py::dict row;
    row["name"] = ek_isa_name(isa);
    row["supported"] = ek_isa_supported(isa) != 0;
    row["missing"] = words(missing);
    rows.push_back(row);
  }
  return rows;
}

py::dict cpu() {
  char features[1024];
  ek_cpu_features(features, sizeof features);
  py::dict row;
  row["name"] = ek_cpu_name();
  row["features"] = words(features);
  return row;
}

int64_t peak_int8_macs(const std::string& isa, int64_t steps) {
  if (steps < 1) throw py::value_error(text("steps must be at least 1, got ", steps));
  const ek_isa* row = isa_named(isa.c_str());
  py::gil_scoped_release nogil;
  return ek_peak_int8_macs(row, steps);
}

uint64_t stream_read(const std::string& isa, const py::object& data) {
  py::array bytes = array_of<uint8_t>(data, "data", 1);
  const ek_isa* row = isa_named(isa.c_str());
  py::gil_scoped_release nogil;
  return ek_stream_read(row, bytes.data(), static_cast<size_t>(bytes.nbytes()));
}

void set_threads(int n) {
  if (n < 1) throw py::value_error(text("num_threads must be at least 1, got ", n));
  set_num_threads(n);
}

// The symbols register_torch_ops takes: name -> whether torch must have it.
py::dict torch_symbols() {
  py::dict symbols;
  TorchShim shim{};
  for_each_torch_symbol(shim, [&](const char* name, auto&, bool required) { symbols[name] = required; });
  return symbols;
}

}  // namespace
}  // namespace edgekern

PYBIND11_MODULE(_core, core) {
  namespace py = pybind11;
  core.doc() = "edgekern's native kernels. Private: use edgekern.kernels and edgekern.ops.";
  core.attr("version") = ek_version();
  core.def("isas", edgekern::isas);
  core.def("default_isa", [] { return ek_isa_name(edgekern::isa_named(nullptr)); });
  core.def("cpu", edgekern::cpu);
  core.def("num_threads", edgekern::num_threads);
  core.def("set_num_threads", edgekern::set_threads, py::arg("n"));
  core.def("after_fork_in_child", edgekern::after_fork_in_child);
  core.def("peak_int8_macs", edgekern::peak_int8_macs, py::arg("isa"), py::arg("steps"));
  core.def("stream_read", edgekern::stream_read, py::arg("isa"), py::arg("data"));
  core.def("torch_symbols", edgekern::torch_symbols);
  core.def("register_torch_ops", edgekern::register_torch_ops, py::arg("symbols"));
  edgekern::bind_int8(core);
  edgekern::bind_int4(core);
  edgekern::bind_floats(core);
  edgekern::bind_embedding(core);
  edgekern::bind_conv2d(core);
  edgekern::bind_int4_conv2d(core);
  edgekern::bind_f32_conv2d(core);
  edgekern::bind_mixed(core);
}

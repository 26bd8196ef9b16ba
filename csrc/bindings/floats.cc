// f32 and f16 weights with zeros over NumPy arrays; see int8.cc for what is checked where.
#include "floats.h"

#include "calls.h"
#include "workspace.h"

namespace edgekern {
namespace {

// The functions of one format; they take the same arguments in both.
struct FloatFormat {
  const char *name, *maker;
  decltype(&ek_f32_packed_size) packed_size;
  decltype(&ek_f32_pack) pack;
  decltype(&ek_f32_describe) describe;
  decltype(&ek_f32_unpack) unpack;
  decltype(&ek_f32_workspace_size) workspace_size;
  decltype(&ek_f32_linear) linear;
};
constexpr FloatFormat kF32{
    "f32", "f32_pack", ek_f32_packed_size, ek_f32_pack, ek_f32_describe, ek_f32_unpack, ek_f32_workspace_size, ek_f32_linear,
};
constexpr FloatFormat kF16{
    "f16", "f16_pack", ek_f16_packed_size, ek_f16_pack, ek_f16_describe, ek_f16_unpack, ek_f16_workspace_size, ek_f16_linear,
};

ek_f32_shape shape_of(const FloatFormat& format, const py::array& packed) {
  ek_f32_shape shape;
  if (format.describe(packed.data(), packed.nbytes(), &shape) != EK_OK) {
    throw py::value_error(text("packed (", packed.nbytes(), " bytes) holds no packed ", format.name,
                               " matrix of this version, or a truncated one; make it with ", format.maker));
  }
  return shape;
}

size_t size_of(const FloatFormat& format, const FloatMatrix& w, int64_t channels) {
  size_t size = 0;
  ek_status status = run([&](const ek_parallel* parallel) {
    size = format.packed_size(channels, w.rows, w.cols, w.data(), w.dtype, w.ld, parallel);
    return size == 0 ? EK_ERROR_SHAPE : EK_OK;
  });
  check(status, format.maker);
  return size;
}

template <const FloatFormat& kFormat>
size_t packed_size(const py::object& weight, int64_t channels, const py::object& dtype) {
  expect_channels(channels);
  return size_of(kFormat, float_matrix(weight, dtype, "weight"), channels);
}

template <const FloatFormat& kFormat>
void pack(const py::object& weight, const py::object& bias_object, const py::object& out, int64_t channels,
          const py::object& dtype) {
  expect_channels(channels);
  FloatMatrix w = float_matrix(weight, dtype, "weight");
  py::array bias = bias_of(bias_object, w.rows, "weight"), packed = packed_bytes(out, kFormat.maker);
  const float* bias_data = bias_object.is_none() ? nullptr : static_cast<const float*>(bias.data());
  void* packed_data = packed.mutable_data();
  ek_status status = run([&](const ek_parallel* parallel) {
    return kFormat.pack(channels, w.rows, w.cols, w.data(), w.dtype, w.ld, bias_data, packed_data,
                        static_cast<size_t>(packed.nbytes()), parallel);
  });
  if (status == EK_ERROR_PACKED) {
    throw py::value_error(text("out must have the ", size_of(kFormat, w, channels), " bytes of ", kFormat.name,
                               "_packed_size, got ", packed.nbytes()));
  }
  if (status == EK_ERROR_VALUE) throw py::value_error("weight and bias must be finite, got NaN or Inf");
  check(status, kFormat.maker);
}

template <const FloatFormat& kFormat>
py::tuple describe_packed(const py::object& packed) {
  ek_f32_shape shape = shape_of(kFormat, packed_bytes(packed, kFormat.maker));
  return py::make_tuple(shape.n, shape.k, shape.has_bias != 0, shape.channels, shape.blocks);
}

template <const FloatFormat& kFormat>
py::tuple unpack(const py::object& packed_object) {
  py::array packed = packed_bytes(packed_object, kFormat.maker);
  ek_f32_shape shape = shape_of(kFormat, packed);
  py::array_t<float> weight({shape.n, shape.k}), bias(shape.n);
  float *weight_data = weight.mutable_data(), *bias_data = shape.has_bias ? bias.mutable_data() : nullptr;
  check(run([&](const ek_parallel* parallel) {
          return kFormat.unpack(packed.data(), packed.nbytes(), weight_data, shape.k, bias_data, parallel);
        }),
        kFormat.name);
  return py::make_tuple(weight, shape.has_bias ? py::object(bias) : py::none());
}

template <const FloatFormat& kFormat>
py::array linear(const py::object& x, const py::object& packed_object, int activation, const py::object& isa_object,
                 const py::object& dtype) {
  FloatMatrix lhs = float_matrix(x, dtype, "x");
  py::array packed = packed_bytes(packed_object, kFormat.maker);
  ek_f32_shape shape = shape_of(kFormat, packed);
  expect_columns("x", lhs.cols, shape.k);
  const ek_isa* isa = isa_of(isa_object);
  py::array y(lhs.array.dtype(), {lhs.rows, shape.n});
  void* y_data = y.mutable_data();
  check(run([&](const ek_parallel* parallel) {
          Workspace workspace(kFormat.workspace_size(isa, shape.channels, lhs.rows, lhs.cols));
          return kFormat.linear(isa, packed.data(), packed.nbytes(), lhs.rows, lhs.data(), lhs.dtype, lhs.ld, y_data, shape.n,
                                static_cast<ek_activation>(activation), workspace.data(), workspace.size(), parallel);
        }),
        kFormat.name);
  return y;
}

template <const FloatFormat& kFormat>
void bind(py::module_& core) {
  const py::none none;
  const std::string name = kFormat.name;
  core.def((name + "_packed_size").c_str(), packed_size<kFormat>, py::arg("weight"), py::arg("channels"),
           py::arg("dtype") = none);
  core.def((name + "_pack").c_str(), pack<kFormat>, py::arg("weight"), py::arg("bias"), py::arg("out"), py::arg("channels"),
           py::arg("dtype") = none);
  core.def((name + "_describe").c_str(), describe_packed<kFormat>, py::arg("packed"));
  core.def((name + "_unpack").c_str(), unpack<kFormat>, py::arg("packed"));
  core.def((name + "_linear").c_str(), linear<kFormat>, py::arg("x"), py::arg("packed"), py::arg("activation"),
           py::arg("isa") = none, py::arg("dtype") = none);
}

}  // namespace

void bind_floats(py::module_& core) {
  bind<kF32>(core);
  bind<kF16>(core);
  core.def(
      "f16_halves", [](const py::object& isa) { return ek_f16_halves(isa_of(isa)) != 0; }, py::arg("isa") = py::none());
}

}  // namespace edgekern

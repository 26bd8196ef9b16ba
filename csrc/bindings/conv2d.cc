// Packing of int8 convolutions over NumPy arrays; edgekern/ops documents them.
#include "conv2d.h"

#include "calls.h"

namespace edgekern {
namespace {

// q [out][in / groups][kh][kw] as the library reads it, [out][kh][kw][in / groups].
struct Filters {
  py::array q;
  ek_conv2d_shape shape;

  const int8_t* data() const { return static_cast<const int8_t*>(q.data()); }
};

Filters filters_of(const py::object& q_object, int64_t groups) {
  py::array q = array_of<int8_t>(q_object, "q", 4);
  if (groups < 1) throw py::value_error(text("groups must be at least 1, got ", groups));
  Filters filters{q.attr("transpose")(0, 2, 3, 1).attr("copy")("C").cast<py::array>(),
                  {q.shape(0), q.shape(1) * groups, groups, q.shape(2), q.shape(3)}};
  if (q.shape(0) % groups != 0) {
    throw py::value_error(
        text("groups must divide the ", q.shape(0), " output channels of q, got ", groups, "; q is ", describe(q)));
  }
  return filters;
}

size_t packed_size(const py::object& q, int64_t groups, int form, const py::object& isa_object) {
  Filters filters = filters_of(q, groups);
  const ek_isa* isa = isa_of(isa_object);
  size_t size = 0;
  ek_status status = run([&](const ek_parallel* parallel) {
    size = ek_int8_conv2d_packed_size(isa, static_cast<ek_int8_form>(form), &filters.shape, filters.data(), parallel);
    return size == 0 ? EK_ERROR_FORM : EK_OK;
  });
  check(status, "int8_conv2d_packed_size");
  return size;
}

// Bytes in the dense form, from sizes alone.
size_t dense_packed_size(int64_t out_channels, int64_t in_channels, int64_t groups, int64_t kernel_h, int64_t kernel_w,
                         const py::object& isa) {
  const ek_conv2d_shape shape{out_channels, in_channels, groups, kernel_h, kernel_w};
  size_t size = ek_int8_conv2d_packed_size(isa_of(isa), EK_INT8_DENSE, &shape, nullptr, nullptr);
  if (size > 0) return size;
  throw py::value_error(text("a convolution of ", in_channels, " channels in, ", out_channels, " out, ", groups, " groups, ",
                             kernel_h, " x ", kernel_w,
                             " cannot be packed: at least 1 each, groups that divide both, and at "
                             "most 2^24 weights a channel"));
}

void pack(const py::object& q, const py::object& scale_object, const py::object& bias_object, const py::object& out,
          int64_t groups, int form, const py::object& isa_object) {
  Filters filters = filters_of(q, groups);
  py::array scale = array_of<float>(scale_object, "scale", 1);
  const int64_t n = filters.shape.out_channels;
  if (scale.size() != n) throw py::value_error(text("scale must have ", n, " values, one a row of q; got ", scale.size()));
  py::array bias = bias_of(bias_object, n, "q"), packed = packed_bytes(out, "int8_conv2d_pack");
  const ek_isa* isa = isa_of(isa_object);
  const float* bias_data = bias_object.is_none() ? nullptr : static_cast<const float*>(bias.data());
  ek_status status = run([&](const ek_parallel* parallel) {
    return ek_int8_conv2d_pack(isa, static_cast<ek_int8_form>(form), &filters.shape, filters.data(),
                               static_cast<const float*>(scale.data()), bias_data, packed.mutable_data(),
                               static_cast<size_t>(packed.nbytes()), parallel);
  });
  if (status == EK_ERROR_PACKED) {
    throw py::value_error(text("out must have the ", packed_size(q, groups, form, isa_object),
                               " bytes of int8_conv2d_packed_size, got ", packed.nbytes()));
  }
  if (status == EK_ERROR_VALUE) throw py::value_error("scale and bias must be finite, got NaN or Inf");
  check(status, "int8_conv2d_pack");
}

ek_int8_conv2d_packed described(const py::array& packed) {
  ek_int8_conv2d_packed layer;
  if (ek_int8_conv2d_describe(packed.data(), static_cast<size_t>(packed.nbytes()), &layer) != EK_OK) {
    throw py::value_error(text("packed (", packed.nbytes(),
                               " bytes) holds no packed int8 convolution of this version, or a truncated one; make it with "
                               "int8_conv2d_pack"));
  }
  return layer;
}

py::dict describe_packed(const py::object& packed_object) {
  ek_int8_conv2d_packed layer = described(packed_bytes(packed_object, "int8_conv2d_pack"));
  py::dict row;
  row["out_channels"] = layer.shape.out_channels;
  row["in_channels"] = layer.shape.in_channels;
  row["groups"] = layer.shape.groups;
  row["kernel_size"] = py::make_tuple(layer.shape.kernel_h, layer.shape.kernel_w);
  row["has_bias"] = layer.has_bias != 0;
  row["depthwise"] = layer.depthwise != 0;
  row["form"] = static_cast<int>(layer.form);
  return row;
}

py::tuple unpack(const py::object& packed_object) {
  py::array packed = packed_bytes(packed_object, "int8_conv2d_pack");
  ek_int8_conv2d_packed layer = described(packed);
  const ek_conv2d_shape& shape = layer.shape;
  py::array_t<int8_t> q({shape.out_channels, shape.kernel_h, shape.kernel_w, shape.in_channels / shape.groups});
  py::array_t<float> scale(shape.out_channels), bias(shape.out_channels);
  int8_t* q_data = q.mutable_data();
  float *scale_data = scale.mutable_data(), *bias_data = layer.has_bias ? bias.mutable_data() : nullptr;
  check(run([&](const ek_parallel* parallel) {
          return ek_int8_conv2d_unpack(packed.data(), static_cast<size_t>(packed.nbytes()), q_data, scale_data, bias_data,
                                       parallel);
        }),
        "int8_conv2d_unpack");
  return py::make_tuple(q.attr("transpose")(0, 3, 1, 2).attr("copy")("C"), scale,
                        layer.has_bias ? py::object(bias) : py::none());
}

}  // namespace

void bind_conv2d(py::module_& core) {
  const py::none none;
  core.def("int8_conv2d_packed_size", packed_size, py::arg("q"), py::arg("groups") = 1, py::arg("form") = 0,
           py::arg("isa") = none);
  core.def("int8_conv2d_dense_packed_size", dense_packed_size, py::arg("out_channels"), py::arg("in_channels"),
           py::arg("groups"), py::arg("kernel_h"), py::arg("kernel_w"), py::arg("isa") = none);
  core.def("int8_conv2d_pack", pack, py::arg("q"), py::arg("scale"), py::arg("bias"), py::arg("out"), py::arg("groups") = 1,
           py::arg("form") = 0, py::arg("isa") = none);
  core.def("int8_conv2d_describe", describe_packed, py::arg("packed"));
  core.def("int8_conv2d_unpack", unpack, py::arg("packed"));
}

}  // namespace edgekern

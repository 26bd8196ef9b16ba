// The torch ops edgekern::*_linear, one a format and kind of activations, and int8_linear_2, _3, int4_linear_2, _3 of several
// layers that read the same x: check their tensors, lend the library torch's memory and threads, make y.
#include "torch_linear.h"

#include "threads.h"
#include "workspace.h"

namespace edgekern {
namespace {

// A format whose layers run one by one, behind the same signature.
template <auto kLinear>
ek_status one_by_one(const ek_isa* isa, const ek_part* parts, int64_t count, int64_t m, const void* lhs, ek_dtype dtype,
                     int64_t ld_lhs, ek_activation activation, void* workspace, size_t workspace_size,
                     const ek_parallel* parallel) {
  ek_status status = EK_OK;
  for (int64_t i = 0; i < count && status == EK_OK; ++i)
    status = kLinear(isa, parts[i].packed, parts[i].packed_size, m, lhs, dtype, ld_lhs, parts[i].y, parts[i].ld_y, activation,
                     workspace, workspace_size, parallel);
  return status;
}

size_t int8_workspace(int64_t form, int64_t m, int64_t k) {
  return ek_int8_workspace_size(nullptr, static_cast<ek_int8_form>(form), m, k);
}
size_t int4_workspace(int64_t, int64_t m, int64_t k) { return ek_int4_workspace_size(nullptr, m, k); }

// Packed matrices of int8 and int4 by activations that stay floats.
template <auto kWorkspaceSize>
size_t mixed_workspace(int64_t, int64_t m, int64_t k) {
  return kWorkspaceSize(nullptr, m, k);
}

template <auto kDescribe>
ek_status describe_floats(const void* packed, size_t size, Shape* shape) {
  ek_f32_shape found;
  ek_status status = kDescribe(packed, size, &found);
  if (status == EK_OK) *shape = {found.n, found.k, found.channels};
  return status;
}
template <auto kWorkspaceSize>
size_t floats_workspace(int64_t channels, int64_t m, int64_t k) {
  return kWorkspaceSize(nullptr, channels, m, k);
}

// True when x's memory is a matrix as it stands: rows contiguous, not overlapping, evenly spaced.
bool is_matrix(const View& x, Rows* rows) {
  const int64_t k = x.sizes[x.dim - 1];
  *rows = {1, k};
  if (k > 1 && x.strides[x.dim - 1] != 1) return false;
  for (int64_t d = x.dim - 2; d >= 0; --d) {
    if (x.sizes[d] == 1) continue;  // its stride means nothing
    if (rows->m == 1) {
      rows->ld = x.strides[d];
    } else if (x.strides[d] != rows->ld * rows->m) {
      return false;
    }
    rows->m *= x.sizes[d];
  }
  return rows->ld >= k;
}

}  // namespace

const LinearFormat linear_formats[kLinearFormats] = {
    {{"int8", "int8_linear", "int8_pack", describe_int8}, int8_workspace, ek_int8_linears},
    {{"int4", "int4_linear", "int4_pack", describe_int4}, int4_workspace, ek_int4_linears},
    {{"int8", "int8_float_linear", "int8_pack", describe_int8},
     mixed_workspace<ek_int8_float_workspace_size>,
     one_by_one<ek_int8_float_linear>},
    {{"int4", "int4_float_linear", "int4_pack", describe_int4},
     mixed_workspace<ek_int4_float_workspace_size>,
     one_by_one<ek_int4_float_linear>},
    {{"f32", "f32_linear", "f32_pack", describe_floats<ek_f32_describe>},
     floats_workspace<ek_f32_workspace_size>,
     one_by_one<ek_f32_linear>},
    {{"f16", "f16_linear", "f16_pack", describe_floats<ek_f16_describe>},
     floats_workspace<ek_f16_workspace_size>,
     one_by_one<ek_f16_linear>},
};

TensorHandle empty_like_rows(const View& x, int64_t last) {
  int64_t sizes[kMaxDim];
  for (int64_t d = 0; d < x.dim; ++d) sizes[d] = d == x.dim - 1 ? last : x.sizes[d];
  return empty_tensor(x.dim, sizes, x.dtype);
}

int64_t count_rows(const Packing& packing, const View& x) {
  if (x.dim == 0) fail(packing, "x must have at least one dimension, got a scalar");
  if (x.dim > kMaxDim) fail(packing, text("x has ", x.dim, " dimensions, at most ", kMaxDim, " are possible"));
  int64_t m = 1;
  for (int64_t d = 0; d < x.dim - 1; ++d) m *= x.sizes[d];
  return m;
}

TensorHandle fold_rows(TensorHandle x, const View& view, Rows* rows) {
  if (is_matrix(view, rows)) return x;
  const int64_t k = view.sizes[view.dim - 1];
  TensorHandle contiguous = empty_like_rows(view, k);
  check_torch(torch_shim.copy(contiguous.get(), x.get(), 0), "copy x");
  *rows = {1, k};
  for (int64_t d = 0; d < view.dim - 1; ++d) rows->m *= view.sizes[d];
  return contiguous;
}

OpenedLayer open_layer(const LinearFormat& format, const TensorHandle& packed, int64_t m, size_t* workspace_size) {
  const View view(packed);
  const std::byte* weights = data_of(packed);
  const Shape shape = describe(format, view, weights);
  const size_t needed = format.workspace_size(shape.variant, m, shape.k);
  if (needed > *workspace_size) *workspace_size = needed;
  return {{weights, static_cast<size_t>(view.sizes[0]), nullptr, shape.n}, shape};
}

void expect_features(const Packing& packing, const View& x, int64_t k) {
  if (x.sizes[x.dim - 1] == k) return;
  fail(packing, text("x must end in ", k, " features (what packed was made for), got shape ", x.shape()));
}

namespace {

// One layer of a call: its matrix, and then its result.
struct Layer {
  TensorHandle packed;
  int64_t out_features;
  TensorHandle y;
};

void linear(const LinearFormat& format, TensorHandle x, Layer* layers, int64_t count, int64_t activation) {
  const View view(x);
  const ek_dtype dtype = library_dtype(format, view.dtype);
  const int64_t m = count_rows(format, view);
  ek_part parts[EK_MAX_PARTS];
  size_t workspace_size = 0;
  for (int64_t i = 0; i < count; ++i) {
    const OpenedLayer opened = open_layer(format, layers[i].packed, m, &workspace_size);
    expect_features(format, view, opened.shape.k);
    if (layers[i].out_features != opened.shape.n)
      fail(format, text("out_features must be ", opened.shape.n, " as in packed, got ", layers[i].out_features));
    parts[i] = opened.part;
  }
  expect_activation(format, activation);
  expect_no_gradient(format, x);

  for (int64_t i = 0; i < count; ++i) {
    layers[i].y = empty_like_rows(view, layers[i].out_features);
    parts[i].y = data_of(layers[i].y);
  }
  if (m == 0) return;
  Rows rows;
  const TensorHandle matrix = fold_rows(std::move(x), view, &rows);
  Workspace workspace(workspace_size);
  Threads threads;
  check(format.linears(nullptr, parts, count, m, data_of(matrix), dtype, rows.ld, static_cast<ek_activation>(activation),
                       workspace.data(), workspace.size(), threads.parallel()),
        format.op);
  threads.check();
}

// (x, kCount packed, kCount out_features, activation) -> kCount y
template <int kFormat, int kCount>
void linear_cpu(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle x(stack[0]);
  Layer layers[kCount];
  for (int i = 0; i < kCount; ++i)
    layers[i] = {TensorHandle(stack[1 + i]), static_cast<int64_t>(stack[1 + kCount + i]), TensorHandle()};
  linear(linear_formats[kFormat], std::move(x), layers, kCount, static_cast<int64_t>(stack[1 + 2 * kCount]));
  for (int i = 0; i < kCount; ++i) stack[i] = reinterpret_cast<StableIValue>(layers[i].y.release());
}

// For every device and layout without a kernel of its own.
template <int kFormat, int kCount>
void linear_elsewhere(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle tensors[1 + kCount];
  for (int i = 0; i <= kCount; ++i) tensors[i] = TensorHandle(stack[i]);
  fail_elsewhere(linear_formats[kFormat]);
}

template <int kFormat, int kCount = 1>
void define_linear(TorchLibrary* fragment) {
  std::string name = linear_formats[kFormat].op, arguments = "(Tensor x, Tensor packed, SymInt out_features, int activation)",
              result = "Tensor";
  if (kCount > 1) {
    name += text("_", kCount);
    std::string matrices, sizes, results;
    for (int i = 0; i < kCount; ++i) {
      matrices += text(", Tensor packed_", i);
      sizes += text(", SymInt out_features_", i);
      results += text(i == 0 ? "" : ", ", "Tensor");
    }
    arguments = text("(Tensor x", matrices, sizes, ", int activation)");
    result = text("(", results, ")");
  }
  define_op(fragment, name.c_str(), text(name, arguments, " -> ", result), linear_cpu<kFormat, kCount>,
            linear_elsewhere<kFormat, kCount>);
}

template <int... kFormats>
void define_each(TorchLibrary* fragment, std::integer_sequence<int, kFormats...>) {
  (define_linear<kFormats>(fragment), ...);
}

}  // namespace

void define_linears(TorchLibrary* fragment) {
  define_each(fragment, std::make_integer_sequence<int, kLinearFormats>());
  define_linear<kInt8Linear, 2>(fragment);
  define_linear<kInt8Linear, 3>(fragment);
  define_linear<kInt4Linear, 2>(fragment);
  define_linear<kInt4Linear, 3>(fragment);
}

}  // namespace edgekern

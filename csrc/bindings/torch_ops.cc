// The torch ops edgekern::*_linear, one a format and kind of activations, and int8_linear_2, _3, int4_linear_2, _3 of several
// layers that read the same x: check their tensors, lend the library torch's memory and threads, make y. Those of embeddings are
// in torch_embedding.cc, that of convolutions in torch_conv2d.cc.
#include "torch_ops.h"

#include "edgekern/edgekern.h"
#include "status.h"
#include "threads.h"
#include "torch_tensors.h"
#include "workspace.h"

namespace edgekern {

TorchShim torch_shim{};
TorchCodes torch_codes{};

ek_status describe_int8(const void* packed, size_t size, Shape* shape) {
  ek_int8_shape found;
  ek_status status = ek_int8_describe(packed, size, &found);
  if (status == EK_OK) *shape = {found.n, found.k, found.form};
  return status;
}
ek_status describe_int4(const void* packed, size_t size, Shape* shape) {
  ek_int4_shape found;
  ek_status status = ek_int4_describe(packed, size, &found);
  if (status == EK_OK) *shape = {found.n, found.k, found.form};
  return status;
}

void expect_packed_bytes(const Packing& packing, const View& packed, const std::byte* data) {
  if (packed.dtype != torch_codes.uint8 || packed.dim != 1 || (packed.sizes[0] > 1 && packed.strides[0] != 1)) {
    fail(packing, text("packed must be a contiguous 1-D uint8 tensor from edgekern.ops.", packing.pack,
                       ", got c10::ScalarType ", packed.dtype, " of shape ", packed.shape()));
  }
  if (packed.sizes[0] == 0) fail(packing, "packed is empty: the layer has no weights yet; load_state_dict() brings them");
  if (reinterpret_cast<uintptr_t>(data) % kPackedAlignment != 0) {
    fail(packing, "packed must start at a multiple of 64 bytes; packed.clone() does");
  }
}

Shape describe(const Packing& packing, const View& packed, const std::byte* data) {
  expect_packed_bytes(packing, packed, data);
  Shape shape;
  if (packing.describe(data, static_cast<size_t>(packed.sizes[0]), &shape) != EK_OK) {
    fail(packing, text("packed (", packed.sizes[0], " bytes) holds no packed ", packing.name,
                       " matrix of this version, or a truncated one; make it with edgekern.ops.", packing.pack));
  }
  return shape;
}

namespace {

// The stable C ABI cannot ask requires_grad. But an alias made in grad mode is a leaf exactly when its base needs no
// gradient, and both aten ops can be called by name. About 1.5 us, paid in grad mode alone.
bool records_gradient(const TensorHandle& x) {
  if (!torch_shim.grad_enabled()) return false;
  TorchTensor* handle = nullptr;
  check_torch(torch_shim.new_handle(x.get(), &handle), "copy a tensor handle");
  StableIValue stack[1] = {reinterpret_cast<StableIValue>(handle)};
  check_torch(torch_shim.call("aten::alias", "", stack), "call aten::alias");
  check_torch(torch_shim.call("aten::is_leaf", "", stack), "call aten::is_leaf");
  return static_cast<uint8_t>(stack[0]) == 0;  // a bool fills the lowest byte
}

}  // namespace

ek_dtype library_dtype(const Packing& packing, int32_t dtype) {
  if (dtype == torch_codes.float32) return EK_F32;
  if (dtype == torch_codes.bfloat16) return EK_BF16;
  if (dtype == torch_codes.float16) return EK_F16;
  fail(packing, text("x must be float32, bfloat16 or float16, got c10::ScalarType ", dtype, "; convert it with x.float()"));
}

void expect_activation(const Packing& packing, int64_t activation) {
  if (activation >= EK_NONE && activation <= EK_HARDSWISH) return;
  fail(packing, text("activation must be a code of edgekern.ops.ACTIVATIONS (0 to ", int{EK_HARDSWISH}, "), got ", activation));
}

void expect_no_gradient(const Packing& packing, const TensorHandle& x) {
  if (!records_gradient(x)) return;
  throw std::invalid_argument(text("edgekern.", packing.op,
                                   " has no backward, and x requires grad: wrap the call in torch.inference_mode() or "
                                   "torch.no_grad() for inference, or call edgekern.dense_(model) to train"));
}

void fail_elsewhere(const Packing& packing) {
  fail(packing,
       "x and packed must be dense CPU tensors; move the model with model.cpu() and the input with x.cpu(), or call "
       "edgekern.dense_(model) to run elsewhere");
}

namespace {

// What a number format brings to its linear op.
struct Format : Packing {
  size_t (*workspace_size)(int64_t variant, int64_t m, int64_t k);
  decltype(&ek_int8_linears) linears;
};

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
constexpr Format kInt8{{"int8", "int8_linear", "int8_pack", describe_int8}, int8_workspace, ek_int8_linears};

size_t int4_workspace(int64_t, int64_t m, int64_t k) { return ek_int4_workspace_size(nullptr, m, k); }
constexpr Format kInt4{{"int4", "int4_linear", "int4_pack", describe_int4}, int4_workspace, ek_int4_linears};

// The same packed matrices by activations that stay floats.
template <auto kWorkspaceSize>
size_t mixed_workspace(int64_t, int64_t m, int64_t k) {
  return kWorkspaceSize(nullptr, m, k);
}
constexpr Format kInt8Float{{"int8", "int8_float_linear", "int8_pack", describe_int8},
                            mixed_workspace<ek_int8_float_workspace_size>,
                            one_by_one<ek_int8_float_linear>};
constexpr Format kInt4Float{{"int4", "int4_float_linear", "int4_pack", describe_int4},
                            mixed_workspace<ek_int4_float_workspace_size>,
                            one_by_one<ek_int4_float_linear>};

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
constexpr Format kF32{{"f32", "f32_linear", "f32_pack", describe_floats<ek_f32_describe>},
                      floats_workspace<ek_f32_workspace_size>,
                      one_by_one<ek_f32_linear>};
constexpr Format kF16{{"f16", "f16_linear", "f16_pack", describe_floats<ek_f16_describe>},
                      floats_workspace<ek_f16_workspace_size>,
                      one_by_one<ek_f16_linear>};

// A new contiguous CPU tensor of x's shape with `last` in place of its last size.
TensorHandle empty_like_rows(const View& x, int64_t last) {
  int64_t sizes[kMaxDim];
  for (int64_t d = 0; d < x.dim; ++d) sizes[d] = d == x.dim - 1 ? last : x.sizes[d];
  return empty_tensor(x.dim, sizes, x.dtype);
}

// x as a matrix: all dims but the last folded into m rows, ld elements apart.
struct Rows {
  int64_t m, ld;
};

int64_t count_rows(const View& x) {
  int64_t m = 1;
  for (int64_t d = 0; d < x.dim - 1; ++d) m *= x.sizes[d];
  return m;
}

// True when x's memory is such a matrix as it stands: rows contiguous, not overlapping, evenly spaced.
bool fold_rows(const View& x, Rows* rows) {
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

// One layer of a call: its matrix, and then its result.
struct Layer {
  TensorHandle packed;
  int64_t out_features;
  TensorHandle y;
};

// Checks a layer's matrix and says where it lies; *workspace_size grows to what it needs.
ek_part open_layer(const Format& format, const View& x, int64_t m, const Layer& layer, size_t* workspace_size) {
  const View packed(layer.packed);
  const std::byte* weights = data_of(layer.packed);
  const Shape shape = describe(format, packed, weights);
  if (x.sizes[x.dim - 1] != shape.k) {
    fail(format, text("x must end in ", shape.k, " features (what packed was made for), got shape ", x.shape()));
  }
  if (layer.out_features != shape.n)
    fail(format, text("out_features must be ", shape.n, " as in packed, got ", layer.out_features));
  const size_t needed = format.workspace_size(shape.variant, m, shape.k);
  if (needed > *workspace_size) *workspace_size = needed;
  return {weights, static_cast<size_t>(packed.sizes[0]), nullptr, shape.n};
}

void linear(const Format& format, TensorHandle x, Layer* layers, int64_t count, int64_t activation) {
  const View view(x);
  const ek_dtype dtype = library_dtype(format, view.dtype);
  if (view.dim == 0) fail(format, "x must have at least one dimension, got a scalar");
  if (view.dim > kMaxDim) fail(format, text("x has ", view.dim, " dimensions, at most ", kMaxDim, " are possible"));
  const int64_t m = count_rows(view), k = view.sizes[view.dim - 1];
  ek_part parts[EK_MAX_PARTS];
  size_t workspace_size = 0;
  for (int64_t i = 0; i < count; ++i) parts[i] = open_layer(format, view, m, layers[i], &workspace_size);
  expect_activation(format, activation);
  expect_no_gradient(format, x);

  for (int64_t i = 0; i < count; ++i) {
    layers[i].y = empty_like_rows(view, layers[i].out_features);
    parts[i].y = data_of(layers[i].y);
  }
  if (m == 0) return;
  Rows rows;
  if (!fold_rows(view, &rows)) {
    TensorHandle contiguous = empty_like_rows(view, k);
    check_torch(torch_shim.copy(contiguous.get(), x.get(), 0), "copy x");
    x = std::move(contiguous);
    rows = {m, k};
  }
  Workspace workspace(workspace_size);
  Threads threads;
  check(format.linears(nullptr, parts, count, m, data_of(x), dtype, rows.ld, static_cast<ek_activation>(activation),
                       workspace.data(), workspace.size(), threads.parallel()),
        format.op);
  threads.check();
}

// (x, kCount packed, kCount out_features, activation) -> kCount y
template <const Format& kFormat, int kCount>
void linear_cpu(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle x(stack[0]);
  Layer layers[kCount];
  for (int i = 0; i < kCount; ++i)
    layers[i] = {TensorHandle(stack[1 + i]), static_cast<int64_t>(stack[1 + kCount + i]), TensorHandle()};
  linear(kFormat, std::move(x), layers, kCount, static_cast<int64_t>(stack[1 + 2 * kCount]));
  for (int i = 0; i < kCount; ++i) stack[i] = reinterpret_cast<StableIValue>(layers[i].y.release());
}

// For every device and layout without a kernel of its own.
template <const Format& kFormat, int kCount>
void linear_elsewhere(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle tensors[1 + kCount];
  for (int i = 0; i <= kCount; ++i) tensors[i] = TensorHandle(stack[i]);
  fail_elsewhere(kFormat);
}

template <const Format& kFormat, int kCount = 1>
void define_linear(TorchLibrary* fragment) {
  std::string name = kFormat.op, arguments = "(Tensor x, Tensor packed, SymInt out_features, int activation)",
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

// Libraries are never deleted: that would take the ops out of the dispatcher.
TorchLibrary* implementation_library(const char* key) {
  TorchLibrary* library = nullptr;
  check_torch(torch_shim.library_implementation("edgekern", key, "edgekern", 0, &library), "open a library");
  return library;
}

}  // namespace

void define_op(TorchLibrary* fragment, const char* op, const std::string& schema, BoxedKernel cpu, BoxedKernel elsewhere) {
  check_torch(torch_shim.define(fragment, schema.c_str()), "define an op");
  check_torch(torch_shim.implement(implementation_library("CPU"), op, cpu), "implement an op for the CPU");
  check_torch(torch_shim.implement(implementation_library("CompositeExplicitAutograd"), op, elsewhere),
              "implement an op for other devices");
}

void register_torch_ops(const std::unordered_map<std::string, uintptr_t>& symbols) {
  if (torch_shim.define != nullptr) throw std::logic_error("edgekern: the torch ops are already registered");
  TorchShim shim{};
  for_each_torch_symbol(shim, [&](const char* name, auto& function, bool required) {
    auto found = symbols.find(name);
    if (found != symbols.end()) function = reinterpret_cast<std::decay_t<decltype(function)>>(found->second);
    if (function == nullptr && required) throw std::invalid_argument(text("symbols lacks ", name));
  });
  torch_shim = shim;
  torch_codes = {shim.dtype_float32(), shim.dtype_float16(), shim.dtype_bfloat16(), shim.dtype_uint8(),
                 shim.dtype_int32(),   shim.dtype_int64(),   shim.device_cpu()};

  TorchLibrary* fragment = nullptr;
  check_torch(shim.library_fragment("edgekern", "edgekern", 0, &fragment), "open a library");
  define_linear<kInt8>(fragment);
  define_linear<kInt8, 2>(fragment);
  define_linear<kInt8, 3>(fragment);
  define_linear<kInt4>(fragment);
  define_linear<kInt4, 2>(fragment);
  define_linear<kInt4, 3>(fragment);
  define_linear<kInt8Float>(fragment);
  define_linear<kInt4Float>(fragment);
  define_linear<kF32>(fragment);
  define_linear<kF16>(fragment);
  define_embeddings(fragment);
  define_conv2d(fragment);
  define_program(fragment);
}

}  // namespace edgekern

// What all torch ops check and fail with, and their registration. The ops are in torch_linear.cc, torch_rows.cc,
// torch_embedding.cc, torch_conv2d.cc and torch_program.cc.
#include "torch_ops.h"

#include "edgekern/edgekern.h"
#include "status.h"
#include "torch_tensors.h"

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
  define_linears(fragment);
  define_rows(fragment);
  define_embeddings(fragment);
  define_conv2d(fragment);
  define_program(fragment);
}

}  // namespace edgekern

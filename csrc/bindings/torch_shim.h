// The part of torch's stable C ABI that edgekern calls, as a table of function pointers.
//
// Nothing of torch is needed to build: Python finds the functions in the running libtorch by name and hands over their
// addresses (register_torch_ops). The declarations below restate torch/csrc/inductor/aoti_torch/c/shim.h and
// torch/csrc/stable/c/shim.h, whose names and signatures torch promises to keep.
//
// Conventions of that ABI:
//   * A function returns 0, or an error code; torch throws nothing across it.
//   * An op kernel is "boxed": it gets an array of 64-bit StableIValues, one an argument. A tensor is an owned handle
//     that the kernel must delete, an int or SymInt the integer itself. It leaves its results in the same array.
//   * An exception that leaves a kernel reaches Python: std::invalid_argument as ValueError, std::out_of_range as
//     IndexError, any other std::exception as RuntimeError. Handles still owned by the kernel would leak, hence TensorHandle.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace edgekern {

using StableIValue = uint64_t;
using BoxedKernel = void (*)(StableIValue* stack, uint64_t num_arguments, uint64_t num_results);
using TorchError = int32_t;  // 0 is success
struct TorchTensor;          // opaque: at::Tensor
struct TorchLibrary;         // opaque: torch::Library
struct TorchList;            // opaque: a list of StableIValues

struct TorchShim {
  // Op registration.
  TorchError (*library_fragment)(const char* ns, const char* file, uint32_t line, TorchLibrary** library);
  TorchError (*library_implementation)(const char* ns, const char* key, const char* file, uint32_t line,
                                       TorchLibrary** library);
  TorchError (*define)(TorchLibrary* library, const char* schema);
  TorchError (*implement)(TorchLibrary* library, const char* op, BoxedKernel kernel);

  // Tensors. Sizes and strides are borrowed from the tensor.
  TorchError (*dim)(TorchTensor* tensor, int64_t* dim);
  TorchError (*sizes)(TorchTensor* tensor, int64_t** sizes);
  TorchError (*strides)(TorchTensor* tensor, int64_t** strides);
  TorchError (*dtype)(TorchTensor* tensor, int32_t* dtype);
  TorchError (*data)(TorchTensor* tensor, void** data);
  TorchError (*empty_strided)(int64_t dim, const int64_t* sizes, const int64_t* strides, int32_t dtype, int32_t device_type,
                              int32_t device_index, TorchTensor** tensor);
  TorchError (*copy)(TorchTensor* to, TorchTensor* from, int32_t non_blocking);
  TorchError (*new_handle)(TorchTensor* tensor, TorchTensor** copy);
  TorchError (*delete_tensor)(TorchTensor* tensor);

  // Autograd state, and any aten op by name.
  bool (*grad_enabled)();
  TorchError (*call)(const char* op, const char* overload, StableIValue* stack);

  // What this torch calls the dtypes and the device we serve.
  int32_t (*dtype_float32)();
  int32_t (*dtype_float16)();
  int32_t (*dtype_bfloat16)();
  int32_t (*dtype_uint8)();
  int32_t (*dtype_int32)();
  int32_t (*dtype_int64)();
  int32_t (*device_cpu)();

  // Lists as arguments: since 2.10, null before. A kernel owns the lists it gets, and what it takes out of them.
  TorchError (*list_size)(TorchList* list, size_t* size);
  TorchError (*list_item)(TorchList* list, size_t index, StableIValue* item);
  TorchError (*delete_list)(TorchList* list);

  // torch's thread pool: since 2.10, null before.
  TorchError (*parallel_for)(int64_t begin, int64_t end, int64_t grain_size,
                             void (*body)(int64_t begin, int64_t end, void* context), void* context);
  TorchError (*num_threads)(uint32_t* num_threads);

  // Why the last call on this thread failed: since 2.13, null before (torch then writes the reason to stderr).
  const char* (*last_error)();
};

// Calls visit(symbol name, member of shim, required) for every function: the one list of names.
template <class Visit>
void for_each_torch_symbol(TorchShim& shim, Visit&& visit) {
  visit("aoti_torch_library_init_fragment", shim.library_fragment, true);
  visit("aoti_torch_library_init_impl", shim.library_implementation, true);
  visit("aoti_torch_library_def", shim.define, true);
  visit("aoti_torch_library_impl", shim.implement, true);
  visit("aoti_torch_get_dim", shim.dim, true);
  visit("aoti_torch_get_sizes", shim.sizes, true);
  visit("aoti_torch_get_strides", shim.strides, true);
  visit("aoti_torch_get_dtype", shim.dtype, true);
  visit("aoti_torch_get_data_ptr", shim.data, true);
  visit("aoti_torch_empty_strided", shim.empty_strided, true);
  visit("aoti_torch_copy_", shim.copy, true);
  visit("aoti_torch_new_tensor_handle", shim.new_handle, true);
  visit("aoti_torch_delete_tensor_object", shim.delete_tensor, true);
  visit("aoti_torch_grad_mode_is_enabled", shim.grad_enabled, true);
  visit("aoti_torch_call_dispatcher", shim.call, true);
  visit("aoti_torch_dtype_float32", shim.dtype_float32, true);
  visit("aoti_torch_dtype_float16", shim.dtype_float16, true);
  visit("aoti_torch_dtype_bfloat16", shim.dtype_bfloat16, true);
  visit("aoti_torch_dtype_uint8", shim.dtype_uint8, true);
  visit("aoti_torch_dtype_int32", shim.dtype_int32, true);
  visit("aoti_torch_dtype_int64", shim.dtype_int64, true);
  visit("aoti_torch_device_type_cpu", shim.device_cpu, true);
  visit("torch_list_size", shim.list_size, false);
  visit("torch_list_get_item", shim.list_item, false);
  visit("torch_delete_list", shim.delete_list, false);
  visit("torch_parallel_for", shim.parallel_for, false);
  visit("torch_get_num_threads", shim.num_threads, false);
  visit("torch_exception_get_what_without_backtrace", shim.last_error, false);
}

// The table in use: filled by register_torch_ops(), all null before.
extern TorchShim torch_shim;

// Throws std::runtime_error unless a shim call came back with 0. `doing` completes "failed to ...".
inline void check_torch(TorchError error, const char* doing) {
  if (error == 0) return;
  std::string message = std::string("edgekern: torch failed to ") + doing;
  if (torch_shim.last_error != nullptr) message.append(": ").append(torch_shim.last_error());
  throw std::runtime_error(message);
}

// Owns one tensor handle.
class TensorHandle {
 public:
  explicit TensorHandle(TorchTensor* tensor = nullptr) : tensor_(tensor) {}
  explicit TensorHandle(StableIValue value) : tensor_(reinterpret_cast<TorchTensor*>(value)) {}
  TensorHandle(TensorHandle&& other) noexcept : tensor_(other.release()) {}
  TensorHandle& operator=(TensorHandle&& other) noexcept {
    std::swap(tensor_, other.tensor_);
    return *this;
  }
  ~TensorHandle() {
    if (tensor_ != nullptr) torch_shim.delete_tensor(tensor_);
  }

  TorchTensor* get() const { return tensor_; }
  TorchTensor* release() { return std::exchange(tensor_, nullptr); }

 private:
  TorchTensor* tensor_;
};

}  // namespace edgekern

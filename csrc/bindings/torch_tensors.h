// What the torch ops share: looks at tensors, and a packed matrix as an op gets it.
//
// Cost decides the shape of these: a 64x64 layer computes for a tenth of the time its dispatch takes, so an op makes about
// a dozen shim calls of some nanoseconds each and one allocation, its result.
#pragma once

#include <cstddef>

#include "edgekern/edgekern.h"
#include "status.h"
#include "torch_shim.h"

namespace edgekern {

inline constexpr int64_t kMaxDim = 64;  // torch's own limit
inline constexpr size_t kPackedAlignment = 64;

// dtype codes and device of the running torch, asked once by register_torch_ops().
struct TorchCodes {
  int32_t float32, float16, bfloat16, uint8, int32, int64, cpu;
};
extern TorchCodes torch_codes;

// A packed matrix: its sizes, and what else an op wants to know of it.
struct Shape {
  int64_t n, k, variant;
};

// What a number format brings to each of its ops.
struct Packing {
  const char *name, *op, *pack;
  ek_status (*describe)(const void* packed, size_t size, Shape* shape);
};

ek_status describe_int8(const void* packed, size_t size, Shape* shape);
ek_status describe_int4(const void* packed, size_t size, Shape* shape);

[[noreturn]] inline void fail(const Packing& packing, const std::string& message) {
  throw std::invalid_argument(text("edgekern.", packing.op, ": ", message));
}

// A borrowed look at a tensor's metadata.
struct View {
  int64_t dim;
  int64_t* sizes;
  int64_t* strides;
  int32_t dtype;

  explicit View(const TensorHandle& tensor) {
    check_torch(torch_shim.dim(tensor.get(), &dim), "read a tensor's dim");
    check_torch(torch_shim.sizes(tensor.get(), &sizes), "read a tensor's sizes");
    check_torch(torch_shim.strides(tensor.get(), &strides), "read a tensor's strides");
    check_torch(torch_shim.dtype(tensor.get(), &dtype), "read a tensor's dtype");
  }

  std::string shape() const {
    std::string shape;
    for (int64_t d = 0; d < dim; ++d) shape += text(d == 0 ? "[" : ", ", sizes[d]);
    return dim == 0 ? "[]" : shape + "]";
  }
};

inline std::byte* data_of(const TensorHandle& tensor) {
  void* data = nullptr;
  check_torch(torch_shim.data(tensor.get(), &data), "read a tensor's address");
  return static_cast<std::byte*>(data);
}

// A new contiguous CPU tensor.
inline TensorHandle empty_tensor(int64_t dim, const int64_t* sizes, int32_t dtype) {
  int64_t strides[kMaxDim + 1], stride = 1;
  for (int64_t d = dim - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= sizes[d] > 1 ? sizes[d] : 1;  // torch's rule for empty tensors
  }
  TorchTensor* tensor = nullptr;
  check_torch(torch_shim.empty_strided(dim, sizes, strides, dtype, torch_codes.cpu, -1, &tensor), "allocate a tensor");
  return TensorHandle(tensor);
}

// packed is one contiguous run of bytes that the library recognises; returns its shape.
Shape describe(const Packing& packing, const View& packed, const std::byte* data);

// The part of it that does not depend on what is packed.
void expect_packed_bytes(const Packing& packing, const View& packed, const std::byte* data);

// What ops of layers make of x's dtype, and what they refuse.
ek_dtype library_dtype(const Packing& packing, int32_t dtype);
void expect_activation(const Packing& packing, int64_t activation);
void expect_no_gradient(const Packing& packing, const TensorHandle& x);
[[noreturn]] void fail_elsewhere(const Packing& packing);

// Adds an op to torch's dispatcher: `cpu` runs it, `elsewhere` is for every device and layout without a kernel of its own.
void define_op(TorchLibrary* fragment, const char* op, const std::string& schema, BoxedKernel cpu, BoxedKernel elsewhere);

// The ops of torch_linear.cc, torch_rows.cc, torch_embedding.cc, torch_conv2d.cc and torch_program.cc.
void define_linears(TorchLibrary* fragment);
void define_rows(TorchLibrary* fragment);
void define_embeddings(TorchLibrary* fragment);
void define_conv2d(TorchLibrary* fragment);
void define_program(TorchLibrary* fragment);

}  // namespace edgekern

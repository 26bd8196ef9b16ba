// The torch ops edgekern::int8_embedding and int4_embedding: rows of a packed matrix as floats.
#include <algorithm>

#include "threads.h"
#include "torch_tensors.h"

namespace edgekern {
namespace {

// What a number format brings to its op.
struct Table : Packing {
  decltype(&ek_int8_embedding) read;
};
constexpr Table kInt8{{"int8", "int8_embedding", "int8_pack", describe_int8}, ek_int8_embedding};
constexpr Table kInt4{{"int4", "int4_embedding", "int4_pack", describe_int4}, ek_int4_embedding};

// torch's code of a code of ek_dtype.
int32_t torch_dtype(const Packing& packing, int64_t dtype) {
  if (dtype == EK_F32) return torch_codes.float32;
  if (dtype == EK_F16) return torch_codes.float16;
  if (dtype == EK_BF16) return torch_codes.bfloat16;
  fail(packing, text("dtype must be a code of edgekern.ops.FLOATS (0 to 2), got ", dtype));
}

ek_index index_type(const Packing& packing, const View& indices) {
  if (indices.dtype == torch_codes.int64) return EK_INDEX_I64;
  if (indices.dtype == torch_codes.int32) return EK_INDEX_I32;
  fail(packing, text("indices must be int64 or int32, got c10::ScalarType ", indices.dtype, "; convert them with .long()"));
}

bool is_contiguous(const View& view) {
  int64_t stride = 1;
  for (int64_t d = view.dim - 1; d >= 0; --d) {
    if (view.sizes[d] != 1 && view.strides[d] != stride) return false;
    stride *= view.sizes[d];
  }
  return true;
}

// As torch says it, and which it was.
[[noreturn]] void fail_index(const Packing& packing, const void* data, ek_index type, int64_t count, int64_t n) {
  auto index = [&](int64_t i) {
    return type == EK_INDEX_I32 ? int64_t{static_cast<const int32_t*>(data)[i]} : static_cast<const int64_t*>(data)[i];
  };
  int64_t i = 0;
  while (i + 1 < count && index(i) >= 0 && index(i) < n) ++i;
  throw std::out_of_range(
      text("edgekern.", packing.op, ": index out of range in self: ", index(i), " of a table of ", n, " rows"));
}

TensorHandle embedding(const Table& table, TensorHandle indices, const TensorHandle& packed, int64_t embedding_dim,
                       int64_t dtype) {
  const View view(indices), packed_view(packed);
  const std::byte* weights = data_of(packed);
  const Shape shape = describe(table, packed_view, weights);
  const ek_index type = index_type(table, view);
  if (view.dim >= kMaxDim) fail(table, text("indices have ", view.dim, " dimensions, at most ", kMaxDim - 1, " are possible"));
  if (embedding_dim != shape.k) fail(table, text("embedding_dim must be ", shape.k, " as in packed, got ", embedding_dim));

  int64_t sizes[kMaxDim], count = 1;
  for (int64_t d = 0; d < view.dim; ++d) count *= sizes[d] = view.sizes[d];
  sizes[view.dim] = shape.k;
  TensorHandle y = empty_tensor(view.dim + 1, sizes, torch_dtype(table, dtype));
  if (!is_contiguous(view)) {
    TensorHandle contiguous = empty_tensor(view.dim, view.sizes, view.dtype);
    check_torch(torch_shim.copy(contiguous.get(), indices.get(), 0), "copy indices");
    indices = std::move(contiguous);
  }
  if (count == 0) return y;
  Threads threads;
  const std::byte* data = data_of(indices);
  ek_status status = table.read(nullptr, weights, static_cast<size_t>(packed_view.sizes[0]), count, data, type, data_of(y),
                                static_cast<ek_dtype>(dtype), shape.k, threads.parallel());
  if (status == EK_ERROR_INDEX) fail_index(table, data, type, count, shape.n);
  check(status, table.op);
  threads.check();
  return y;
}

template <const Table& kTable>
void embedding_cpu(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle indices(stack[0]), packed(stack[1]);
  TensorHandle y =
      embedding(kTable, std::move(indices), packed, static_cast<int64_t>(stack[2]), static_cast<int64_t>(stack[3]));
  stack[0] = reinterpret_cast<StableIValue>(y.release());
}

template <const Table& kTable>
void embedding_elsewhere(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle indices(stack[0]), packed(stack[1]);
  fail(kTable,
       "indices and packed must be dense CPU tensors; move the model with model.cpu() and the indices with .cpu(), or call "
       "edgekern.dense_(model) to run elsewhere");
}

template <const Table& kTable>
void define_embedding(TorchLibrary* fragment) {
  define_op(fragment, kTable.op, text(kTable.op, "(Tensor indices, Tensor packed, SymInt embedding_dim, int dtype) -> Tensor"),
            embedding_cpu<kTable>, embedding_elsewhere<kTable>);
}

}  // namespace

void define_embeddings(TorchLibrary* fragment) {
  define_embedding<kInt8>(fragment);
  define_embedding<kInt4>(fragment);
}

}  // namespace edgekern

// The torch ops of what lies between a decoder's linear layers: edgekern::rms_norm, rotary, and gated_mlp, which has its three
// linear layers inside.
#include <string.h>

#include <algorithm>

#include "threads.h"
#include "torch_linear.h"
#include "workspace.h"

namespace edgekern {
namespace {

constexpr Packing kRmsNorm{"", "rms_norm", "", nullptr};
constexpr Packing kRotary{"", "rotary", "", nullptr};
constexpr const char* kGatedMlp = "gated_mlp";

template <const Packing& kPacking, int kTensors>
void elsewhere(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle tensors[kTensors];
  for (int i = 0; i < kTensors; ++i) tensors[i] = TensorHandle(stack[i]);
  fail(kPacking, "all tensors must be dense CPU tensors; move the model with model.cpu() and the input with x.cpu()");
}

double number_at(const StableIValue* stack, int i) {
  double value;
  memcpy(&value, stack + i, sizeof(value));
  return value;
}

// ------------------------------------------------------------------------------------------------ norm

// (x, weight, eps) -> y
void rms_norm_cpu(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle x(stack[0]);
  const TensorHandle weight(stack[1]);
  const View view(x), scale(weight);
  const ek_dtype dtype = library_dtype(kRmsNorm, view.dtype);
  const int64_t m = count_rows(kRmsNorm, view), n = view.sizes[view.dim - 1];
  const bool fits = scale.dim == 1 && scale.sizes[0] == n && scale.dtype == view.dtype && (n < 2 || scale.strides[0] == 1);
  if (!fits) {
    fail(kRmsNorm, text("weight must be contiguous, of x's dtype and shape [", n, "] for x of ", view.shape(),
                        ", got c10::ScalarType ", scale.dtype, " of shape ", scale.shape()));
  }
  const double eps = number_at(stack, 2);
  if (!(eps >= 0)) fail(kRmsNorm, text("eps must be at least 0, got ", eps));
  expect_no_gradient(kRmsNorm, x);
  TensorHandle y = empty_like_rows(view, n);
  Rows rows;
  const TensorHandle matrix = fold_rows(std::move(x), view, &rows);
  Threads threads;
  check(ek_rms_norm(nullptr, m, n, data_of(matrix), dtype, rows.ld, data_of(weight), static_cast<float>(eps), data_of(y), n,
                    threads.parallel()),
        kRmsNorm.op);
  threads.check();
  stack[0] = reinterpret_cast<StableIValue>(y.release());
}

// -------------------------------------------------------------------------------------------- rotation

// x [batch, heads, tokens, n] turned; y lies in memory as x does, tokens first or heads first.
TensorHandle rotated(const TensorHandle& x, const View& cos, const std::byte* cos_data, const std::byte* sin_data,
                     const ek_parallel* parallel) {
  const View view(x);
  const int64_t batch = view.sizes[0], heads = view.sizes[1], tokens = view.sizes[2], n = view.sizes[3];
  const bool tokens_first = view.strides[2] > view.strides[1];
  const int64_t token = tokens_first ? heads * n : n, head = tokens_first ? n : tokens * n;
  const int64_t strides[4] = {heads * tokens * n, head, token, 1};
  TorchTensor* made = nullptr;
  check_torch(torch_shim.empty_strided(4, view.sizes, strides, view.dtype, torch_codes.cpu, -1, &made), "allocate a tensor");
  TensorHandle y(made);
  const ek_rotary shape{batch,
                        tokens,
                        heads,
                        n,
                        view.strides[0],
                        view.strides[2],
                        view.strides[1],
                        strides[0],
                        token,
                        head,
                        cos.sizes[0] == 1 ? 0 : cos.strides[0],
                        cos.strides[1]};
  check(ek_rotate(nullptr, &shape, data_of(x), library_dtype(kRotary, view.dtype), cos_data, sin_data, data_of(y), parallel),
        kRotary.op);
  return y;
}

// x as rotated() takes it: the numbers of a head side by side.
TensorHandle expect_heads(TensorHandle x, const char* name, const View& cos) {
  const View view(x);
  const bool fits = view.dim == 4 && cos.dim == 3 && view.dtype == cos.dtype && view.sizes[3] == cos.sizes[2] &&
                    view.sizes[3] % 2 == 0 && view.sizes[2] == cos.sizes[1] &&
                    (cos.sizes[0] == 1 || cos.sizes[0] == view.sizes[0]);
  if (!fits) {
    fail(kRotary,
         text(name, " must be [batch, heads, tokens, n], n even, and cos and sin [batch or 1, tokens, n] of its dtype, got ",
              view.shape(), " and ", cos.shape()));
  }
  expect_no_gradient(kRotary, x);
  if (view.strides[3] == 1) return x;
  TensorHandle contiguous = empty_tensor(view.dim, view.sizes, view.dtype);
  check_torch(torch_shim.copy(contiguous.get(), x.get(), 0), "copy x");
  return contiguous;
}

// (q, k, cos, sin) -> (q, k)
void rotary_cpu(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle q(stack[0]), k(stack[1]);
  const TensorHandle cos(stack[2]), sin(stack[3]);
  const View view(cos), other(sin);
  bool alike = view.dim == 3 && other.dim == 3 && view.dtype == other.dtype && view.strides[2] == 1;
  for (int64_t d = 0; alike && d < 3; ++d)
    alike = view.sizes[d] == other.sizes[d] && (view.sizes[d] == 1 || view.strides[d] == other.strides[d]);
  if (!alike)
    fail(kRotary, text("cos and sin must be alike, [batch or 1, tokens, n], got ", view.shape(), " and ", other.shape()));
  q = expect_heads(std::move(q), "q", view);
  k = expect_heads(std::move(k), "k", view);
  Threads threads;
  const std::byte *cos_data = data_of(cos), *sin_data = data_of(sin);
  TensorHandle turned_q = rotated(q, view, cos_data, sin_data, threads.parallel());
  TensorHandle turned_k = rotated(k, view, cos_data, sin_data, threads.parallel());
  threads.check();
  stack[0] = reinterpret_cast<StableIValue>(turned_q.release());
  stack[1] = reinterpret_cast<StableIValue>(turned_k.release());
}

// ------------------------------------------------------------------------------------------- gated MLP

// The hidden activations of a slab of rows stay in cache between the layers.
constexpr int64_t kHiddenBytes = int64_t{3} << 20;

LinearFormat format_of(StableIValue code, const char* name) {
  const int64_t number = static_cast<int64_t>(code);
  const bool known = number >= 0 && number < kLinearFormats;
  LinearFormat format = linear_formats[known ? number : 0];
  format.op = kGatedMlp;
  if (!known) fail(format, text(name, " must be a code of edgekern.ops.LINEARS (0 to ", kLinearFormats - 1, "), got ", number));
  return format;
}

// Bytes, so that what comes after starts a cache line.
int64_t whole_lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// (x, gate, up, down, out_features, activation, format, down_format) -> y
void gated_mlp_cpu(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle x(stack[0]);
  const TensorHandle gate(stack[1]), up(stack[2]), down(stack[3]);
  const int64_t out_features = static_cast<int64_t>(stack[4]), activation = static_cast<int64_t>(stack[5]);
  const LinearFormat wide = format_of(stack[6], "format"), narrow = format_of(stack[7], "down_format");
  const View view(x);
  const ek_dtype dtype = library_dtype(wide, view.dtype);
  const int64_t m = count_rows(wide, view), bytes = dtype == EK_F32 ? 4 : 2;
  const int64_t hidden = describe(wide, View(gate), data_of(gate)).n;
  const int64_t slab = std::min(m, std::max(int64_t{64}, kHiddenBytes / (2 * bytes * hidden)));
  size_t scratch = 0;
  const OpenedLayer opened[3] = {open_layer(wide, gate, slab, &scratch), open_layer(wide, up, slab, &scratch),
                                 open_layer(narrow, down, slab, &scratch)};
  for (int i = 0; i < 2; ++i) expect_features(wide, view, opened[i].shape.k);
  if (opened[1].shape.n != hidden || opened[2].shape.k != hidden) {
    fail(wide, text("up must have as many features out as gate, and down in: got ", hidden, " of gate, ", opened[1].shape.n,
                    " of up and ", opened[2].shape.k, " of down"));
  }
  if (opened[2].shape.n != out_features)
    fail(wide, text("out_features must be ", opened[2].shape.n, " as in down, got ", out_features));
  expect_activation(wide, activation);
  expect_no_gradient(wide, x);

  TensorHandle y = empty_like_rows(view, out_features);
  Rows rows;
  const TensorHandle matrix = fold_rows(std::move(x), view, &rows);
  const int64_t ends_at = whole_lines(static_cast<int64_t>(scratch)), each = whole_lines(slab * hidden * bytes);
  Workspace workspace(static_cast<size_t>(ends_at + 2 * each));
  std::byte *z = static_cast<std::byte*>(workspace.data()) + ends_at, *u = z + each;
  ek_part first[2] = {opened[0].part, opened[1].part}, last = opened[2].part;
  first[0].y = z, first[1].y = u;
  Threads threads;
  for (int64_t start = 0; start < m; start += slab) {
    const int64_t count = std::min(slab, m - start);
    const std::byte* from = data_of(matrix) + start * rows.ld * bytes;
    last.y = data_of(y) + start * out_features * bytes;
    auto read = [&](const ek_part* layers, int64_t layer_count) {
      return wide.linears(nullptr, layers, layer_count, count, from, dtype, rows.ld, EK_NONE, workspace.data(), scratch,
                          threads.parallel());
    };
    ek_status status = read(first, 2);
    if (status == EK_ERROR_PARTS) {  // each with a range or a group size of its own
      status = read(first, 1);
      if (status == EK_OK) status = read(first + 1, 1);
    }
    check(status, kGatedMlp);
    check(ek_gate(nullptr, count, hidden, z, hidden, u, hidden, dtype, static_cast<ek_activation>(activation), z, hidden,
                  threads.parallel()),
          kGatedMlp);
    check(narrow.linears(nullptr, &last, 1, count, z, dtype, hidden, EK_NONE, workspace.data(), scratch, threads.parallel()),
          kGatedMlp);
  }
  threads.check();
  stack[0] = reinterpret_cast<StableIValue>(y.release());
}

constexpr Packing kMlp{"", kGatedMlp, "", nullptr};

}  // namespace

void define_rows(TorchLibrary* fragment) {
  define_op(fragment, kRmsNorm.op, "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", rms_norm_cpu,
            elsewhere<kRmsNorm, 2>);
  define_op(fragment, kRotary.op, "rotary(Tensor q, Tensor k, Tensor cos, Tensor sin) -> (Tensor, Tensor)", rotary_cpu,
            elsewhere<kRotary, 4>);
  define_op(fragment, kGatedMlp,
            "gated_mlp(Tensor x, Tensor gate, Tensor up, Tensor down, SymInt out_features, int activation, int format, "
            "int down_format) -> Tensor",
            gated_mlp_cpu, elsewhere<kMlp, 4>);
}

}  // namespace edgekern

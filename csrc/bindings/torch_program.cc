// The torch op edgekern::int8_conv2d_program: several convolutions, and what is between them, in one call. Torch before 2.10
// hands no lists to ops like ours, so there is no such op there.
#include <cstring>
#include <vector>

#include "threads.h"
#include "torch_images.h"
#include "torch_tensors.h"
#include "workspace.h"

namespace edgekern {
namespace {

constexpr Packing kProgram{"int8 program", "int8_conv2d_program", "int8_conv2d_pack", nullptr};

// A row of the tensor `program`, one a step: numbers of int64, scales as the bits of float32.
struct Row {
  int64_t kind, x, other, packed, activation;
  int64_t x_scale, x_zero_point, other_scale, other_zero_point, y_scale, y_zero_point, dtype;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, top, bottom, left, right, same_padding;
};
constexpr int64_t kColumns = sizeof(Row) / sizeof(int64_t);
static_assert(kColumns == 23);

// Owns one list.
class ListHandle {
 public:
  explicit ListHandle(StableIValue value) : list_(reinterpret_cast<TorchList*>(value)) {}
  ListHandle(const ListHandle&) = delete;
  ~ListHandle() { torch_shim.delete_list(list_); }

  std::vector<TensorHandle> tensors() const {
    size_t size = 0;
    check_torch(torch_shim.list_size(list_, &size), "count a list");
    std::vector<TensorHandle> all;
    all.reserve(size);
    for (size_t i = 0; i < size; ++i) {
      StableIValue item = 0;
      check_torch(torch_shim.list_item(list_, i, &item), "read a list");
      all.emplace_back(item);
    }
    return all;
  }

 private:
  TorchList* list_;
};

ek_int8_range range_of(int64_t scale, int64_t zero_point) {
  const uint32_t bits = static_cast<uint32_t>(scale);
  ek_int8_range range{0, static_cast<int32_t>(zero_point)};
  memcpy(&range.scale, &bits, sizeof(bits));
  return range;
}

// The program's steps, with the addresses of packed layers.
std::vector<ek_conv2d_step> read_steps(const TensorHandle& program, const std::vector<TensorHandle>& packed) {
  const View view(program);
  const bool rows = view.dim == 2 && view.sizes[1] == kColumns && view.strides[1] == 1 && view.strides[0] == kColumns;
  if (view.dtype != torch_codes.int64 || !rows || view.sizes[0] < 1)
    fail(kProgram, text("program must be contiguous int64 [steps, ", kColumns, "], got shape ", view.shape()));
  const Row* from = reinterpret_cast<const Row*>(data_of(program));
  std::vector<ek_conv2d_step> steps(static_cast<size_t>(view.sizes[0]));
  for (ek_conv2d_step& step : steps) {
    const Row& row = *from++;
    step = {.kind = static_cast<ek_step_kind>(row.kind),
            .x = row.x,
            .other = row.other,
            .packed = nullptr,
            .packed_size = 0,
            .x_range = range_of(row.x_scale, row.x_zero_point),
            .other_range = range_of(row.other_scale, row.other_zero_point),
            .range = range_of(row.y_scale, row.y_zero_point),
            .dtype = static_cast<ek_dtype>(row.dtype),
            .kernel_h = row.kernel_h,
            .kernel_w = row.kernel_w,
            .window = {row.stride_h, row.stride_w, row.dilation_h, row.dilation_w, row.top, row.bottom, row.left, row.right},
            .same_padding = row.same_padding != 0,
            .activation = static_cast<ek_activation>(row.activation)};
    if (step.kind != EK_CONV2D) continue;
    if (row.packed < 0 || row.packed >= static_cast<int64_t>(packed.size()))
      fail(kProgram, text("program names packed layer ", row.packed, " of ", packed.size()));
    const TensorHandle& layer = packed[static_cast<size_t>(row.packed)];
    const View bytes(layer);
    step.packed = data_of(layer);
    expect_packed_bytes(kProgram, bytes, data_of(layer));
    step.packed_size = static_cast<size_t>(bytes.sizes[0]);
  }
  return steps;
}

// Shapes of all images; or an error that names the step which cannot be.
std::vector<ek_image_shape> shapes_of(const std::vector<ek_conv2d_step>& steps, const View& x, ek_dtype dtype) {
  const ek_image_shape shape{x.sizes[1], x.sizes[2], x.sizes[3], dtype};
  std::vector<ek_image_shape> shapes(steps.size() + 1);
  const int64_t count = static_cast<int64_t>(steps.size());
  ek_status status = ek_int8_conv2d_program_shapes(steps.data(), count, &shape, shapes.data());
  if (status == EK_OK) return shapes;
  int64_t bad = 1;
  while (bad < count && ek_int8_conv2d_program_shapes(steps.data(), bad, &shape, shapes.data()) == EK_OK) ++bad;
  fail(kProgram, text("step ", bad - 1, " of ", count, " cannot run for x of shape ", x.shape(), ": ",
                      ek_status_message(status), "; the model that was frozen may take such images"));
}

// The order that the same layers run singly would give, each by the rule of its own op: what is or was u8 is pixel by pixel; a
// convolution takes images that could be either for channel by channel; sums take the order of what they read first.
ek_image_order order_of_y(const std::vector<ek_conv2d_step>& steps, const std::vector<ek_image_shape>& shapes,
                          ek_image_order x_order) {
  std::vector<ek_image_order> orders(shapes.size(), x_order);
  for (size_t i = 0; i < steps.size(); ++i) {
    const size_t from = static_cast<size_t>(steps[i].x);
    const ek_image_shape &x = shapes[from], &y = shapes[i + 1];
    orders[i + 1] = orders[from];
    const bool by_pixels = x.dtype == EK_U8 || y.dtype == EK_U8;
    if (by_pixels) orders[i + 1] = EK_NHWC;
    if (steps[i].kind != EK_CONV2D) continue;
    if (!by_pixels && (x.channels <= 1 || x.height * x.width <= 1)) orders[i + 1] = EK_NCHW;
  }
  return orders.back();
}

TensorHandle run_program(TensorHandle x, const std::vector<TensorHandle>& packed, const TensorHandle& program,
                         int64_t out_channels) {
  const View view(x);
  const ek_dtype dtype = view.dtype == torch_codes.uint8 ? EK_U8 : library_dtype(kProgram, view.dtype);
  if (view.dim != 4) fail(kProgram, text("x must be images [batch, channels, height, width], got shape ", view.shape()));
  expect_no_gradient(kProgram, x);
  const std::vector<ek_conv2d_step> steps = read_steps(program, packed);
  const std::vector<ek_image_shape> shapes = shapes_of(steps, view, dtype);
  const ek_image_shape& last = shapes.back();
  if (out_channels != last.channels)
    fail(kProgram, text("out_channels must be ", last.channels, " as the program gives, got ", out_channels));

  const int64_t sizes[4] = {view.sizes[0], view.sizes[1], view.sizes[2], view.sizes[3]};
  const int64_t out[4] = {sizes[0], last.channels, last.height, last.width};
  const bool by_pixels = dtype == EK_U8 || (!is_dense(view, sizes, EK_NCHW) && sizes[1] > 1 && view.strides[1] == 1);
  const ek_image_order order = by_pixels ? EK_NHWC : EK_NCHW;
  if (!is_dense(view, sizes, order)) {
    TensorHandle dense = empty_images(sizes, order, view.dtype);
    check_torch(torch_shim.copy(dense.get(), x.get(), 0), "copy x");
    x = std::move(dense);
  }
  const ek_image_order y_order = order_of_y(steps, shapes, order);
  TensorHandle y = empty_images(out, y_order, torch_dtype(last.dtype));
  if (sizes[0] == 0) return y;
  const int64_t count = static_cast<int64_t>(steps.size());
  Threads threads;
  Workspace workspace(ek_int8_conv2d_program_workspace_size(nullptr, steps.data(), count, sizes[0], &shapes[0], order, y_order,
                                                            threads.parallel()));
  check(ek_int8_conv2d_program(nullptr, steps.data(), count, sizes[0], &shapes[0], data_of(x), order, data_of(y), y_order,
                               workspace.data(), workspace.size(), threads.parallel()),
        kProgram.op);
  threads.check();
  return y;
}

void program_cpu(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle x(stack[0]), program(stack[2]);
  const ListHandle packed(stack[1]), windows(stack[4]);  // windows are for fake tensors, as are the last two arguments
  TensorHandle y = run_program(std::move(x), packed.tensors(), program, static_cast<int64_t>(stack[3]));
  stack[0] = reinterpret_cast<StableIValue>(y.release());
}

void program_elsewhere(StableIValue* stack, uint64_t, uint64_t) {
  TensorHandle x(stack[0]), program(stack[2]);
  const ListHandle packed(stack[1]), windows(stack[4]);
  const std::vector<TensorHandle> layers = packed.tensors();
  fail_elsewhere(kProgram);
}

}  // namespace

void define_program(TorchLibrary* fragment) {
  if (torch_shim.list_size == nullptr || torch_shim.list_item == nullptr || torch_shim.delete_list == nullptr) return;
  define_op(
      fragment, kProgram.op,
      "int8_conv2d_program(Tensor x, Tensor[] packed, Tensor program, SymInt out_channels, int[] windows, int dtype, bool "
      "channels_last) -> Tensor",
      program_cpu, program_elsewhere);
}

}  // namespace edgekern

// A layer of a block form: quantise, then multiply tiles of rows by kept blocks.
#include "formats/int8/blocks.h"
#include "ops/int8_forms.h"
#include "ops/kept_blocks.h"

namespace edgekern::int8 {
namespace {

// Where a slab's tiles and their numbers sit in the caller's workspace.
struct Slab : blocks::Slab {
  Slab(const BlockKernels& kernels, ek_int8_form form, int64_t m, int64_t k)
      : blocks::Slab(kernels, group_rows_of(form), m, round_up(k, 64) / kernels.order.line_depth) {}
  size_t bytes() const { return blocks::Slab::bytes() + static_cast<size_t>(padded_rows * 8); }

  LhsTiles at(void* workspace) const {
    int32_t* data = words<int32_t>(workspace);
    float* scale = reinterpret_cast<float*>(data + padded_rows * tiles.depth);
    return {tiles, data, scale, reinterpret_cast<int32_t*>(scale + padded_rows)};
  }
};

}  // namespace

SpmmArgs spmm_args(const Layout& layout, const void* packed) {
  return {{},
          blocks::rhs_of<int32_t>(kept_blocks(layout), packed),
          at<int32_t>(packed, layout.column_sum_offset()),
          at<float>(packed, layout.scale_offset()),
          at<float>(packed, layout.bias_offset()),
          {}};
}

size_t blocks_workspace(const edgekern::Kernels& kernels, ek_int8_form form, int64_t m, int64_t k) {
  return Slab(block_kernels(kernels, form), form, m, k).bytes();
}

void run_blocks(const edgekern::Kernels& kernels, const Part& part, int64_t m, const Input& input, void* workspace,
                const ek_parallel* parallel) {
  const BlockKernels& form = block_kernels(kernels, part.layout.form);
  const Layout& layout = part.layout;
  Slab slab(form, layout.form, m, layout.k);
  blocks::Layout kept = kept_blocks(layout);
  SpmmArgs args = spmm_args(layout, part.packed);
  args.lhs = slab.at(workspace);
  for (int64_t m0 = 0; m0 < m; m0 += slab.tiles.rows) {
    args.lhs.tiles.rows = min_of(slab.tiles.rows, m - m0);
    args.output = from_row(part.output, m0);
    Input rows = input.from_row(m0);
    blocks::run_slab(
        form, kept, part.packed, args.lhs.tiles, parallel,
        [&](int64_t begin, int64_t end) { read_rows(form, rows, layout.k, begin, end, args.lhs); }, args);
  }
}

}  // namespace edgekern::int8

// A layer of the forms in panels, dense and bitmap: slabs of rows, tiles of rows x 64 columns.
#include "formats/int8/bitmap.h"
#include "ops/int8_forms.h"
#include "ops/tickets.h"

namespace edgekern::int8 {
namespace {

constexpr int64_t kPanelsPerTicket = 4;  // 64 columns, the widest tile

// Where a slab's quantised rows and their numbers sit in the caller's workspace.
struct Slab {
  int64_t rows;  // whole groups; the last may have rows that are never filled
  int64_t stride, blocks;

  Slab(const DenseKernels& kernels, int64_t m, int64_t k) {
    // 64 bytes beyond the row: tails are stored whole, and rows do not all start in the same cache set.
    stride = round_up(k, 64) * kernels.lhs_bytes + 64;
    rows = round_up(min_of(m, max_of(round_up(kSlabBytes / stride, kernels.rows), 8 * kernels.rows)), kernels.group_rows);
    blocks = blocks_of(k);
  }
  size_t bytes() const { return static_cast<size_t>(64 + rows * (stride + 4 * (2 + blocks))); }

  LhsRows at(void* workspace) const {
    uintptr_t start = (reinterpret_cast<uintptr_t>(workspace) + 63) & ~uintptr_t{63};
    uint8_t* data = reinterpret_cast<uint8_t*>(start);
    float* scale = reinterpret_cast<float*>(data + rows * stride);
    int32_t* zero_point = reinterpret_cast<int32_t*>(scale + rows);
    return {data, stride, scale, zero_point, zero_point + rows, rows};
  }
};

// Output tiles of one slab: groups of panels, and, where N alone gives too few, pieces of M.
struct Tiles {
  int64_t groups, pieces, piece_rows;

  Tiles(const DenseKernels& kernels, int64_t rows, int64_t panels, int threads) {
    groups = ceil_div(panels, kPanelsPerTicket);
    int64_t wanted = ceil_div(kTicketsPerThread * threads, max_of(groups, 1));
    piece_rows = round_up(ceil_div(rows, wanted), kernels.rows);
    pieces = ceil_div(rows, piece_rows);
  }
  int64_t count() const { return groups * pieces; }
};

using Gemm = decltype(DenseKernels::gemm);

Gemm gemm_of(const DenseKernels& kernels, ek_int8_form form) {
  return form == EK_INT8_DENSE ? kernels.gemm : form == EK_INT8_BITMAP ? kernels.gemm_bitmap : kernels.gemm_bitmap_4;
}

void run_slab(const DenseKernels& kernels, Gemm gemm, const GemmArgs& args, const Input& input, int64_t rows, int64_t k,
              const ek_parallel* parallel) {
  int64_t panels = args.rhs.padded_n / kPanelColumns;
  int threads = rows * args.rhs.n * k < kSerialMacs ? 1 : thread_count(parallel);
  if (threads == 1) {
    read_rows(kernels, input, k, 0, rows, args.lhs);
    return gemm(args, 0, rows, 0, panels);
  }
  int64_t ticket_rows = rows_per_ticket(rows, k, 1, threads);
  Tiles tiles(kernels, rows, panels, threads);
  run_tickets(
      parallel, ceil_div(rows, ticket_rows), tiles.count(),
      [&](int64_t t) { read_rows(kernels, input, k, t * ticket_rows, min_of(rows, (t + 1) * ticket_rows), args.lhs); },
      [&](int64_t t) {
        int64_t m0 = t % tiles.pieces * tiles.piece_rows, p0 = t / tiles.pieces * kPanelsPerTicket;
        gemm(args, m0, min_of(rows, m0 + tiles.piece_rows), p0, min_of(panels, p0 + kPanelsPerTicket));
      });
}

RhsPanels panels_of(const void* packed, const Layout& layout) {
  RhsPanels rhs{.n = layout.n,
                .padded_n = layout.padded_n(),
                .padded_k = layout.padded_k(),
                .blocks = layout.blocks(),
                .panels = at<int8_t>(packed, layout.body_offset()),
                .masks = nullptr,
                .starts = nullptr,
                .column_sum = at<int32_t>(packed, layout.column_sum_offset()),
                .odd_sum = at<int32_t>(packed, layout.odd_sum_offset()),
                .scale = at<float>(packed, layout.scale_offset()),
                .bias = at<float>(packed, layout.bias_offset())};
  if (layout.form == EK_INT8_DENSE) return rhs;
  BitmapLayout bitmap{layout};
  rhs.panels = at<int8_t>(packed, bitmap.values_offset());
  rhs.masks = at<uint8_t>(packed, bitmap.masks_offset());
  rhs.starts = at<uint64_t>(packed, bitmap.starts_offset());
  return rhs;
}

}  // namespace

size_t panels_workspace(const edgekern::Kernels& kernels, ek_int8_form, int64_t m, int64_t k) {
  return Slab(kernels.int8, m, k).bytes();
}

void run_panels(const edgekern::Kernels& kernels, const Layout& layout, const void* packed, int64_t m, const Input& input,
                const Output& output, void* workspace, const ek_parallel* parallel) {
  Slab slab(kernels.int8, m, layout.k);
  GemmArgs args{slab.at(workspace), panels_of(packed, layout), output};
  for (int64_t m0 = 0; m0 < m; m0 += slab.rows) {
    args.output = from_row(output, m0);
    run_slab(kernels.int8, gemm_of(kernels.int8, layout.form), args, input.from_row(m0), min_of(slab.rows, m - m0), layout.k,
             parallel);
  }
}

}  // namespace edgekern::int8

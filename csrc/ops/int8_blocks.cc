// A layer of a block form: tiles of rows x runs of output channels that hold about as many blocks each.
#include <algorithm>

#include "formats/int8/blocks.h"
#include "formats/int8/row_tile.h"
#include "ops/int8_forms.h"
#include "ops/tickets.h"

namespace edgekern::int8 {
namespace {

int log2_of(ek_int8_form form) {
  return form == EK_INT8_BLOCKS_1 ? 0 : form == EK_INT8_BLOCKS_2 ? 1 : form == EK_INT8_BLOCKS_4 ? 2 : 3;
}

// Where a slab's tiles and their numbers sit in the caller's workspace.
struct Slab {
  int64_t rows, padded_rows, blocks, tile_rows;

  Slab(const BlockKernels& kernels, ek_int8_form form, int64_t m, int64_t k) {
    tile_rows = kernels.tile_rows[log2_of(form)];
    blocks = round_up(k, 64) / kernels.order.line_depth;
    rows = min_of(m, max_of(1, kSlabBytes / (max_of(blocks, 1) * 4 * tile_rows)) * tile_rows);
    padded_rows = round_up(rows, kernels.lanes);
  }
  size_t bytes() const { return static_cast<size_t>(64 + padded_rows * (blocks * 4 + 8)); }

  LhsTiles at(void* workspace) const {
    uintptr_t start = (reinterpret_cast<uintptr_t>(workspace) + 63) & ~uintptr_t{63};
    uint8_t* data = reinterpret_cast<uint8_t*>(start);
    float* scale = reinterpret_cast<float*>(data + padded_rows * blocks * 4);
    return {data, blocks, rows, tile_rows, scale, reinterpret_cast<int32_t*>(scale + padded_rows)};
  }
};

template <class Visit>
void for_each_tile(const LhsTiles& lhs, int64_t lanes, Visit&& visit) {
  for (RowTile tile{0, 0}; tile.start < lhs.rows; tile.start += tile.width) {
    tile = tile_of(lhs, lanes, tile.start);
    visit(tile);
  }
}

// The n-th of `runs` runs of panels, by work: the blocks in them, and something for every channel's way to y.
int64_t run_start(const uint32_t* work, int64_t panels, int64_t runs, int64_t n) {
  constexpr int64_t kPanelWork = 64;
  auto until = [&](int64_t panel) { return work[panel] + panel * kPanelWork; };
  int64_t wanted = until(panels) * n / runs, low = 0, high = panels;
  while (low < high) {
    int64_t middle = (low + high) / 2;
    until(middle) < wanted ? low = middle + 1 : high = middle;
  }
  return low;
}

struct Body {
  RhsBlocks rhs;
  const uint32_t* work;
};

Body body_of(const void* packed, const Layout& layout) {
  BlocksLayout blocks{layout};
  const uint32_t* starts = at<uint32_t>(packed, blocks.starts_offset());
  int64_t total = starts[blocks.starts() - 1];
  return {{layout.n, layout.padded_n(), blocks.k_panels(), blocks.panel_blocks(), starts,
           at<int32_t>(packed, blocks.weights_offset()), at<char>(packed, blocks.places_offset(total)),
           at<int32_t>(packed, layout.column_sum_offset()), at<float>(packed, layout.scale_offset()),
           at<float>(packed, layout.bias_offset())},
          at<uint32_t>(packed, blocks.work_offset())};
}

void run_slab(const BlockKernels& kernels, const SpmmArgs& args, const uint32_t* work, const Input& input,
              const BlocksLayout& blocks, const ek_parallel* parallel) {
  int64_t rows = args.lhs.rows, panels = blocks.layout.panels(), k = blocks.layout.k;
  auto spmm = kernels.spmm[log2_of(blocks.layout.form)];
  int64_t macs = rows * (work[panels] * blocks.group_rows() * blocks.depth() + blocks.layout.n);
  int threads = macs < kSerialMacs ? 1 : thread_count(parallel);
  if (threads == 1) {
    read_rows(kernels, input, k, 0, rows, args.lhs);
    return for_each_tile(args.lhs, kernels.lanes, [&](RowTile tile) { spmm(args, tile.start, tile.width, 0, panels); });
  }
  // Tickets: tile t % tiles of run t / tiles, so that threads share the run's weights while they are in cache.
  int64_t full = 0, tiles = 0;
  RowTile last[8];
  for_each_tile(args.lhs, kernels.lanes, [&](RowTile tile) {
    tile.width == args.lhs.tile_rows ? void(++full) : void(last[tiles - full] = tile);
    ++tiles;
  });
  int64_t runs = std::clamp(ceil_div(kTicketsPerThread * threads, tiles), ceil_div(panels, 16), panels);
  int64_t ticket_rows = rows_per_ticket(rows, k, kernels.lanes, threads);
  run_tickets(
      parallel, ceil_div(rows, ticket_rows), tiles * runs,
      [&](int64_t t) { read_rows(kernels, input, k, t * ticket_rows, min_of(rows, (t + 1) * ticket_rows), args.lhs); },
      [&](int64_t t) {
        int64_t i = t % tiles, run = t / tiles;
        RowTile tile = i < full ? RowTile{i * args.lhs.tile_rows, args.lhs.tile_rows} : last[i - full];
        spmm(args, tile.start, tile.width, run_start(work, panels, runs, run), run_start(work, panels, runs, run + 1));
      });
}

}  // namespace

size_t blocks_workspace(const edgekern::Kernels& kernels, ek_int8_form form, int64_t m, int64_t k) {
  return Slab(kernels.int8_blocks, form, m, k).bytes();
}

void run_blocks(const edgekern::Kernels& kernels, const Layout& layout, const void* packed, int64_t m, const Input& input,
                const Output& output, void* workspace, const ek_parallel* parallel) {
  Slab slab(kernels.int8_blocks, layout.form, m, layout.k);
  Body body = body_of(packed, layout);
  SpmmArgs args{slab.at(workspace), body.rhs, output};
  for (int64_t m0 = 0; m0 < m; m0 += slab.rows) {
    args.lhs.rows = min_of(slab.rows, m - m0);
    args.output = from_row(output, m0);
    run_slab(kernels.int8_blocks, args, body.work, input.from_row(m0), BlocksLayout{layout}, parallel);
  }
}

}  // namespace edgekern::int8

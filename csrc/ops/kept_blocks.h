// A layer of kept blocks, of any format: tiles of rows x runs of output channels that hold about as many blocks each.
#pragma once

#include <algorithm>

#include "base/at.h"
#include "formats/blocks/layout.h"
#include "formats/blocks/row_tile.h"
#include "ops/tickets.h"

namespace edgekern::blocks {

// How many rows go through the caller's workspace at a time, and how they are cut into tiles.
struct Slab {
  Tiles tiles;
  int64_t padded_rows, word_bytes;

  // depth: blocks of K in a tile.
  template <class FormatKernels>
  Slab(const FormatKernels& kernels, int64_t group_rows, int64_t m, int64_t depth, int64_t word_bytes_ = 4)
      : word_bytes(word_bytes_) {
    int64_t tile_rows = kernels.tile_rows[log2_of_group_rows(group_rows)];
    int64_t rows = min_of(m, max_of(1, kSlabBytes / (max_of(depth, 1) * word_bytes * tile_rows)) * tile_rows);
    tiles = {depth, rows, tile_rows, kernels.narrowest};
    padded_rows = round_up(rows, kernels.narrowest);
  }
  size_t bytes() const { return static_cast<size_t>(64 + padded_rows * tiles.depth * word_bytes); }

  template <class Word>
  Word* words(void* workspace) const {
    return reinterpret_cast<Word*>((reinterpret_cast<uintptr_t>(workspace) + 63) & ~uintptr_t{63});
  }
};

template <class Weight>
Rhs<Weight> rhs_of(const Layout& layout, const void* packed) {
  int64_t total = *at<uint32_t>(packed, layout.last_start_offset());
  return {layout.n,
          layout.padded_n(),
          layout.k_panels(),
          layout.panel_blocks(),
          at<uint32_t>(packed, layout.starts_offset()),
          at<Weight>(packed, layout.weights_offset()),
          at<char>(packed, layout.places_offset(total))};
}

template <class Visit>
void for_each_tile(const Tiles& tiles, Visit&& visit) {
  for (RowTile tile{0, 0}; tile.start < tiles.rows; tile.start += tile.width) {
    tile = tile_of(tiles, tile.start);
    visit(tile);
  }
}

// The n-th of `runs` runs of panels, by work: the blocks in them, and something for every channel's way to y.
inline int64_t run_start(const uint32_t* work, int64_t panels, int64_t runs, int64_t n) {
  constexpr int64_t kPanelWork = 64;
  auto until = [&](int64_t panel) { return work[panel] + panel * kPanelWork; };
  int64_t wanted = until(panels) * n / runs, low = 0, high = panels;
  while (low < high) {
    int64_t middle = (low + high) / 2;
    until(middle) < wanted ? low = middle + 1 : high = middle;
  }
  return low;
}

// Bytes of the weights that tile after tile reads: they stay in L2 beside activations.
inline constexpr int64_t kRunBytes = 256 * 1024;

// read(m0, m1) brings rows of lhs into their tiles; args are the kernel's.
template <class FormatKernels, class Read, class Args>
void run_slab(const FormatKernels& kernels, const Layout& layout, const void* packed, const Tiles& tiles,
              const ek_parallel* parallel, const Read& read, const Args& args) {
  const uint32_t* work = at<uint32_t>(packed, layout.begin);
  int64_t rows = tiles.rows, panels = layout.panels();
  auto spmm = kernels.spmm[log2_of_group_rows(layout.group_rows)];
  int64_t macs = rows * (work[panels] * layout.group_rows * layout.depth + layout.n);
  int threads = macs < kSerialMacs ? 1 : thread_count(parallel);
  // Tickets: tile t % count of run t / count, so that threads share the run's weights while they are in cache, and tiles do.
  int64_t full = 0, count = 0;
  RowTile last[8];
  for_each_tile(tiles, [&](RowTile tile) {
    tile.width == tiles.tile_rows ? void(++full) : void(last[count - full] = tile);
    ++count;
  });
  int64_t shares = threads == 1 ? 1 : kTicketsPerThread * threads;
  int64_t run_bytes = work[panels] * (layout.block_bytes() + layout.place_bytes());
  int64_t runs = std::clamp(max_of(ceil_div(shares, count), ceil_div(run_bytes, kRunBytes)), int64_t{1}, panels);
  int64_t ticket_rows = threads == 1 ? rows : rows_per_ticket(rows, layout.k, kernels.read_rows, threads);
  auto read_ticket = [&](int64_t t) { read(t * ticket_rows, min_of(rows, (t + 1) * ticket_rows)); };
  auto multiply_ticket = [&](int64_t t) {
    int64_t i = t % count, run = t / count;
    RowTile tile = i < full ? RowTile{i * tiles.tile_rows, tiles.tile_rows} : last[i - full];
    spmm(args, tile.start, tile.width, run_start(work, panels, runs, run), run_start(work, panels, runs, run + 1));
  };
  if (threads == 1) {
    read_ticket(0);
    for (int64_t t = 0; t < count * runs; ++t) multiply_ticket(t);
    return;
  }
  run_tickets(parallel, ceil_div(rows, ticket_rows), count * runs, read_ticket, multiply_ticket);
}

}  // namespace edgekern::blocks

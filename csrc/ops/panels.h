// What the layers in panels of 16 output channels share, of any format: slabs of rows whose quantised form stays in cache,
// and tickets of rows x columns.
#pragma once

#include "formats/int8/layout.h"
#include "isa/kernels.h"
#include "ops/output.h"
#include "ops/tickets.h"

namespace edgekern::panels {

inline constexpr int64_t kTilePanels = 4;  // 64 columns, the widest tile
// A ticket is no less work than this where there is enough of it: the weights of a few rows are then read in runs that are long
// enough for memory to stream. At M = 1 with 90 % zeros and two threads, runs of one tile took 16 % longer on Zen 4.
inline constexpr int64_t kTicketMacs = 1024 * 1024;

// Where a slab's quantised rows and their numbers sit in the caller's workspace.
struct Slab {
  int64_t rows;  // whole groups; the last may have rows that are never filled
  int64_t stride, sums;

  // sums: how many of a row's activations there are, at least one.
  Slab(const int8::RowLayout& kernels, int64_t m, int64_t k, int64_t sums_) : sums(sums_) {
    // 64 bytes beyond the row: tails are stored whole, and rows do not all start in the same cache set.
    stride = round_up(k, 64) * kernels.lhs_bytes + 64;
    rows = round_up(min_of(m, max_of(round_up(kSlabBytes / stride, kernels.rows), 8 * kernels.rows)), kernels.group_rows);
  }
  size_t bytes() const { return static_cast<size_t>(64 + rows * (stride + 4 * (2 + sums))); }

  int8::LhsRows at(void* workspace) const {
    uintptr_t start = (reinterpret_cast<uintptr_t>(workspace) + 63) & ~uintptr_t{63};
    uint8_t* data = reinterpret_cast<uint8_t*>(start);
    float* scale = reinterpret_cast<float*>(data + rows * stride);
    int32_t* zero_point = reinterpret_cast<int32_t*>(scale + rows);
    return {data, stride, scale, zero_point, zero_point + rows, rows};
  }
};

// Output tiles of one slab: groups of panels, and, where N alone gives too few, pieces of M.
struct Tiles {
  int64_t ticket_panels, groups, pieces, piece_rows;

  Tiles(int64_t tile_rows, int64_t rows, int64_t panels, int64_t k, int threads) {
    int64_t tiles = ceil_div(panels, kTilePanels), tile_macs = rows * kTilePanels * int8::kPanelColumns * max_of(k, 1);
    int64_t most = max_of(1, tiles / (kTicketsPerThread * threads));
    ticket_panels = kTilePanels * min_of(ceil_div(kTicketMacs, tile_macs), most);
    groups = ceil_div(panels, ticket_panels);
    int64_t wanted = ceil_div(kTicketsPerThread * threads, max_of(groups, 1));
    piece_rows = round_up(ceil_div(rows, wanted), tile_rows);
    pieces = ceil_div(rows, piece_rows);
  }
  int64_t count() const { return groups * pieces; }
};

// read(m0, m1) quantises rows of lhs; gemm(m0, m1, p0, p1) makes y of rows x panels.
template <class Read, class Gemm>
void run_slab(int64_t tile_rows, int64_t rows, int64_t n, int64_t k, const ek_parallel* parallel, const Read& read,
              const Gemm& gemm) {
  int64_t panels = ceil_div(n, int8::kPanelColumns);
  int threads = rows * n * k < kSerialMacs ? 1 : thread_count(parallel);
  if (threads == 1) {
    read(0, rows);
    return gemm(0, rows, 0, panels);
  }
  int64_t ticket_rows = rows_per_ticket(rows, k, 1, threads);
  Tiles tiles(tile_rows, rows, panels, k, threads);
  run_tickets(
      parallel, ceil_div(rows, ticket_rows), tiles.count(),
      [&](int64_t t) { read(t * ticket_rows, min_of(rows, (t + 1) * ticket_rows)); },
      [&](int64_t t) {
        int64_t m0 = t % tiles.pieces * tiles.piece_rows, p0 = t / tiles.pieces * tiles.ticket_panels;
        gemm(m0, min_of(rows, m0 + tiles.piece_rows), p0, min_of(panels, p0 + tiles.ticket_panels));
      });
}

// All rows of a layer, slab by slab: read(m, m0, m1, lhs) quantises rows of the slab that starts at m, args are the kernel's.
template <class Args, class Gemm, class Read>
void run_rows(const int8::RowLayout& kernels, const Slab& slab, int64_t m, int64_t k, Args args, Gemm gemm,
              const ek_parallel* parallel, const Read& read) {
  const Output output = args.output;
  for (int64_t start = 0; start < m; start += slab.rows) {
    args.output = from_row(output, start);
    run_slab(
        kernels.rows, min_of(slab.rows, m - start), args.rhs.n, k, parallel,
        [&](int64_t m0, int64_t m1) { read(start, m0, m1, args.lhs); },
        [&](int64_t m0, int64_t m1, int64_t p0, int64_t p1) { gemm(args, m0, m1, p0, p1); });
  }
}

}  // namespace edgekern::panels

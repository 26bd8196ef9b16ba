// What the layers in panels of 16 output channels share, of any format: slabs of rows whose quantised form stays in cache,
// and tickets of rows x columns. A call may have several layers that read the same rows: they are quantised once.
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

  Tiles() = default;
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

// A layer of a call, as its kernel wants it.
template <class Args, class Gemm>
struct Layer {
  Args args;
  Gemm gemm;

  int64_t panels() const { return ceil_div(args.rhs.n, int8::kPanelColumns); }
};

// read(m0, m1) quantises rows of lhs, or brings them in whatever form the layers' kernels multiply.
template <class Layer, class Read>
void run_slab(int64_t tile_rows, int64_t rows, int64_t k, const Layer* layers, int64_t count, const ek_parallel* parallel,
              const Read& read) {
  int64_t n = 0;
  for (int64_t i = 0; i < count; ++i) n += layers[i].args.rhs.n;
  int threads = rows * n * k < kSerialMacs ? 1 : thread_count(parallel);
  if (threads == 1) {
    read(0, rows);
    for (int64_t i = 0; i < count; ++i) layers[i].gemm(layers[i].args, 0, rows, 0, layers[i].panels());
    return;
  }
  Tiles tiles[EK_MAX_PARTS];
  int64_t tickets = 0, ends[EK_MAX_PARTS];
  for (int64_t i = 0; i < count; ++i) {
    tiles[i] = Tiles(tile_rows, rows, layers[i].panels(), k, threads);
    ends[i] = tickets += tiles[i].count();
  }
  int64_t ticket_rows = rows_per_ticket(rows, k, 1, threads);
  run_tickets(
      parallel, ceil_div(rows, ticket_rows), tickets,
      [&](int64_t t) { read(t * ticket_rows, min_of(rows, (t + 1) * ticket_rows)); },
      [&](int64_t t) {
        int64_t i = 0;
        while (t >= ends[i]) ++i;
        const Tiles& of = tiles[i];
        int64_t at = t - (ends[i] - of.count());
        int64_t m0 = at % of.pieces * of.piece_rows, p0 = at / of.pieces * of.ticket_panels;
        layers[i].gemm(layers[i].args, m0, min_of(rows, m0 + of.piece_rows), p0,
                       min_of(layers[i].panels(), p0 + of.ticket_panels));
      });
}

// All rows of a call, by slabs of so many: read(m, m0, m1, lhs) quantises rows of the slab that starts at m. The layers' outputs
// are moved on from slab to slab.
template <class Layer, class Read>
void run_rows(int64_t tile_rows, int64_t slab_rows, int64_t m, int64_t k, Layer* layers, int64_t count,
              const ek_parallel* parallel, const Read& read) {
  for (int64_t start = 0; start < m; start += slab_rows) {
    run_slab(tile_rows, min_of(slab_rows, m - start), k, layers, count, parallel,
             [&](int64_t m0, int64_t m1) { read(start, m0, m1, layers->args.lhs); });
    for (int64_t i = 0; i < count; ++i) layers[i].args.output = from_row(layers[i].args.output, slab_rows);
  }
}

}  // namespace edgekern::panels

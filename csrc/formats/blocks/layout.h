// Kept blocks: how a matrix with many zeros is packed, whatever its numbers are. A block is R output channels x D values of
// k (R = 1, 2, 4, 8) and is kept when any of its weights is not zero. A channel's part of a block is one word: four s8, two
// s16 or one f32 in 4 bytes, or one f16 in 2, so D is the format's.
//
//   begin
//   +----------------+--------------------------+-----------------+------------+
//   | work u32       | starts u32               | weights [b][R]  | places [b] |
//   | [panels16 + 1] | [k panels][groups] and 1 | words           | u8 or u16  |
//   +----------------+--------------------------+-----------------+------------+
//
// A scattered block is one word of one output channel whose D weights stand at any D values of k: it has D places, each that of
// its k in the panel, and is filled up with zeros where a channel has no more weights in the panel.
//
// A group is R neighbouring output channels. K is cut into panels, so that the activations that a panel's blocks multiply
// stay in cache while many groups use them, and a block is known by its place in the panel, u8 for R <= 2 and u16 beyond:
//
//   for each k panel p, for each group g:   blocks starts[p * groups + g] .. starts[p * groups + g + 1], rising in k
//
// work[i] counts the blocks before 16 output channels i: threads share the work by it, whatever the mask looks like.
#pragma once

#include <stdint.h>

#include "base/math.h"

namespace edgekern::blocks {

inline constexpr int64_t kPanelChannels = 16;  // N is padded to this with channels that keep nothing
inline constexpr int64_t kMaxGroupRows = 8, kMaxDepth = 4;

// Blocks in a k panel that are not scattered: see panel_blocks.
constexpr int64_t longest_panel(int64_t group_rows) { return group_rows <= 2 ? 208 : 1024; }

struct Layout {
  int64_t n, k;
  int64_t group_rows;  // R
  int64_t depth;       // D
  int64_t begin;       // bytes into the packed matrix
  bool scattered = false;
  int64_t word_bytes = 4;

  // Groups of one and two channels load a vector of activations for each product or two: their panel has to stay in L1, 26 KB
  // with tiles of 128 bytes a block. Larger groups load fewer, and are better off with fewer and longer runs of blocks, from
  // L2; so are scattered blocks, whose loads are few beside what else they take. Panels are about equal, so that none has short runs.
  int64_t panel_blocks() const {
    int64_t most = scattered ? 256 : longest_panel(group_rows);
    return ceil_div(k_blocks(), max_of(1, ceil_div(k_blocks(), most)));
  }
  int64_t block_bytes() const { return group_rows * word_bytes; }
  int64_t place_bytes() const { return scattered ? 2 * depth : group_rows <= 2 ? 1 : 2; }
  int64_t panels() const { return ceil_div(n, kPanelChannels); }
  int64_t padded_n() const { return panels() * kPanelChannels; }
  int64_t groups() const { return padded_n() / group_rows; }
  int64_t k_blocks() const { return ceil_div(k, depth); }
  int64_t k_panels() const { return k_blocks() == 0 ? 0 : ceil_div(k_blocks(), panel_blocks()); }

  int64_t starts_offset() const { return begin + (panels() + 1) * 4; }
  int64_t starts() const { return k_panels() * groups() + 1; }
  int64_t last_start_offset() const { return starts_offset() + (starts() - 1) * 4; }  // it counts all blocks
  int64_t weights_offset() const { return round_up(starts_offset() + starts() * 4, 64); }
  int64_t places_offset(int64_t blocks) const { return weights_offset() + blocks * block_bytes(); }
  int64_t bytes(int64_t blocks) const { return round_up(places_offset(blocks) + blocks * place_bytes(), 64) - begin; }
};

inline bool valid_group_rows(int64_t rows) { return rows == 1 || rows == 2 || rows == 4 || rows == kMaxGroupRows; }
inline int log2_of_group_rows(int64_t rows) { return rows == 1 ? 0 : rows == 2 ? 1 : rows == 4 ? 2 : 3; }

}  // namespace edgekern::blocks

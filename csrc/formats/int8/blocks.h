// The block forms: only blocks that hold a weight, a block being R output channels x D values of k (R = 1, 2, 4, 8).
//
// D is what one product of the ISA takes of one row: 4 as s8 where there is a dot product (VNNI, sdot), 2 as s16 where there
// is none (AVX2's vpmaddwd, NEON's smlal), which multiplies as fast as s8 does there and keeps less of an unstructured mask:
// of weights with a share s of zeros it holds 1 - s^2 instead of 1 - s^4. Either way a channel's part of a block is 4 bytes.
//
//   body_offset
//   +----------------+--------------------------+-----------------+------------+
//   | work u32       | starts u32               | weights [b][R]  | places [b] |
//   | [panels16 + 1] | [k panels][groups] and 1 | 4 bytes each    | u8 or u16  |
//   +----------------+--------------------------+-----------------+------------+
//
// A group is R neighbouring output channels. K is cut into panels, so that the activations that a panel's blocks multiply
// stay in cache while many groups use them, and a block is known by its place in the panel, u8 for R <= 2 and u16 beyond:
//
//   for each k panel p, for each group g:   blocks starts[p * groups + g] .. starts[p * groups + g + 1], rising in k
//
// work[i] counts the blocks before 16 output channels i: threads share the work by it, whatever the mask looks like.
#pragma once

#include "formats/int8/layout.h"

namespace edgekern::int8 {

struct BlocksLayout {
  Layout layout;

  // ek_int8_form's values are the numbers of output channels.
  int64_t group_rows() const { return static_cast<int64_t>(layout.form); }
  int64_t depth() const { return layout.order.line_depth; }
  // Groups of one and two channels load a vector of activations for each product or two: their panel has to stay in L1, 32 KB
  // with the widest tiles. Larger groups load fewer, and are better off with fewer and longer runs of blocks, from L2.
  int64_t panel_blocks() const { return group_rows() <= 2 ? 128 : 1024; }
  int64_t place_bytes() const { return group_rows() <= 2 ? 1 : 2; }
  int64_t groups() const { return layout.padded_n() / group_rows(); }
  int64_t k_panels() const { return ceil_div(ceil_div(layout.k, depth()), panel_blocks()); }

  int64_t work_offset() const { return layout.body_offset(); }
  int64_t starts_offset() const { return work_offset() + (layout.panels() + 1) * 4; }
  int64_t starts() const { return k_panels() * groups() + 1; }
  int64_t weights_offset() const { return round_up(starts_offset() + starts() * 4, 64); }
  int64_t places_offset(int64_t blocks) const { return weights_offset() + blocks * group_rows() * 4; }
  int64_t body_bytes(int64_t blocks) const {
    return round_up(places_offset(blocks) + blocks * place_bytes(), 64) - layout.body_offset();
  }
};

}  // namespace edgekern::int8

// The block forms: only blocks that hold a weight (formats/blocks/layout.h), a block being R output channels x D values of k.
//
// D is what one product of the ISA takes of one row: 4 as s8 where there is a dot product (VNNI, sdot), 2 as s16 where there
// is none (AVX2's vpmaddwd, NEON's smlal), which multiplies as fast as s8 does there and keeps less of an unstructured mask:
// of weights with a share s of zeros it holds 1 - s^2 instead of 1 - s^4.
#pragma once

#include "formats/blocks/layout.h"
#include "formats/int8/layout.h"

namespace edgekern::int8 {

// EK_INT8_CSR keeps no blocks but weights, D of one channel in a word (a scattered block). Vectors along M that multiply
// neighbours of k do not serve it: activations stand in planes, a byte or s16 of every row for one k after the other, and D
// planes become such vectors where they are used (csr.h).
//
// The other forms' values are the numbers of output channels.
inline int64_t group_rows_of(ek_int8_form form) { return form == EK_INT8_CSR ? 1 : static_cast<int64_t>(form); }
inline blocks::Layout kept_blocks(const Layout& layout) {
  static_assert(kPanelColumns == blocks::kPanelChannels);
  return {layout.n,
          layout.k,
          group_rows_of(layout.form),
          layout.order.line_depth,
          layout.body_offset(),
          layout.form == EK_INT8_CSR};
}

}  // namespace edgekern::int8

// Packed weights of a depthwise convolution: one filter a channel, nothing summed across channels.
//
//   byte 0              64
//   +-------------------+-------------------+-------------------+-------------------+---------------------------------+
//   | Header (64 bytes) | column_sum s32    | scale f32         | bias f32          | words s32                       |
//   |                   | [padded_channels] | [padded_channels] | [padded_channels] | [row groups][kw][padded_channels] |
//   +-------------------+-------------------+-------------------+-------------------+---------------------------------+
//
// A word is what one lane of a product takes: the weights of `depth` neighbouring rows of the filter at one of its columns, of
// one channel. A lane is a channel.
//
//   word (g, s, c), depth 4:   | w[c][4g][s] | w[c][4g + 1][s] | w[c][4g + 2][s] | w[c][4g + 3][s] |   as s8
//   depth 2:                   | w[c][2g][s]                   | w[c][2g + 1][s]                   |   as s16
//
// Rows beyond the filter and channels beyond the last are zeros. Channels are padded to 64, the width of a tile.
#pragma once

#include "base/math.h"
#include "edgekern/edgekern.h"

namespace edgekern::int8 {

struct DepthwiseLayout {
  int64_t channels, kernel_h, kernel_w;
  int64_t depth;  // of a word, 4 or 2: an ISA's kBlockOrder.line_depth

  int64_t row_groups() const { return ceil_div(kernel_h, depth); }
  int64_t padded_channels() const { return round_up(channels, 64); }
  int64_t column_sum_offset() const { return 64; }
  int64_t scale_offset() const { return column_sum_offset() + 4 * padded_channels(); }
  int64_t bias_offset() const { return scale_offset() + 4 * padded_channels(); }
  int64_t words_offset() const { return bias_offset() + 4 * padded_channels(); }
  int64_t bytes() const { return words_offset() + 4 * row_groups() * kernel_w * padded_channels(); }
};

}  // namespace edgekern::int8

// Which tile of LhsTiles a row is in.
#pragma once

#include "base/math.h"
#include "isa/kernels.h"

namespace edgekern::int8 {
namespace {

struct RowTile {
  int64_t start, width;
};

// All tiles are tile_rows wide, but for those of the last rows: as many vectors as they need, in falling powers of two.
[[maybe_unused]] RowTile tile_of(const LhsTiles& lhs, int64_t lanes, int64_t row) {
  int64_t start = row / lhs.tile_rows * lhs.tile_rows, width = lhs.tile_rows;
  for (int64_t left = round_up(lhs.rows - start, lanes);; left -= width, start += width) {
    while (width > left) width /= 2;
    if (row < start + width) return {start, width};
  }
}

}  // namespace
}  // namespace edgekern::int8

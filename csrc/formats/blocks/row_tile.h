// Which tile of lhs a row is in.
#pragma once

#include "base/math.h"
#include "isa/kernels.h"

namespace edgekern::blocks {
namespace {

struct RowTile {
  int64_t start, width;
};

// All tiles are tile_rows wide, but for those of the last rows: as wide as they need, in falling powers of two.
[[maybe_unused]] RowTile tile_of(const Tiles& tiles, int64_t row) {
  int64_t start = row / tiles.tile_rows * tiles.tile_rows, width = tiles.tile_rows;
  for (int64_t left = round_up(tiles.rows - start, tiles.narrowest);; left -= width, start += width) {
    while (width > left) width /= 2;
    if (row < start + width) return {start, width};
  }
}

}  // namespace
}  // namespace edgekern::blocks

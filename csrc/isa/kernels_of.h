// Fills a kernel table from one ISA's vocabulary. The last line of every ISA file uses it.
#pragma once

#include "formats/f16/spmm.h"
#include "formats/f32/spmm.h"
#include "formats/int4/activations.h"
#include "formats/int4/gemm.h"
#include "formats/int4/row.h"
#include "formats/int8/csr.h"
#include "formats/int8/depthwise.h"
#include "formats/int8/expand.h"
#include "formats/int8/gather.h"
#include "formats/int8/gemm_direct.h"
#include "formats/int8/image.h"
#include "formats/int8/max_pool.h"
#include "formats/int8/quantize.h"
#include "formats/int8/row.h"
#include "formats/int8/spmm.h"
#include "formats/int8/sum.h"
#include "formats/mixed/gemm.h"
#include "formats/rows/rows.h"
#include "isa/kernels.h"

namespace edgekern {
namespace {

template <class Isa>
constexpr int8::RowLayout kRowLayout{
    .rows = Isa::kRows, .group_rows = Isa::kGroupRows, .lhs_bytes = Isa::kLhsBytes, .plain = int8::kPlainRows<Isa>};

template <class Tile>
constexpr int64_t tile_rows(int channels) {
  return Tile::vectors(channels) * Tile::kLanes;
}

// Int4: the vocabulary for int4, where the ISA's own has a trick for s8 that nibbles do not need.
template <class Isa, class Int4 = Isa>
constexpr Kernels kernels_of() {
  using F32Tile = f32::Product<Isa>;
  using F16Tile = f16::Product<Isa>;
  return {
      .int8 = {.gemm_name = Isa::kInt8GemmName,
               .gemv_name = Isa::kInt8GemvName,
               .order = Isa::kOrder,
               .lhs = kRowLayout<Isa>,
               .quantize = int8::quantize<Isa>,
               .quantize_u8 = int8::quantize_u8<Isa>,
               .load_u8 = int8::load_u8<Isa>,
               .gemm = int8::gemm<Isa>,
               .gemm_bitmap = int8::gemm_bitmap<Isa, 1>,
               .gemm_bitmap_4 = int8::gemm_bitmap<Isa, 4>,
               .read_row = int8::read_row<Isa>},
      .int8_images = {.depthwise_name = Isa::kInt8DepthwiseName,
                      .depth = Isa::kBlockOrder.line_depth,
                      .range = int8::image_range<Isa>,
                      .quantize = int8::quantize_pixels<Isa>,
                      .store_planes = int8::store_planes<Isa>,
                      .gather = int8::gather<Isa>,
                      .depthwise = int8::depthwise<Isa>,
                      .add = int8::add_images<Isa>,
                      .max_pool = int8::max_pool<Isa>},
      .int8_blocks = {.name = Isa::kInt8SpmmName,
                      .order = Isa::kBlockOrder,
                      .narrowest = Isa::kLanes,
                      .read_rows = Isa::kLanes,
                      .tile_rows = {Isa::block_vectors(1) * Isa::kLanes, Isa::block_vectors(2) * Isa::kLanes,
                                    Isa::block_vectors(4) * Isa::kLanes, Isa::block_vectors(8) * Isa::kLanes},
                      .quantize = int8::quantize_tiles<Isa>,
                      .load_u8 = int8::load_tiles_u8<Isa>,
                      .spmm = {int8::spmm<Isa, 1>, int8::spmm<Isa, 2>, int8::spmm<Isa, 4>, int8::spmm<Isa, 8>}},
      .int8_csr = {.name = Isa::kInt8SpmmName,
                   .order = Isa::kBlockOrder,
                   .narrowest = int8::kCsrNarrowest<Isa>,
                   .read_rows = int8::kCsrRows<Isa>,
                   .tile_rows = {int8::kCsrRows<Isa>},
                   .quantize = int8::quantize_planes<Isa>,
                   .load_u8 = int8::load_planes_u8<Isa>,
                   .spmm = {int8::spmm_csr<Isa>}},
      .int4 = {.gemm_name = Int4::kInt4GemmName,
               .gemv_name = Int4::kInt4GemvName,
               .line_depth = Int4::kOrder.line_depth,
               .lhs = kRowLayout<Int4>,
               .quantize = int4::quantize<Int4>,
               .load_u8 = int4::load_u8<Int4>,
               .gemm = int4::gemm<Int4, int4::DenseRaw>,
               .gemm_bitmap = int4::gemm<Int4, int4::BitmapRaw>,
               .gemm_bitmap_2 = int4::gemm<Int4, int4::PairRaw>,
               .read_row = int4::read_row<Int4>},
      .mixed = {.rows = Isa::kMixedRows,
                .load = mixed::load_rows<Isa>,
                .gemm_int8 = mixed::gemm_int8<Isa>,
                .gemm_int4 = mixed::gemm_int4<Isa, Int4::kOrder.line_depth>},
      .f32 = {.name = Isa::kF32SpmmName,
              .lhs_bytes = sizeof(typename F32Tile::Word),
              .narrowest = F32Tile::kLanes,
              .read_rows = F32Tile::kLanes,
              .tile_rows = {tile_rows<F32Tile>(1), tile_rows<F32Tile>(2), tile_rows<F32Tile>(4), tile_rows<F32Tile>(8)},
              .load = f32::load_tiles<Isa>,
              .spmm = {f32::spmm<Isa, 1>, f32::spmm<Isa, 2>, f32::spmm<Isa, 4>, f32::spmm<Isa, 8>}},
      .f16 = {.name = Isa::kF16SpmmName,
              .lhs_bytes = sizeof(typename F16Tile::Word),
              .narrowest = F16Tile::kLanes,
              .read_rows = F16Tile::kLanes,
              .tile_rows = {tile_rows<F16Tile>(1), tile_rows<F16Tile>(2), tile_rows<F16Tile>(4), tile_rows<F16Tile>(8)},
              .load = f16::load_tiles<Isa>,
              .spmm = {f16::spmm<Isa, 1>, f16::spmm<Isa, 2>, f16::spmm<Isa, 4>, f16::spmm<Isa, 8>}},
      .rows = {.sum_squares = rows::sum_squares<Isa>,
               .scale = rows::scale<Isa>,
               .gate = rows::gate<Isa>,
               .rotate = rows::rotate<Isa>},
      .peak_int8_macs = int8::peak_macs<Isa>,
      .stream_read = int8::stream_read<Isa>,
  };
}

}  // namespace
}  // namespace edgekern

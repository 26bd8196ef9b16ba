// Fills a kernel table from one ISA's vocabulary. The last line of every ISA file uses it.
#pragma once

#include "formats/f32/spmm.h"
#include "formats/int4/gemm.h"
#include "formats/int8/csr.h"
#include "formats/int8/expand.h"
#include "formats/int8/gemm.h"
#include "formats/int8/quantize.h"
#include "formats/int8/spmm.h"
#include "isa/kernels.h"

namespace edgekern {
namespace {

template <class Isa>
constexpr int8::RowLayout kRowLayout{.rows = Isa::kRows, .group_rows = Isa::kGroupRows, .lhs_bytes = Isa::kLhsBytes};

// Int4: the vocabulary for int4, where the ISA's own has a trick for s8 that nibbles do not need.
template <class Isa, class Int4 = Isa>
constexpr Kernels kernels_of() {
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
               .gemm_bitmap_4 = int8::gemm_bitmap<Isa, 4>},
      .int8_blocks = {.name = Isa::kInt8SpmmName,
                      .order = Isa::kBlockOrder,
                      .narrowest = Isa::kLanes,
                      .tile_rows = {Isa::block_vectors(1) * Isa::kLanes, Isa::block_vectors(2) * Isa::kLanes,
                                    Isa::block_vectors(4) * Isa::kLanes, Isa::block_vectors(8) * Isa::kLanes},
                      .quantize = int8::quantize_tiles<Isa>,
                      .load_u8 = int8::load_tiles_u8<Isa>,
                      .spmm = {int8::spmm<Isa, 1>, int8::spmm<Isa, 2>, int8::spmm<Isa, 4>, int8::spmm<Isa, 8>}},
      .int8_csr = {.name = Isa::kInt8SpmmName,
                   .order = Isa::kBlockOrder,
                   .narrowest = int8::kCsrRows<Isa>,
                   .tile_rows = {int8::kCsrRows<Isa>},
                   .quantize = int8::quantize_planes<Isa>,
                   .load_u8 = int8::load_planes_u8<Isa>,
                   .spmm = {int8::spmm_csr<Isa>}},
      .int4 = {.gemm_name = Int4::kInt4GemmName,
               .gemv_name = Int4::kInt4GemvName,
               .line_depth = Int4::kOrder.line_depth,
               .lhs = kRowLayout<Int4>,
               .quantize = int8::quantize<Int4>,
               .gemm = int4::gemm<Int4, int4::DenseRaw>,
               .gemm_bitmap = int4::gemm<Int4, int4::BitmapRaw>,
               .gemm_bitmap_2 = int4::gemm<Int4, int4::PairRaw>},
      .f32 = {.name = Isa::kF32SpmmName,
              .narrowest = Isa::kLanes,
              .tile_rows = {Isa::f32_vectors(1) * Isa::kLanes, Isa::f32_vectors(2) * Isa::kLanes,
                            Isa::f32_vectors(4) * Isa::kLanes, Isa::f32_vectors(8) * Isa::kLanes},
              .load = f32::load_tiles<Isa>,
              .spmm = {f32::spmm<Isa, 1>, f32::spmm<Isa, 2>, f32::spmm<Isa, 4>, f32::spmm<Isa, 8>}},
      .peak_int8_macs = int8::peak_macs<Isa>,
      .stream_read = int8::stream_read<Isa>,
  };
}

}  // namespace
}  // namespace edgekern

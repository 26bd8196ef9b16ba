// Layers of the forms in panels, dense and bitmap: slabs of rows, tiles of rows x 64 columns.
#include "formats/int8/bitmap.h"
#include "ops/dense_rhs.h"
#include "ops/int8_forms.h"
#include "ops/panels.h"

namespace edgekern::int8 {
namespace {

using Gemm = decltype(DenseKernels::gemm);

Gemm gemm_of(const DenseKernels& kernels, ek_int8_form form) {
  return form == EK_INT8_DENSE ? kernels.gemm : form == EK_INT8_BITMAP ? kernels.gemm_bitmap : kernels.gemm_bitmap_4;
}

RhsPanels panels_of(const void* packed, const Layout& layout) {
  RhsPanels rhs = dense_panels(layout, packed);
  if (layout.form == EK_INT8_DENSE) return rhs;
  BitmapParts parts = BitmapLayout{layout}.parts();
  rhs.panels = at<int8_t>(packed, parts.values_offset());
  rhs.masks = at<uint8_t>(packed, parts.masks_offset());
  rhs.starts = at<uint64_t>(packed, parts.begin);
  return rhs;
}

}  // namespace

size_t panels_workspace(const edgekern::Kernels& kernels, ek_int8_form, int64_t m, int64_t k) {
  return panels::Slab(kernels.int8.lhs, m, k, blocks_of(k)).bytes();
}

void run_panels(const edgekern::Kernels& kernels, const Part* parts, int64_t count, int64_t m, const Input& input,
                void* workspace, const ek_parallel* parallel) {
  const int64_t k = parts->layout.k;
  panels::Slab slab(kernels.int8.lhs, m, k, parts->layout.blocks());
  panels::Layer<GemmArgs, Gemm> layers[EK_MAX_PARTS];
  for (int64_t i = 0; i < count; ++i) {
    const Part& part = parts[i];
    layers[i] = {{slab.at(workspace), panels_of(part.packed, part.layout), part.output},
                 gemm_of(kernels.int8, part.layout.form)};
  }
  panels::run_rows(kernels.int8.lhs.rows, slab.rows, m, k, layers, count, parallel,
                   [&](int64_t start, int64_t m0, int64_t m1, const LhsRows& lhs) {
                     read_rows(kernels.int8, input.from_row(start), k, m0, m1, lhs);
                   });
}

}  // namespace edgekern::int8

// Layers of the forms in panels, dense and bitmap: slabs of rows, tiles of rows x 64 columns.
#include "formats/int8/bitmap.h"
#include "ops/dense_rhs.h"
#include "ops/int8_forms.h"
#include "ops/panels.h"

namespace edgekern::int8 {

PanelGemm panel_gemm(const edgekern::Kernels& kernels, const void* packed, const Layout& layout) {
  RhsPanels rhs = dense_panels(layout, packed);
  if (layout.form == EK_INT8_DENSE) return {rhs, kernels.int8.gemm};
  BitmapParts parts = BitmapLayout{layout}.parts();
  rhs.panels = at<int8_t>(packed, parts.values_offset());
  rhs.masks = at<uint8_t>(packed, parts.masks_offset());
  rhs.starts = at<uint64_t>(packed, parts.begin);
  return {rhs, layout.form == EK_INT8_BITMAP ? kernels.int8.gemm_bitmap : kernels.int8.gemm_bitmap_4};
}

size_t panels_workspace(const edgekern::Kernels& kernels, ek_int8_form, int64_t m, int64_t k) {
  return panels::Slab(kernels.int8.lhs, m, k, blocks_of(k)).bytes();
}

void run_panels(const edgekern::Kernels& kernels, const Part* parts, int64_t count, int64_t m, const Input& input,
                void* workspace, const ek_parallel* parallel) {
  const int64_t k = parts->layout.k;
  panels::Slab slab(kernels.int8.lhs, m, k, parts->layout.blocks());
  panels::Layer<GemmArgs, decltype(DenseKernels::gemm)> layers[EK_MAX_PARTS];
  for (int64_t i = 0; i < count; ++i) {
    const PanelGemm matrix = panel_gemm(kernels, parts[i].packed, parts[i].layout);
    layers[i] = {{slab.at(workspace), matrix.rhs, parts[i].output}, matrix.gemm};
  }
  panels::run_rows(kernels.int8.lhs.rows, slab.rows, m, k, layers, count, parallel,
                   [&](int64_t start, int64_t m0, int64_t m1, const LhsRows& lhs) {
                     read_rows(kernels.int8, input.from_row(start), k, m0, m1, lhs);
                   });
}

}  // namespace edgekern::int8

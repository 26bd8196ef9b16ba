// Layers of each kind of packed matrix, in panels or in blocks, behind the checks of int8_linear.cc.
#pragma once

#include "base/dtype.h"
#include "base/parallel.h"
#include "formats/int8/layout.h"
#include "isa/kernels.h"
#include "ops/output.h"

namespace edgekern::int8 {

// The order of bytes that an ISA reads a form in.
inline Order order_of(const edgekern::Kernels& kernels, ek_int8_form form) {
  return in_panels(form) ? kernels.int8.order : kernels.int8_blocks.order;
}

// Rows of activations: floats to quantise, or u8 with their zero points.
struct Input {
  const void* data;
  ek_dtype dtype;
  int64_t ld;                  // elements
  const int32_t* zero_point;   // nullptr: floats
  const ek_int8_range* range;  // of floats; nullptr: each row's own

  Input from_row(int64_t m) const {
    int64_t bytes = zero_point != nullptr ? 1 : bytes_of(dtype);
    return {static_cast<const char*>(data) + m * ld * bytes, dtype, ld, zero_point == nullptr ? nullptr : zero_point + m,
            range};
  }
};

// Quantises rows [m0, m1), or takes them as they are, with the kernels of either kind.
template <class FormKernels, class Lhs>
void read_rows(const FormKernels& kernels, const Input& input, int64_t k, int64_t m0, int64_t m1, const Lhs& lhs) {
  if (input.zero_point == nullptr) return kernels.quantize(input.data, input.dtype, input.ld, k, input.range, m0, m1, lhs);
  kernels.load_u8(static_cast<const uint8_t*>(input.data), input.ld, input.zero_point, k, m0, m1, lhs);
}

// A layer of a call.
struct Part {
  Layout layout;
  const void* packed;
  Output output;
};

// A matrix in panels, and what multiplies by it.
struct PanelGemm {
  RhsPanels rhs;
  decltype(DenseKernels::gemm) gemm;
};
PanelGemm panel_gemm(const edgekern::Kernels& kernels, const void* packed, const Layout& layout);

size_t panels_workspace(const edgekern::Kernels& kernels, ek_int8_form form, int64_t m, int64_t k);
// 1 to EK_MAX_PARTS of them, of one k.
void run_panels(const edgekern::Kernels& kernels, const Part* parts, int64_t count, int64_t m, const Input& input,
                void* workspace, const ek_parallel* parallel);

// What multiplies by a matrix of a block form, and the matrix: its caller adds activations and where results go.
inline const BlockKernels& block_kernels(const edgekern::Kernels& kernels, ek_int8_form form) {
  return form == EK_INT8_CSR ? kernels.int8_csr : kernels.int8_blocks;
}
SpmmArgs spmm_args(const Layout& layout, const void* packed);

size_t blocks_workspace(const edgekern::Kernels& kernels, ek_int8_form form, int64_t m, int64_t k);
void run_blocks(const edgekern::Kernels& kernels, const Part& part, int64_t m, const Input& input, void* workspace,
                const ek_parallel* parallel);

}  // namespace edgekern::int8

// The layers of pruned weights that stay floats, f32 and f16: validate, cut into tiles of rows, multiply by kept blocks.
#include "base/activation.h"
#include "base/dtype.h"
#include "formats/f16/layout.h"
#include "formats/f32/layout.h"
#include "formats/shape.h"
#include "isa/kernels.h"
#include "ops/kept_blocks.h"
#include "ops/output.h"

namespace edgekern::floats {
namespace {

// Tiles of a slab, and a scale for each row, in the caller's workspace.
struct Slab : blocks::Slab {
  template <class Weight>
  Slab(const Kernels<Weight>& kernels, int64_t channels, int64_t m, int64_t k)
      : blocks::Slab(kernels, channels, m, round_up(k, kernels.narrowest), kernels.lhs_bytes) {}
  size_t bytes() const { return blocks::Slab::bytes() + static_cast<size_t>(padded_rows * 4); }

  LhsTiles at(void* workspace) const {
    char* data = words<char>(workspace);
    return {tiles, data, reinterpret_cast<float*>(data + padded_rows * tiles.depth * word_bytes)};
  }
};

template <class Weight>
size_t workspace_size(Kernels<Weight> edgekern::Kernels::*format, const ek_isa* isa, int64_t channels, int64_t m, int64_t k) {
  const edgekern::Kernels* kernels = nullptr;
  if (!blocks::valid_group_rows(channels) || m < 0 || !valid_shape(0, k) || resolve_isa(isa, &kernels) != EK_OK) return 0;
  return Slab(kernels->*format, channels, m, k).bytes();
}

// The layer's rows and where its results go.
struct Call {
  int64_t m;
  const void* lhs;
  int64_t ld_lhs;
  Output output;
  void* workspace;
  size_t workspace_size;
  const ek_parallel* parallel;
};

template <class Format>
ek_status linear(Kernels<typename Format::Weight> edgekern::Kernels::*format, const ek_isa* isa, const void* packed,
                 size_t packed_size, const Call& call) {
  using Weight = typename Format::Weight;
  const Output& output = call.output;
  const int64_t m = call.m;
  if (!valid_dtype(output.dtype)) return EK_ERROR_DTYPE;
  if (!valid_activation(output.activation)) return EK_ERROR_ACTIVATION;
  blocks::Layout layout{};
  ek_status status = Format::open(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  const edgekern::Kernels* all = nullptr;
  status = resolve_isa(isa, &all);
  if (status != EK_OK) return status;
  if (m < 0) return EK_ERROR_SHAPE;
  if (m == 0 || layout.n == 0) return EK_OK;
  if ((call.lhs == nullptr && layout.k > 0) || output.y == nullptr || call.workspace == nullptr) return EK_ERROR_NULL_POINTER;
  if (m > 1 && (call.ld_lhs < layout.k || output.ld_y < layout.n)) return EK_ERROR_STRIDE;
  const Kernels<Weight>& kernels = all->*format;
  Slab slab(kernels, layout.group_rows, m, layout.k);
  if (call.workspace_size < slab.bytes()) return EK_ERROR_WORKSPACE;

  SpmmArgs<Weight> args{slab.at(call.workspace), blocks::rhs_of<Weight>(layout, packed), at<float>(packed, kBiasOffset),
                        Format::kScaled ? at<float>(packed, scale_offset(layout)) : nullptr, output};
  for (int64_t m0 = 0; m0 < m; m0 += slab.tiles.rows) {
    args.lhs.tiles.rows = min_of(slab.tiles.rows, m - m0);
    args.output = from_row(output, m0);
    const char* rows = static_cast<const char*>(call.lhs) + m0 * call.ld_lhs * bytes_of(output.dtype);
    auto read = [&](int64_t begin, int64_t end) {
      kernels.load(rows, output.dtype, call.ld_lhs, layout.k, begin, end, args.lhs);
    };
    blocks::run_slab(kernels, layout, packed, args.lhs.tiles, call.parallel, read, args);
  }
  return EK_OK;
}

}  // namespace
}  // namespace edgekern::floats

using namespace edgekern;

extern "C" size_t ek_f32_workspace_size(const ek_isa* isa, int64_t channels, int64_t m, int64_t k) {
  return floats::workspace_size(&edgekern::Kernels::f32, isa, channels, m, k);
}

extern "C" ek_status ek_f32_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                   ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                   void* workspace, size_t workspace_size, const ek_parallel* parallel) {
  return floats::linear<f32::Format>(
      &edgekern::Kernels::f32, isa, packed, packed_size,
      {m, lhs, ld_lhs, {y, ld_y, dtype, activation, false}, workspace, workspace_size, parallel});
}

extern "C" int ek_f16_halves(const ek_isa* isa) {
  const edgekern::Kernels* kernels = nullptr;
  return resolve_isa(isa, &kernels) == EK_OK && kernels->f16.lhs_bytes == 2 ? 1 : 0;
}

extern "C" size_t ek_f16_workspace_size(const ek_isa* isa, int64_t channels, int64_t m, int64_t k) {
  return floats::workspace_size(&edgekern::Kernels::f16, isa, channels, m, k);
}

extern "C" ek_status ek_f16_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                   ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                   void* workspace, size_t workspace_size, const ek_parallel* parallel) {
  return floats::linear<f16::Format>(
      &edgekern::Kernels::f16, isa, packed, packed_size,
      {m, lhs, ld_lhs, {y, ld_y, dtype, activation, false}, workspace, workspace_size, parallel});
}

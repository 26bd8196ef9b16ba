// What the torch ops of linear layers share: the formats, x as a matrix of rows, and a layer as the library takes it.
#pragma once

#include <utility>

#include "torch_tensors.h"

namespace edgekern {

// What a number format brings to its linear ops.
struct LinearFormat : Packing {
  size_t (*workspace_size)(int64_t variant, int64_t m, int64_t k);
  decltype(&ek_int8_linears) linears;
};

// Codes of edgekern.ops.LINEARS: formats, and what activations are.
enum : int { kInt8Linear, kInt4Linear, kInt8FloatLinear, kInt4FloatLinear, kF32Linear, kF16Linear, kLinearFormats };
extern const LinearFormat linear_formats[kLinearFormats];

// A new contiguous CPU tensor of x's shape with `last` in place of its last size.
TensorHandle empty_like_rows(const View& x, int64_t last);

// x as a matrix: all dims but the last folded into m rows, ld elements apart.
struct Rows {
  int64_t m, ld;
};

// Throws unless x has rows; how many there are.
int64_t count_rows(const Packing& packing, const View& x);
// x itself, or a contiguous copy where its memory is no such matrix.
TensorHandle fold_rows(TensorHandle x, const View& view, Rows* rows);

// Checks a layer's matrix and says where it lies, but for y; *workspace_size grows to what m rows need.
struct OpenedLayer {
  ek_part part;
  Shape shape;
};
OpenedLayer open_layer(const LinearFormat& format, const TensorHandle& packed, int64_t m, size_t* workspace_size);

// Throws unless x ends in as many features as a matrix takes.
void expect_features(const Packing& packing, const View& x, int64_t k);

}  // namespace edgekern

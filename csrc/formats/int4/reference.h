// The oracle: the int4 layer as its definition in edgekern.h reads, in the plainest code. Linked into tests only.
#pragma once

#include <stdint.h>

#include <vector>

#include "edgekern/edgekern.h"
#include "formats/int8/reference.h"

namespace edgekern::int4::reference {

// Canonical weights.
struct Weights {
  int64_t n, k, group_size;
  std::vector<uint8_t> w;  // [n][row_bytes()], two a byte
  std::vector<uint16_t> scale;
  std::vector<uint8_t> zero;  // empty: symmetric

  int64_t groups() const { return (k + group_size - 1) / group_size; }
  int64_t row_bytes() const { return (k + 1) / 2; }
  int64_t group_at(int64_t row, int64_t column) const { return row * groups() + column / group_size; }
  int nibble(int64_t row, int64_t column) const { return w[row * row_bytes() + column / 2] >> 4 * (column % 2) & 15; }
  int integer(int64_t row, int64_t column) const;  // w - zero
  double value(int64_t row, int64_t column) const;
};

// Round to nearest, without clipping. rhs [n][k].
Weights quantize(int64_t n, int64_t k, int64_t group_size, const float* rhs, bool symmetric);

struct Linear {
  std::vector<double> y, error;  // error: what edgekern.h allows before activation
};
Linear linear(int64_t m, const int8::reference::Quantized& lhs, const Weights& rhs, const float* bias,
              ek_activation activation);

}  // namespace edgekern::int4::reference

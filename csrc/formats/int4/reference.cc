#include "formats/int4/reference.h"

#include <math.h>

#include <algorithm>

#include "base/half.h"
#include "formats/activation_reference.h"

namespace edgekern::int4::reference {

int Weights::integer(int64_t row, int64_t column) const {
  return nibble(row, column) - (zero.empty() ? 8 : zero[group_at(row, column)]);
}

double Weights::value(int64_t row, int64_t column) const {
  return double{f16_to_f32(scale[group_at(row, column)])} * integer(row, column);
}

namespace {

// The largest f16 scale of which all weights are multiples by one of 16 neighbouring integers, 0 among them; 0 if there is none.
uint16_t scale_of_multiples(const std::vector<float>& values, bool symmetric) {
  for (uint16_t half = 0x7bff; half > 0; --half) {
    double scale = f16_to_f32(half), low = symmetric ? -8 : 0, high = symmetric ? 7 : 0;
    bool all = std::all_of(values.begin(), values.end(), [&](float value) {
      double level = value / scale;
      low = std::min(low, level);
      high = std::max(high, level);
      return level == nearbyint(level) && high - low <= 15;
    });
    if (all) return half;
  }
  return 0;
}

}  // namespace

Weights quantize(int64_t n, int64_t k, int64_t group_size, const float* rhs, bool symmetric) {
  Weights out{n, k, group_size, {}, {}, {}};
  out.w.resize(n * out.row_bytes());
  for (int64_t row = 0; row < n; ++row)
    for (int64_t k0 = 0; k0 < k; k0 += group_size) {
      int64_t k1 = std::min(k, k0 + group_size);
      float low = 0, high = 0;
      for (int64_t i = k0; i < k1; ++i) {
        low = std::min(low, rhs[row * k + i]);
        high = std::max(high, rhs[row * k + i]);
      }
      std::vector<float> values(rhs + row * k + k0, rhs + row * k + k1);
      uint16_t half = low == 0 && high == 0 ? 0 : scale_of_multiples(values, symmetric);
      if (half == 0) half = f32_to_f16(symmetric ? std::max(high / 7, -low / 8) : high / 15 - low / 15);
      float scale = f16_to_f32(half);
      int zero = symmetric ? 8 : scale == 0 ? 0 : std::clamp(static_cast<int>(nearbyintf(-low / scale)), 0, 15);
      out.scale.push_back(scale == 0 ? f32_to_f16(1) : half);
      if (!symmetric) out.zero.push_back(static_cast<uint8_t>(zero));
      for (int64_t i = k0; i < k1; ++i) {
        int rounded = scale == 0 ? 0 : static_cast<int>(nearbyintf(rhs[row * k + i] / scale));
        int q = std::clamp(rounded + zero, 0, 15);
        out.w[row * out.row_bytes() + i / 2] |= static_cast<uint8_t>(q << 4 * (i % 2));
      }
    }
  return out;
}

Linear linear(int64_t m, const int8::reference::Quantized& lhs, const Weights& rhs, const float* bias,
              ek_activation activation) {
  Linear out{std::vector<double>(m * rhs.n), std::vector<double>(m * rhs.n)};
  for (int64_t j = 0; j < rhs.n; ++j) {
    std::vector<int32_t> w(rhs.k);
    double magnitude = 0, shift = bias == nullptr ? 0.0 : bias[j];
    for (int64_t l = 0; l < rhs.k; ++l) {
      w[l] = rhs.integer(j, l);
      magnitude += fabs(rhs.value(j, l));
    }
    for (int64_t i = 0; i < m; ++i) {
      double total = 0;
      for (int64_t g = 0; g < rhs.groups(); ++g) {
        int32_t sum = 0;  // of 128 products below 2^12
        for (int64_t l = g * rhs.group_size; l < std::min(rhs.k, (g + 1) * rhs.group_size); ++l)
          sum += (lhs.q[i * rhs.k + l] - lhs.zero_point[i]) * w[l];
        total += double{f16_to_f32(rhs.scale[j * rhs.groups() + g])} * sum;
      }
      double rounding = static_cast<double>(rhs.groups() + 3) * ldexp(1, -23);
      out.y[i * rhs.n + j] = edgekern::reference::activate(total * lhs.scale[i] + shift, activation);
      out.error[i * rhs.n + j] = rounding * (lhs.scale[i] * 255.0 * magnitude + fabs(shift));
    }
  }
  return out;
}

}  // namespace edgekern::int4::reference

#include "formats/f16/reference.h"

#include <math.h>

#include <algorithm>

namespace edgekern::f16::reference {

namespace {

// Multiples of a step, half to even.
double nearest(double value, double step) { return nearbyint(value / step) * step; }

double largest_of(int64_t k, const float* values) {
  double largest = 0;
  for (int64_t i = 0; i < k; ++i) largest = std::max(largest, fabs(double{values[i]}));
  return largest;
}

double sum_of_magnitudes(int64_t k, const float* x, const float* w) {
  double sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += w[i] == 0 ? 0 : fabs(double{x[i]} * w[i]);
  return sum;
}

}  // namespace

std::vector<float> round_weights(int64_t n, int64_t k, const float* w) {
  std::vector<float> rounded;
  for (int64_t row = 0; row < n; ++row) {
    double largest = largest_of(k, w + row * k), scale = 1;
    if (largest >= ldexp(1, -100)) scale = ldexp(1, ilogb(nearest(largest, ldexp(1, ilogb(largest) - 10))));
    for (int64_t i = 0; i < k; ++i) {
      double value = w[row * k + i] / scale;
      // From one f16 to the next: 11 bits, and 2^-24 where they are subnormal.
      double step = value == 0 ? 1 : ldexp(1, std::max(ilogb(value) - 10, -24));
      rounded.push_back(static_cast<float>(nearest(value, step) * scale));
    }
  }
  return rounded;
}

f32::reference::Linear linear(int64_t m, int64_t n, int64_t k, const float* x, const float* w, const float* bias,
                              ek_activation activation, bool halves) {
  f32::reference::Linear out = f32::reference::linear(m, n, k, x, w, bias, activation);
  if (!halves) return out;
  for (int64_t j = 0; j < n; ++j) {
    const float* row = w + j * k;
    double largest_w = largest_of(k, row), kept = static_cast<double>(k - std::count(row, row + k, 0.0f));
    double p = std::min(kept, 64.0), b = bias == nullptr ? 0 : fabs(bias[j]);
    for (int64_t i = 0; i < m; ++i)
      out.error[i * n + j] = (1.1 * p + 2) * ldexp(sum_of_magnitudes(k, x + i * k, row), -11) +
                             kept * ldexp(largest_of(k, x + i * k) * largest_w, -29) + (kept + 3) * ldexp(b, -23);
  }
  return out;
}

}  // namespace edgekern::f16::reference

#include "formats/rows/reference.h"

#include <math.h>

#include "formats/activation_reference.h"

namespace edgekern::rows::reference {

std::vector<double> rms_norm(int64_t n, const float* x, const float* weight, double eps) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{x[i]} * x[i];
  std::vector<double> y(n);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * double{weight[i]} / sqrt(sum / static_cast<double>(n) + eps);
  return y;
}

std::vector<double> gate(int64_t n, const float* z, const float* x, ek_activation activation) {
  std::vector<double> y(n);
  for (int64_t i = 0; i < n; ++i) y[i] = edgekern::reference::activate(z[i], activation) * x[i];
  return y;
}

std::vector<float> rotate(int64_t n, const float* x, const float* cos, const float* sin) {
  std::vector<float> y(n);
  for (int64_t i = 0; i < n; ++i) {
    const float turned = i < n / 2 ? -x[i + n / 2] : x[i - n / 2];
    const float first = x[i] * cos[i], second = turned * sin[i];
    y[i] = first + second;
  }
  return y;
}

}  // namespace edgekern::rows::reference

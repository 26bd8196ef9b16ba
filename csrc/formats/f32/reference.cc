#include "formats/f32/reference.h"

#include <math.h>

#include "formats/activation_reference.h"

namespace edgekern::f32::reference {

Linear linear(int64_t m, int64_t n, int64_t k, const float* x, const float* w, const float* bias, ek_activation activation) {
  Linear out;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      int64_t kept = 0;
      for (int64_t l = 0; l < k; ++l) {
        if (w[j * k + l] == 0) continue;
        double product = double{x[i * k + l]} * w[j * k + l];
        sum += product;
        magnitude += fabs(product);
        ++kept;
      }
      double b = bias == nullptr ? 0.0 : bias[j];
      out.y.push_back(edgekern::reference::activate(sum + b, activation));
      out.error.push_back(static_cast<double>(kept + 2) * ldexp(magnitude + fabs(b), -23));
    }
  return out;
}

}  // namespace edgekern::f32::reference

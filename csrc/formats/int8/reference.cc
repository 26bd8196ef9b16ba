#include "formats/int8/reference.h"

#include <math.h>

#include <algorithm>

#include "formats/activation_reference.h"

namespace edgekern::int8::reference {

Quantized quantize_lhs(int64_t m, int64_t k, const float* lhs, int64_t ld_lhs) {
  Quantized out{std::vector<uint8_t>(m * k), std::vector<float>(m), std::vector<int32_t>(m)};
  for (int64_t row = 0; row < m; ++row) {
    const float* x = lhs + row * ld_lhs;
    float low = 0, high = 0;
    bool finite = true;
    for (int64_t i = 0; i < k; ++i) {
      finite = finite && isfinite(x[i]);
      low = fminf(low, x[i]);
      high = fmaxf(high, x[i]);
    }
    float scale = high / 255.0f - low / 255.0f;
    out.scale[row] = finite ? 1.0f : NAN;
    if (!finite || scale < ldexpf(1.0f, -100)) continue;  // q and zero point stay 0
    float inverse = 1.0f / scale;
    out.scale[row] = scale;
    out.zero_point[row] = std::clamp(static_cast<int32_t>(nearbyintf(-low * inverse)), 0, 255);
    for (int64_t i = 0; i < k; ++i) {
      int32_t q = static_cast<int32_t>(nearbyintf(x[i] * inverse)) + out.zero_point[row];
      out.q[row * k + i] = static_cast<uint8_t>(std::clamp(q, 0, 255));
    }
  }
  return out;
}

Quantized quantize_lhs(int64_t m, int64_t k, const float* lhs, int64_t ld_lhs, ek_int8_range range) {
  Quantized out{std::vector<uint8_t>(m * k), std::vector<float>(m, NAN), std::vector<int32_t>(m)};
  for (int64_t row = 0; row < m; ++row) {
    const float* x = lhs + row * ld_lhs;
    if (!std::all_of(x, x + k, [](float value) { return isfinite(value); })) continue;  // q and zero point stay 0
    out.scale[row] = range.scale;
    out.zero_point[row] = range.zero_point;
    for (int64_t i = 0; i < k; ++i) {
      float q = nearbyintf(x[i] * (1.0f / range.scale)) + static_cast<float>(range.zero_point);
      out.q[row * k + i] = static_cast<uint8_t>(std::clamp(q, 0.0f, 255.0f));
    }
  }
  return out;
}

std::vector<int64_t> matmul(int64_t m, int64_t n, int64_t k, const uint8_t* q, const int32_t* zero_point, const int8_t* w) {
  std::vector<int64_t> acc(m * n);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t l = 0; l < k; ++l) acc[i * n + j] += int64_t{q[i * k + l] - zero_point[i]} * w[j * k + l];
  return acc;
}

std::vector<double> linear(int64_t m, int64_t n, int64_t k, const Quantized& lhs, const int8_t* w, const float* scale,
                           const float* bias, ek_activation activation) {
  std::vector<int64_t> acc = matmul(m, n, k, lhs.q.data(), lhs.zero_point.data(), w);
  std::vector<double> y(m * n);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = static_cast<double>(acc[i * n + j]) * lhs.scale[i] * scale[j];
      y[i * n + j] = edgekern::reference::activate(sum + (bias == nullptr ? 0.0 : bias[j]), activation);
    }
  return y;
}

}  // namespace edgekern::int8::reference

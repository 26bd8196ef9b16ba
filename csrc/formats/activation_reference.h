// Activations in double precision, for the tests' oracles.
#pragma once

#include <math.h>

#include "edgekern/edgekern.h"

namespace edgekern::reference {

inline double activate(double x, ek_activation activation) {
  switch (activation) {
    case EK_RELU:
      return x < 0 ? 0 : x;  // NaN stays
    case EK_GELU:
      return 0.5 * x * erfc(-x / sqrt(2.0));
    case EK_GELU_TANH:
      return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case EK_SILU:
      return x / (1 + exp(-x));
    case EK_RELU6:
      return x < 0 ? 0 : x > 6 ? 6 : x;
    case EK_HARDSWISH:
      return x * (x < -3 ? 0 : x > 3 ? 6 : x + 3) / 6;
    default:
      return x;
  }
}

}  // namespace edgekern::reference

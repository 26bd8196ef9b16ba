// Activations on vectors of f32, for the epilogue. NaN in gives NaN out.
#pragma once

#include "edgekern/edgekern.h"
#include "isa/tile.h"

namespace edgekern {
namespace {

// exp(x), relative error below 2e-7. x is clamped to where 2^n is a normal float; below, the result is about 1e-38.
// Cody-Waite: x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts so that r is exact; then a degree 6 Taylor
// polynomial, whose remainder r^7 / 7! is below 1.3e-7 there.
template <class Isa>
EK_INLINE typename Isa::F32 exp(typename Isa::F32 x) {
  using F32 = typename Isa::F32;
  x = Isa::min(Isa::set(88.0f), Isa::max(Isa::set(-87.0f), x));  // operand order: a NaN passes through
  F32 n = Isa::round(Isa::mul(x, Isa::set(1.44269504f)));
  F32 r = Isa::fma(n, Isa::set(-0.693359375f), x);
  r = Isa::fma(n, Isa::set(2.12194440e-4f), r);
  F32 p = Isa::set(1.0f / 720);
  p = Isa::fma(p, r, Isa::set(1.0f / 120));
  p = Isa::fma(p, r, Isa::set(1.0f / 24));
  p = Isa::fma(p, r, Isa::set(1.0f / 6));
  p = Isa::fma(p, r, Isa::set(0.5f));
  p = Isa::fma(p, r, Isa::set(1.0f));
  p = Isa::fma(p, r, Isa::set(1.0f));
  return Isa::mul(p, Isa::pow2(n));
}

// 1 / (1 + exp(-x)) times x.
template <class Isa>
EK_INLINE typename Isa::F32 times_sigmoid(typename Isa::F32 x, typename Isa::F32 z) {
  using F32 = typename Isa::F32;
  F32 e = exp<Isa>(Isa::sub(Isa::set(0.0f), z));
  return Isa::div(x, Isa::add(Isa::set(1.0f), e));
}

// x * Phi(x). Phi's tail, erfc(|x| / sqrt 2) / 2, is Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7): a polynomial in
// t times exp(-x^2 / 2). Using the tail itself for negative x keeps small results free of cancellation.
template <class Isa>
EK_INLINE typename Isa::F32 gelu(typename Isa::F32 x) {
  using F32 = typename Isa::F32;
  F32 one = Isa::set(1.0f);
  F32 magnitude = Isa::max(Isa::sub(Isa::set(0.0f), x), x);
  F32 t = Isa::div(one, Isa::fma(magnitude, Isa::set(0.3275911f * 0.70710678f), one));
  F32 p = Isa::set(0.5f * 1.061405429f);
  p = Isa::fma(p, t, Isa::set(0.5f * -1.453152027f));
  p = Isa::fma(p, t, Isa::set(0.5f * 1.421413741f));
  p = Isa::fma(p, t, Isa::set(0.5f * -0.284496736f));
  p = Isa::fma(p, t, Isa::set(0.5f * 0.254829592f));
  F32 tail = Isa::mul(Isa::mul(p, t), exp<Isa>(Isa::mul(Isa::mul(x, x), Isa::set(-0.5f))));
  return Isa::mul(x, Isa::select_negative(x, tail, Isa::sub(one, tail)));
}

template <class Isa, ek_activation A>
EK_INLINE typename Isa::F32 activate(typename Isa::F32 x) {
  if constexpr (A == EK_RELU) {
    return Isa::max(Isa::set(0.0f), x);
  } else if constexpr (A == EK_GELU) {
    return gelu<Isa>(x);
  } else if constexpr (A == EK_GELU_TANH) {
    // 0.5 x (1 + tanh u) = x / (1 + exp(-2u)),  u = sqrt(2 / pi) (x + 0.044715 x^3)
    typename Isa::F32 cubic = Isa::fma(Isa::mul(x, x), Isa::set(2 * 0.79788456f * 0.044715f), Isa::set(2 * 0.79788456f));
    return times_sigmoid<Isa>(x, Isa::mul(x, cubic));
  } else if constexpr (A == EK_SILU) {
    return times_sigmoid<Isa>(x, x);
  } else if constexpr (A == EK_RELU6) {
    return Isa::min(Isa::set(6.0f), Isa::max(Isa::set(0.0f), x));
  } else if constexpr (A == EK_HARDSWISH) {
    typename Isa::F32 gate = Isa::min(Isa::set(6.0f), Isa::max(Isa::set(0.0f), Isa::add(x, Isa::set(3.0f))));
    return Isa::mul(x, Isa::mul(gate, Isa::set(1.0f / 6)));
  } else {
    return x;
  }
}

// The same for code that is unrolled: what takes many instructions stands apart, once.
template <class Isa, ek_activation A>
__attribute__((noinline)) typename Isa::F32 activate_call(typename Isa::F32 x) {
  return activate<Isa, A>(x);
}
template <class Isa, ek_activation A>
EK_INLINE typename Isa::F32 activate_apart(typename Isa::F32 x) {
  if constexpr (A == EK_NONE || A == EK_RELU || A == EK_RELU6)
    return activate<Isa, A>(x);
  else
    return activate_call<Isa, A>(x);
}

}  // namespace
}  // namespace edgekern

// AVX-512 VNNI: servers from Cascade Lake on.
#include "isa/avx2_expand.h"
#include "isa/avx512_nibbles.h"
#include "isa/kernels_of.h"

namespace edgekern {
namespace {

struct Avx512Vnni : Avx512Product {
  template <int U>
  static EK_INLINE Expanded expand(const uint8_t* mask, const int8_t*& values) {
    if constexpr (U == 4) return expand_fours(mask, values);
    __m256i low = expand_half<U>(mask, values), high = expand_half<U>(mask + 4, values);
    __m512i line;
    // One instruction by hand: gcc 12 may copy the low half first.
    __asm__("vinserti64x4 $1, %t2, %g1, %g0" : "=v"(line) : "v"(low), "v"(high));
    return line;
  }
};

}  // namespace

extern const Kernels kernels_avx512_vnni;
constexpr Kernels kernels_avx512_vnni = kernels_of<Avx512Vnni, Avx512Nibbles<Avx512Vnni>>();

}  // namespace edgekern

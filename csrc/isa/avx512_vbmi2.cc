// AVX-512 VNNI with VBMI2: Ice Lake, Tiger and Rocket Lake, Zen 4, and later. vpexpandb puts a bitmap line's kept bytes in
// place; all else is avx512_vnni.cc.
#include "isa/avx512_nibbles.h"
#include "isa/kernels_of.h"

namespace edgekern {
namespace {

struct Avx512Vbmi2 : Avx512Product {
  template <int U>
  static EK_INLINE Expanded expand(const uint8_t* p, const int8_t*& values) {
    if constexpr (U == 4) return expand_fours(p, values);
    uint64_t mask;
    memcpy(&mask, p, 8);
    __m512i kept = load_kept(values);
    values += _mm_popcnt_u64(mask);
    // Zen 4's vpexpandb waits for what its destination held, even to make zeros of it: a register just cleared does not wait.
    __m512i line;
    __asm__("vpxord %x0, %x0, %x0\n\tvpexpandb %2, %0%{%1%}" : "=&v"(line) : "Yk"(mask), "v"(kept));
    return line;
  }
};

}  // namespace

extern const Kernels kernels_avx512_vbmi2;
constexpr Kernels kernels_avx512_vbmi2 = kernels_of<Avx512Vbmi2, Avx512Nibbles<Avx512Vbmi2>>();

}  // namespace edgekern

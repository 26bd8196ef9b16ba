// AVX-512 VNNI: servers from Cascade Lake on.
#include "isa/avx2_expand.h"
#include "isa/avx512_product.h"
#include "isa/kernels_of.h"

namespace edgekern {
namespace {

struct Avx512Vnni : Avx512Product {
  template <int U>
  static EK_INLINE Expanded expand(const uint8_t* mask, const int8_t*& values) {
    if constexpr (U == 4) return expand_fours(mask, values);
    __m256i low = expand_half<U>(mask, values);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), expand_half<U>(mask + 4, values), 1);
  }
  static EK_INLINE Line expand_line(const uint8_t* mask, const int8_t*& values) { return expand<1>(mask, values); }
};

}  // namespace

extern const Kernels kernels_avx512_vnni;
constexpr Kernels kernels_avx512_vnni = kernels_of<Avx512Vnni>();

}  // namespace edgekern

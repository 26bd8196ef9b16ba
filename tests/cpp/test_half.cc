// f16 and bf16 by integer code: all 65,536 values, and the roundings between them.
#include <doctest/doctest.h>
#include <math.h>

#include "base/half.h"

using namespace edgekern;

TEST_CASE("half: every f16 and bf16 survives the way through f32") {
  int wrong = 0;
  for (uint32_t h = 0; h < 65536; ++h) {
    uint16_t half = static_cast<uint16_t>(h);
    float f16 = f16_to_f32(half), bf16 = bf16_to_f32(half);
    wrong += isnan(f16) ? !isnan(f16_to_f32(f32_to_f16(f16))) : f32_to_f16(f16) != half;
    wrong += isnan(bf16) ? !isnan(bf16_to_f32(f32_to_bf16(bf16))) : f32_to_bf16(bf16) != half;
  }
  CHECK(wrong == 0);
  CHECK(f16_to_f32(0x3c00) == 1.0f);
  CHECK(f16_to_f32(0x0001) == ldexpf(1.0f, -24));
  CHECK(f16_to_f32(0x7bff) == 65504.0f);
}

TEST_CASE("half: halfway values go to the even neighbour") {
  int wrong = 0;
  for (uint32_t h = 0; h < 0x7bff; ++h) {  // finite and positive; the last step to Inf is below
    float low = f16_to_f32(static_cast<uint16_t>(h)), high = f16_to_f32(static_cast<uint16_t>(h + 1));
    float middle = low / 2 + high / 2;
    wrong += f32_to_f16(middle) != h + (h & 1);
    wrong += f32_to_f16(nextafterf(middle, 0)) != h;
    wrong += f32_to_f16(nextafterf(middle, INFINITY)) != h + 1;
  }
  for (uint32_t h = 0; h < 0x7f7f; ++h) {
    float low = bf16_to_f32(static_cast<uint16_t>(h)), high = bf16_to_f32(static_cast<uint16_t>(h + 1));
    wrong += f32_to_bf16(low / 2 + high / 2) != h + (h & 1);
  }
  CHECK(wrong == 0);
  CHECK(f32_to_f16(65519.0f) == 0x7bff);
  CHECK(f32_to_f16(65520.0f) == 0x7c00);
  CHECK(f32_to_f16(-1e10f) == 0xfc00);
  CHECK(f32_to_bf16(INFINITY) == 0x7f80);
}

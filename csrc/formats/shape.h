// The sizes that every format takes.
#pragma once

#include <stdint.h>

namespace edgekern {

inline constexpr int64_t kMaxColumns = int64_t{1} << 31;  // keeps the sizes of packed matrices in 63 bits
inline constexpr int64_t kMaxDepth = int64_t{1} << 24;

inline bool valid_shape(int64_t n, int64_t k) { return n >= 0 && k >= 0 && n <= kMaxColumns && k <= kMaxDepth; }

}  // namespace edgekern

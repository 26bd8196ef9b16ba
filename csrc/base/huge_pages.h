// Asks the OS to back a large buffer with huge pages. Weights that stream from DRAM then miss the TLB less.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace edgekern {

// Advice only, and only for whole huge pages inside the buffer: nothing outside it changes, memory use does not grow.
inline void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t size) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = 2 << 20;
  uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
  uintptr_t end = (reinterpret_cast<uintptr_t>(data) + size) & ~(kHugePage - 1);
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace edgekern

// The injected parallel_for: how every operation spreads its work.
#pragma once

#include <type_traits>

#include "edgekern/edgekern.h"

namespace edgekern {

inline int thread_count(const ek_parallel* parallel) {
  return parallel == nullptr || parallel->num_threads < 1 ? 1 : parallel->num_threads;
}

// Calls body(begin, end) over disjoint ranges that cover [0, n). The body's address, not a std::function, crosses the
// C boundary, so nothing is allocated.
template <class Body>
void parallel_for(const ek_parallel* parallel, int64_t n, Body&& body) {
  if (n <= 0) return;
  if (n == 1 || thread_count(parallel) == 1) return body(int64_t{0}, n);
  ek_task task = [](void* arg, int64_t begin, int64_t end) { (*static_cast<std::remove_reference_t<Body>*>(arg))(begin, end); };
  parallel->parallel_for(parallel->context, n, task, const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace edgekern

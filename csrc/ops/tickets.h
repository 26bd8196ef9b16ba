// Work is handed out by tickets, not by thread number. First every thread takes rows to quantise until none is left; then it
// waits for the rows that others still hold, and takes output tiles. A thread waits only for tickets that some running
// thread has taken, so the region is right for any number of threads, one included, whatever the pool does. Work that takes
// more steps than two does the same again.
#pragma once

#include <stdint.h>

#include <atomic>
#include <thread>

#include "base/math.h"
#include "base/parallel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace edgekern {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Waits until ready() holds. A thread that others wait for may have no core just now: then this one's is worth more to it.
template <class Ready>
void wait_until(const Ready& ready) {
  constexpr int kSpins = 4096;  // some 50 us, many times what a ticket of rows takes
  for (int spins = 0; !ready(); ++spins) spins < kSpins ? pause() : std::this_thread::yield();
}

// Work of which no ticket waits for another.
struct Phase {
  int64_t count = 0;  // tickets
  std::atomic<int64_t> next{0}, done{0};
};

// One parallel region: work(0, 0 .. phases[0].count, thread), then, when all of that is done, work(1, ..), and so on. `thread` is
// below the number of threads, and no two that run at once have the same.
template <class Work>
void run_phases(const ek_parallel* parallel, Phase* phases, int64_t count, const Work& work) {
  parallel_for(parallel, thread_count(parallel), [&](int64_t thread, int64_t) {
    for (int64_t p = 0; p < count; ++p) {
      if (p > 0) wait_until([&] { return phases[p - 1].done.load(std::memory_order_acquire) >= phases[p - 1].count; });
      for (int64_t t; (t = phases[p].next.fetch_add(1, std::memory_order_relaxed)) < phases[p].count;) {
        work(p, t, thread);
        phases[p].done.fetch_add(1, std::memory_order_release);
      }
    }
  });
}

template <int kPhases, class Work>
void run_phases(const ek_parallel* parallel, const int64_t (&counts)[kPhases], const Work& work) {
  Phase phases[kPhases];
  for (int p = 0; p < kPhases; ++p) phases[p].count = counts[p];
  run_phases(parallel, phases, kPhases, work);
}

// The same of two: prepare(0 .. preparations), then multiply(0 .. tiles).
template <class Prepare, class Multiply>
void run_tickets(const ek_parallel* parallel, int64_t preparations, int64_t tiles, const Prepare& prepare,
                 const Multiply& multiply) {
  run_phases<2>(parallel, {preparations, tiles},
                [&](int64_t phase, int64_t t, int64_t) { phase == 0 ? prepare(t) : multiply(t); });
}

// Below this many multiply-adds a second thread costs more than it brings (fork and join: about 3 us under torch).
inline constexpr int64_t kSerialMacs = 256 * 1024;
// Activations are quantised in slabs of rows whose packed form stays in L2 / L3 and bounds the workspace.
inline constexpr int64_t kSlabBytes = 4 << 20;
inline constexpr int64_t kQuantizeTicketElements = 16 * 1024;
inline constexpr int64_t kTicketsPerThread = 4;

// Rows to quantise at a time, a multiple of `unit`.
inline int64_t rows_per_ticket(int64_t rows, int64_t k, int64_t unit, int threads) {
  return round_up(min_of(ceil_div(rows, threads), max_of(1, kQuantizeTicketElements / max_of(k, 1))), unit);
}

}  // namespace edgekern

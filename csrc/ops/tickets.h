// Work is handed out by tickets. First every thread takes rows to quantise until none is left; then it waits for the rows that
// others still hold, and takes output tiles. A thread waits only for tickets that some running thread has taken, so the region is
// right for any number of threads, one included, whatever the pool does. Work that takes more steps than two does the same again.
//
// A thread begins with a stretch of tickets of its own, the same part of each step: what it made in one step is then in its core's
// cache in the next. When that is done it helps the others.
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

// Work of which no ticket waits for another, in stretches for up to kLanes threads; more of them share.
struct Phase {
  static constexpr int64_t kLanes = 4;
  struct alignas(64) Lane {
    std::atomic<int64_t> next;
    int64_t end;
  };

  int64_t count = 0;  // tickets
  int64_t lanes;
  Lane lane[kLanes];
  alignas(64) std::atomic<int64_t> done;

  void open(int64_t threads) {
    lanes = min_of(kLanes, threads);
    for (int64_t i = 0; i < lanes; ++i) {
      lane[i].next.store(count * i / lanes, std::memory_order_relaxed);
      lane[i].end = count * (i + 1) / lanes;
    }
    done.store(0, std::memory_order_relaxed);
  }
  bool is_done() const { return done.load(std::memory_order_acquire) >= count; }

  // work(ticket) for tickets that nobody has taken, until none is left.
  template <class Work>
  void run(int64_t thread, const Work& work) {
    for (int64_t i = 0; i < lanes; ++i) {
      Lane& from = lane[(thread + i) % lanes];
      int64_t taken = 0;
      for (int64_t t; (t = from.next.fetch_add(1, std::memory_order_relaxed)) < from.end; ++taken) work(t);
      if (taken > 0) done.fetch_add(taken, std::memory_order_release);
    }
  }
};

// One parallel region: work(0, 0 .. phases[0].count, thread), then, when all of that is done, work(1, ..), and so on. `thread` is
// below the number of threads, and no two that run at once have the same.
template <class Work>
void run_phases(const ek_parallel* parallel, Phase* phases, int64_t count, const Work& work) {
  const int64_t threads = thread_count(parallel);
  for (int64_t p = 0; p < count; ++p) phases[p].open(threads);
  parallel_for(parallel, threads, [&](int64_t thread, int64_t) {
    for (int64_t p = 0; p < count; ++p) {
      if (p > 0) wait_until([&] { return phases[p - 1].is_done(); });
      phases[p].run(thread, [&](int64_t ticket) { work(p, ticket, thread); });
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

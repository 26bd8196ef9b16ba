// Which threads the native work of this process runs on.
//
//   torch registered, torch >= 2.10   torch's own pool, torch.get_num_threads() wide, asked at every call
//   otherwise                         the built-in pool (ek_pool_*), set_num_threads() wide, created when first needed
//
// One pool a process: two would fight for the cores. The exception is a forked child. No thread survives a fork, and
// torch's OpenMP runtime waits for ever for the ones it had, so a child uses a fresh built-in pool.
#pragma once

#include <memory>

#include "edgekern/edgekern.h"

namespace edgekern {

int num_threads();
void set_num_threads(int n);  // the built-in pool's; n >= 1
void after_fork_in_child();

// Lends the threads for one call of the library. Lives on the caller's stack during the call.
class Threads {
 public:
  Threads();
  Threads(const Threads&) = delete;  // parallel_ points into this object
  // For the library: null means the calling thread alone.
  const ek_parallel* parallel() const { return parallel_.parallel_for == nullptr ? nullptr : &parallel_; }
  // After the call: throws std::runtime_error when torch could not run the work.
  void check() const;

 private:
  std::shared_ptr<ek_pool> pool_;  // keeps it while another thread calls set_num_threads()
  ek_parallel parallel_{};
  int32_t torch_error_ = 0;
};

}  // namespace edgekern

// The built-in pool behind ek_pool_*: for programs that bring no pool of their own.
//
// Workers sleep on a condition variable between calls; a call wakes them, every thread (the caller too) takes one
// contiguous range, and the caller returns when all are done. One call at a time: a second caller, or a nested call,
// runs its work serially on its own thread rather than waiting, so the pool cannot deadlock.
//
// After fork() the child has no workers (threads do not survive a fork). The pool notices by process id and runs serially there.
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "base/math.h"
#include "edgekern/edgekern.h"

struct ek_pool {
  explicit ek_pool(int threads) : size(threads), owner(getpid()) {
    try {
      for (int i = 1; i < size; ++i) workers.emplace_back([this, i] { work(i); });
    } catch (...) {
      stop();
      throw;
    }
  }

  ~ek_pool() {
    if (getpid() == owner) {
      stop();
    } else {
      for (std::thread& worker : workers) worker.detach();  // forked child: there is nothing to join
    }
  }

  void run(int64_t n, ek_task task, void* arg) {
    std::unique_lock<std::mutex> caller(calling, std::try_to_lock);
    if (!caller.owns_lock() || getpid() != owner) return task(arg, 0, n);
    {
      std::lock_guard<std::mutex> lock(mutex);
      job = {n, task, arg};
      pending = size - 1;
      ++generation;
    }
    wake.notify_all();
    run_share(job, 0);
    std::unique_lock<std::mutex> lock(mutex);
    done.wait(lock, [this] { return pending == 0; });
  }

  const int size;

 private:
  struct Job {
    int64_t n;
    ek_task task;
    void* arg;
  };

  void run_share(const Job& share, int index) const {
    int64_t begin = share.n * index / size, end = share.n * (index + 1) / size;
    if (begin < end) share.task(share.arg, begin, end);
  }

  void work(int index) {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return stopping || generation != seen; });
      if (stopping) return;
      seen = generation;
      Job share = job;
      lock.unlock();
      run_share(share, index);
      lock.lock();
      if (--pending == 0) done.notify_one();
    }
  }

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stopping = true;
    }
    wake.notify_all();
    for (std::thread& worker : workers) worker.join();
  }

  const pid_t owner;
  std::vector<std::thread> workers;
  std::mutex calling;  // held by the one caller whose job is running
  std::mutex mutex;    // guards everything below
  std::condition_variable wake, done;
  Job job{};
  uint64_t generation = 0;
  int pending = 0;
  bool stopping = false;
};

extern "C" ek_status ek_pool_create(int num_threads, ek_pool** pool) {
  if (pool == nullptr) return EK_ERROR_NULL_POINTER;
  *pool = nullptr;
  if (num_threads < 1) return EK_ERROR_SHAPE;
  try {
    *pool = new ek_pool(num_threads);
  } catch (const std::bad_alloc&) {
    return EK_ERROR_OUT_OF_MEMORY;
  } catch (const std::system_error&) {  // the OS refused another thread
    return EK_ERROR_OUT_OF_MEMORY;
  }
  return EK_OK;
}

extern "C" void ek_pool_destroy(ek_pool* pool) { delete pool; }

extern "C" ek_parallel ek_pool_parallel(ek_pool* pool) {
  auto run = [](void* context, int64_t n, ek_task task, void* arg) { static_cast<ek_pool*>(context)->run(n, task, arg); };
  return {run, pool, pool == nullptr ? 1 : pool->size};
}

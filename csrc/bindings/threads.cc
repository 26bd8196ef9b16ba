#include "threads.h"

#include <algorithm>
#include <mutex>
#include <new>
#include <thread>

#include "torch_shim.h"

namespace edgekern {
namespace {

struct BuiltinPool {
  std::mutex mutex;
  int size = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::shared_ptr<ek_pool> pool;  // null until first needed, and after `size` changed
};

// Never freed: the child of a fork leaves it behind, since its mutex and threads are in an unknown state there.
BuiltinPool* builtin = new BuiltinPool;
bool forked = false;

bool torch_lends_threads() { return torch_shim.parallel_for != nullptr && !forked; }

int torch_num_threads() {
  uint32_t n = 1;
  check_torch(torch_shim.num_threads(&n), "count its threads");
  return static_cast<int>(n);
}

// The built-in pool, `size` wide.
std::shared_ptr<ek_pool> builtin_pool(int size) {
  std::lock_guard<std::mutex> lock(builtin->mutex);
  if (builtin->pool == nullptr || builtin->size != size) {
    ek_pool* pool = nullptr;
    if (ek_pool_create(size, &pool) != EK_OK) throw std::bad_alloc();
    builtin->pool.reset(pool, ek_pool_destroy);
    builtin->size = size;
  }
  return builtin->pool;
}

// ek_parallel::parallel_for over torch's. The context is where an error goes: the C interface has no way to return it.
void run_on_torch(void* context, int64_t n, ek_task task, void* arg) {
  struct Work {
    ek_task task;
    void* arg;
  } work{task, arg};
  auto body = [](int64_t begin, int64_t end, void* context) {
    auto* work = static_cast<Work*>(context);
    work->task(work->arg, begin, end);
  };
  TorchError error = torch_shim.parallel_for(0, n, /*grain_size=*/1, body, &work);
  if (error != 0) *static_cast<int32_t*>(context) = error;
}

}  // namespace

int num_threads() {
  // A forked child still obeys torch.set_num_threads(): DataLoader workers set it to 1.
  if (torch_shim.num_threads != nullptr) return torch_num_threads();
  std::lock_guard<std::mutex> lock(builtin->mutex);
  return builtin->size;
}

void set_num_threads(int n) {
  std::lock_guard<std::mutex> lock(builtin->mutex);
  if (builtin->size == n) return;
  builtin->size = n;
  builtin->pool.reset();
}

void after_fork_in_child() {
  int size = builtin->size;
  builtin = new BuiltinPool;
  builtin->size = size;
  forked = true;
}

Threads::Threads() {
  int size = num_threads();
  if (size == 1) return;
  if (torch_lends_threads()) {
    parallel_ = {run_on_torch, &torch_error_, size};
  } else {
    pool_ = builtin_pool(size);
    parallel_ = ek_pool_parallel(pool_.get());
  }
}

void Threads::check() const { check_torch(torch_error_, "run work on its threads"); }

}  // namespace edgekern

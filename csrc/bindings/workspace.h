// Scratch memory for one call of the library, kept by the thread for its next call.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace edgekern {

class Workspace {
 public:
  explicit Workspace(size_t size) : size_(size) {
    if (size <= kept_.size) return;
    kept_.data.reset();  // before allocating: never hold both
    kept_.size = 0;
    kept_.data.reset(static_cast<std::byte*>(::operator new(size, kAlignment)));
    kept_.size = size;
  }
  Workspace(const Workspace&) = delete;
  ~Workspace() {
    if (kept_.size <= kMaxKept) return;
    kept_.data.reset();
    kept_.size = 0;
  }

  void* data() const { return kept_.data.get(); }
  size_t size() const { return size_; }

 private:
  // The library works in slabs of about 4 MiB, so this keeps the scratch of all but odd shapes. More is not kept: it
  // would stay with every thread that ever called.
  static constexpr size_t kMaxKept = size_t{8} << 20;
  static constexpr std::align_val_t kAlignment{64};  // a cache line, and the widest vector

  struct Free {
    void operator()(std::byte* data) const { ::operator delete(data, kAlignment); }
  };
  struct Kept {
    std::unique_ptr<std::byte, Free> data;
    size_t size;
  };
  static inline thread_local Kept kept_{};

  size_t size_;
};

}  // namespace edgekern

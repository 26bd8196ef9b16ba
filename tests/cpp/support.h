// What the tests share: seeded data, aligned and guarded memory, and the packed matrix with its oracle's weights.
#pragma once

#include <doctest/doctest.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <string>
#include <vector>

#include "edgekern/edgekern.h"

namespace edgekern::test {

// Those that this CPU runs; and of them, when EDGEKERN_TEST_ISAS is set, only the ones it names, separated by commas.
inline std::vector<const ek_isa*> tested_isas() {
  const char* names = getenv("EDGEKERN_TEST_ISAS");
  std::string wanted = ",";
  if (names != nullptr) wanted.append(names).append(",");
  std::vector<const ek_isa*> isas;
  for (size_t i = 0; i < ek_isa_count(); ++i) {
    const ek_isa* isa = ek_isa_at(i);
    std::string name = ",";
    name.append(ek_isa_name(isa)).append(",");
    bool named = names == nullptr || wanted.find(name) != std::string::npos;
    if (named && ek_isa_supported(isa)) isas.push_back(isa);
  }
  return isas;
}

inline constexpr ek_int8_form kForms[] = {EK_INT8_DENSE,    EK_INT8_BLOCKS_1, EK_INT8_BLOCKS_2, EK_INT8_BLOCKS_4,
                                          EK_INT8_BLOCKS_8, EK_INT8_BITMAP,   EK_INT8_BITMAP_4, EK_INT8_CSR};

struct IsaAndForm {
  const ek_isa* isa;
  ek_int8_form form;
};
inline std::vector<IsaAndForm> isas_and_forms() {
  std::vector<IsaAndForm> all;
  for (const ek_isa* isa : tested_isas())
    for (ek_int8_form form : kForms) all.push_back({isa, form});
  return all;
}

// splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): the same numbers with every
// standard library, and a tenth of the work of its distributions, which emulators feel.
class Random {
 public:
  explicit Random(uint32_t seed) : state_(seed) {}
  template <class T>
  std::vector<T> integers(int64_t count, int low, int high) {
    std::vector<T> values(count);
    uint64_t span = static_cast<uint64_t>(high - low) + 1;
    for (T& v : values) v = static_cast<T>(low + static_cast<int>((draw() >> 32) * span >> 32));
    return values;
  }
  // From 0 on, below 1.
  std::vector<float> uniforms(int64_t count) {
    std::vector<float> values(count);
    for (float& v : values) v = static_cast<float>(draw() >> 40) * 0x1p-24f;
    return values;
  }
  // Nearly: sums of four numbers of 16 bits, up to 3.5 deviations from the mean.
  std::vector<float> normals(int64_t count, float mean = 0, float deviation = 1) {
    float step = deviation / 37837.0f;  // such a sum's variance is 4 * 2^32 / 12
    std::vector<float> values(count);
    for (float& v : values) {
      uint64_t x = draw();
      int sum = static_cast<int>((x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48)) - 2 * 0xffff;
      v = mean + step * static_cast<float>(sum);
    }
    return values;
  }

 private:
  uint64_t draw() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  uint64_t state_;
};

// `size` bytes that end exactly where an unreadable page begins; and, with `front`, start right after one.
class Guarded {
 public:
  explicit Guarded(size_t size, bool front = false) {
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_t body = (size + page - 1) / page * page;
    length_ = body + 2 * page;
    base_ = static_cast<char*>(mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) abort();
    mprotect(base_, page, PROT_NONE);
    mprotect(base_ + page + body, page, PROT_NONE);
    data_ = front ? base_ + page : base_ + page + body - size;
  }
  Guarded(const void* from, size_t size) : Guarded(size) {
    if (size > 0) memcpy(data_, from, size);
  }
  ~Guarded() { munmap(base_, length_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }

 private:
  char* base_;
  char* data_;
  size_t length_;
};

// Canonical weights, and how they are packed for any ISA in any form.
struct Matrix {
  int64_t n, k;
  std::vector<int8_t> w;
  std::vector<float> scale, bias;

  Matrix(int64_t n_, int64_t k_, std::vector<int8_t> w_, bool with_bias = true, uint32_t seed = 7)
      : n(n_), k(k_), w(std::move(w_)) {
    Random random(seed);
    for (float v : random.normals(n)) scale.push_back(0.001f + 0.01f * v * v);
    if (with_bias) bias = random.normals(n);
  }
  static Matrix random(int64_t n, int64_t k, uint32_t seed, bool with_bias = true) {
    return Matrix(n, k, Random(seed).integers<int8_t>(n * k, -128, 127), with_bias, seed);
  }
  // The same with about this share of the weights, picked at random, not zero.
  static Matrix sparse(int64_t n, int64_t k, double density, uint32_t seed) {
    Matrix matrix = random(n, k, seed);
    std::vector<float> chance = Random(seed + 1).uniforms(n * k);
    for (int64_t i = 0; i < n * k; ++i)
      if (chance[i] >= density) matrix.w[i] = 0;
    return matrix;
  }
  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
  size_t size(const ek_isa* isa = nullptr, ek_int8_form form = EK_INT8_DENSE) const {
    return ek_int8_packed_size(isa, form, n, k, w.data(), k, nullptr);
  }
  // Packed at the first call for this ISA and form, and the same bytes after.
  char* packed(const ek_isa* isa = nullptr, ek_int8_form form = EK_INT8_DENSE) const {
    char* data = bytes(isa, form).storage.data();
    return data + (64 - reinterpret_cast<uintptr_t>(data) % 64) % 64;
  }
  // What size() said then: to say it again it would count the weights again.
  size_t packed_size(const ek_isa* isa = nullptr, ek_int8_form form = EK_INT8_DENSE) const { return bytes(isa, form).size; }

 private:
  struct Bytes {
    std::vector<char> storage;  // from its first 64-byte boundary on
    size_t size;
  };
  Bytes& bytes(const ek_isa* isa, ek_int8_form form) const {
    auto [at, fresh] = bytes_.try_emplace({isa, form});
    Bytes& made = at->second;
    if (!fresh) return made;
    made.size = size(isa, form);
    made.storage.resize(made.size + 64);
    REQUIRE(ek_int8_pack(isa, form, n, k, w.data(), k, scale.data(), bias_or_null(), packed(isa, form), made.size, nullptr) ==
            EK_OK);
    return made;
  }
  mutable std::map<std::pair<const ek_isa*, ek_int8_form>, Bytes> bytes_;
};

inline std::vector<char> workspace(const ek_isa* isa, int64_t m, int64_t k, ek_int8_form form = EK_INT8_DENSE) {
  return std::vector<char>(ek_int8_workspace_size(isa, form, m, k));
}

// The sum's error, and what the activations add to it: they are flatter than 1.2 and right to 3e-6.
inline bool close(double got, double wanted, double error, ek_activation activation) {
  return fabs(got - wanted) <= (activation == EK_NONE ? error : 1.2 * error + 3e-6 * (1 + fabs(wanted)));
}

struct Pool {
  explicit Pool(int threads) { REQUIRE(ek_pool_create(threads, &pool) == EK_OK); }
  ~Pool() { ek_pool_destroy(pool); }
  ek_parallel parallel() const { return ek_pool_parallel(pool); }
  ek_pool* pool = nullptr;
};

}  // namespace edgekern::test

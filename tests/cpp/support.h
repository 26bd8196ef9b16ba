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
#include <random>
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
                                          EK_INT8_BLOCKS_8, EK_INT8_BITMAP,   EK_INT8_BITMAP_4};

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

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  template <class T>
  std::vector<T> integers(int64_t count, int low, int high) {
    std::uniform_int_distribution<int> draw(low, high);
    std::vector<T> values(count);
    for (T& v : values) v = static_cast<T>(draw(engine_));
    return values;
  }
  std::vector<float> uniforms(int64_t count) {
    std::uniform_real_distribution<float> draw(0, 1);
    std::vector<float> values(count);
    for (float& v : values) v = draw(engine_);
    return values;
  }
  std::vector<float> normals(int64_t count, float mean = 0, float deviation = 1) {
    std::normal_distribution<float> draw(mean, deviation);
    std::vector<float> values(count);
    for (float& v : values) v = draw(engine_);
    return values;
  }

 private:
  std::mt19937 engine_;
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
    std::vector<char>& storage = storage_[{isa, form}];
    bool fresh = storage.empty();
    size_t bytes = size(isa, form);
    if (fresh) storage.resize(bytes + 64);
    char* data = storage.data() + (64 - reinterpret_cast<uintptr_t>(storage.data()) % 64) % 64;
    if (fresh) REQUIRE(ek_int8_pack(isa, form, n, k, w.data(), k, scale.data(), bias_or_null(), data, bytes, nullptr) == EK_OK);
    return data;
  }

 private:
  mutable std::map<std::pair<const ek_isa*, ek_int8_form>, std::vector<char>> storage_;
};

inline std::vector<char> workspace(const ek_isa* isa, int64_t m, int64_t k, ek_int8_form form = EK_INT8_DENSE) {
  return std::vector<char>(ek_int8_workspace_size(isa, form, m, k));
}

// The sum's error, and what the activations add to it: they are flatter than 1.2 and right to 3e-6.
inline bool close(double got, double wanted, double error, ek_activation activation) {
  return fabs(got - wanted) <= (activation == EK_NONE ? error : 1.2 * error + 3e-6 * (1 + fabs(wanted)));
}

}  // namespace edgekern::test

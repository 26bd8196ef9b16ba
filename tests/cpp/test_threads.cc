// Threads change when things happen, never what comes out.
#include <doctest/doctest.h>
#include <sys/wait.h>

#include <atomic>
#include <thread>

#include "support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

std::vector<float> linear(const Matrix& rhs, int64_t m, const std::vector<float>& x, const ek_parallel* parallel,
                          ek_int8_form form = EK_INT8_DENSE) {
  std::vector<float> y(m * rhs.n);
  std::vector<char> scratch = workspace(nullptr, m, rhs.k, form);
  REQUIRE(ek_int8_linear(nullptr, rhs.packed(nullptr, form), rhs.packed_size(nullptr, form), m, x.data(), EK_F32, rhs.k,
                         y.data(), rhs.n, EK_GELU, scratch.data(), scratch.size(), parallel) == EK_OK);
  return y;
}

}  // namespace

TEST_CASE("threads: the same bits for one to five threads") {
  Matrix rhs = Matrix::sparse(500, 600, 0.9, 1);
  for (int64_t m : {1, 5, 64, 200}) {
    std::vector<float> x = Random(2).normals(m * 600);
    std::vector<float> wanted = linear(rhs, m, x, nullptr);
    for (int threads : {1, 2, 3, 5}) {
      Pool pool(threads);
      ek_parallel parallel = pool.parallel();
      for (ek_int8_form form : kForms) CHECK(linear(rhs, m, x, &parallel, form) == wanted);
    }
  }
}

TEST_CASE("threads: all weights in one output channel, or in a few neighbours") {
  for (int64_t channels : {1, 3}) {
    Matrix rhs(700, 640, std::vector<int8_t>(700 * 640));
    std::fill_n(rhs.w.begin() + 333 * 640, channels * 640, int8_t{-7});
    Pool pool(4);
    ek_parallel parallel = pool.parallel();
    for (int64_t m : {1, 8, 17, 31, 64, 97}) {
      std::vector<float> x = Random(5).normals(m * 640), wanted = linear(rhs, m, x, nullptr);
      for (ek_int8_form form : kForms) CHECK(linear(rhs, m, x, &parallel, form) == wanted);
    }
  }
}

TEST_CASE("threads: parallel packing packs the same bytes") {
  Matrix rhs = Matrix::sparse(333, 77, 0.5, 4);
  Pool pool(3);
  ek_parallel parallel = pool.parallel();
  for (ek_int8_form form : kForms) {
    size_t size = ek_int8_packed_size(nullptr, form, 333, 77, rhs.w.data(), 77, &parallel);
    REQUIRE(size == rhs.packed_size(nullptr, form));
    Guarded packed(size, true);
    REQUIRE(ek_int8_pack(nullptr, form, 333, 77, rhs.w.data(), 77, rhs.scale.data(), rhs.bias.data(), packed.as<char>(), size,
                         &parallel) == EK_OK);
    CHECK(memcmp(packed.as<char>(), rhs.packed(nullptr, form), size) == 0);
  }
}

TEST_CASE("threads: a pool that runs everything on one thread, in one range or many") {
  // What torch does inside another parallel region, and what a pool with fewer free threads does.
  auto whole = [](void*, int64_t n, ek_task task, void* arg) { task(arg, 0, n); };
  auto one_by_one = [](void*, int64_t n, ek_task task, void* arg) {
    for (int64_t i = 0; i < n; ++i) task(arg, i, i + 1);
  };
  Matrix rhs = Matrix::random(300, 400, 5);
  std::vector<float> x = Random(6).normals(32 * 400), wanted = linear(rhs, 32, x, nullptr);
  for (auto* run : {+whole, +one_by_one}) {
    ek_parallel parallel{run, nullptr, 4};
    CHECK(linear(rhs, 32, x, &parallel) == wanted);
  }
}

TEST_CASE("threads: several callers share one pool") {
  Matrix rhs = Matrix::random(400, 500, 7);
  std::vector<float> x = Random(8).normals(20 * 500), wanted = linear(rhs, 20, x, nullptr);
  Pool pool(2);
  ek_parallel parallel = pool.parallel();
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 10; ++repeat) wrong += linear(rhs, 20, x, &parallel) != wanted;
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0);
}

TEST_CASE("threads: a forked child works on without the pool's workers") {
  Matrix rhs = Matrix::random(300, 400, 9);
  std::vector<float> x = Random(10).normals(32 * 400), wanted = linear(rhs, 32, x, nullptr);
  Pool pool(2);
  ek_parallel parallel = pool.parallel();
  CHECK(linear(rhs, 32, x, &parallel) == wanted);
  pid_t child = fork();
  if (child == 0) _exit(linear(rhs, 32, x, &parallel) == wanted ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
}

TEST_CASE("threads: bad pools are refused") {
  ek_pool* pool = nullptr;
  CHECK(ek_pool_create(0, &pool) == EK_ERROR_SHAPE);
  CHECK(ek_pool_create(2, nullptr) == EK_ERROR_NULL_POINTER);
  ek_pool_destroy(nullptr);
}

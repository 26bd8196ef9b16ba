// No byte is read or written outside what the caller gave: every buffer ends at, or starts after, an unreadable page.
#include <doctest/doctest.h>

#include "support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

constexpr ek_dtype kDtypes[] = {EK_F32, EK_F16, EK_BF16};

constexpr ek_int8_range kRange{0.25f, 3};

void run(const ek_isa* isa, ek_int8_form form, int64_t m, int64_t n, int64_t k, ek_dtype dtype, bool front) {
  size_t bytes = dtype == EK_F32 ? 4 : 2;
  Matrix rhs = Matrix::sparse(n, k, 0.5, 1);
  Guarded packed(rhs.packed_size(isa, form), true);  // 64-byte alignment holds at a page's start
  memcpy(packed.as<char>(), rhs.packed(isa, form), rhs.packed_size(isa, form));
  Guarded packed_end(rhs.packed(isa, form), rhs.packed_size(isa, form));  // and the size is a multiple of 64, so at its end too
  Guarded x(m * k * bytes, front), y(m * n * bytes, front);
  memset(x.as<char>(), 0, m * k * bytes);
  size_t scratch_size = ek_int8_workspace_size(isa, form, m, k);
  Guarded scratch(scratch_size, front);
  char* matrix = front ? packed.as<char>() : packed_end.as<char>();
  for (const ek_int8_range* range : {static_cast<const ek_int8_range*>(nullptr), &kRange}) {
    CHECK(ek_int8_set_range(matrix, rhs.packed_size(isa, form), range) == EK_OK);
    CHECK(ek_int8_linear(isa, matrix, rhs.packed_size(isa, form), m, x.as<char>(), dtype, k, y.as<char>(), n, EK_GELU,
                         scratch.as<char>(), scratch_size, nullptr) == EK_OK);
  }
}

}  // namespace

TEST_CASE("guard pages around every buffer of linear") {
  for (const ek_isa* isa : tested_isas())
    for (bool front : {false, true})
      for (ek_int8_form form : kForms)
        for (int64_t m : {1, 2, 7})
          for (int64_t n : {1, 16, 31, 65})
            for (int64_t k : {1, 4, 33, 64, 127}) run(isa, form, m, n, k, kDtypes[(m + n + k) % 3], front);
}

TEST_CASE("guard pages around quantize_lhs and matmul_s32") {
  for (const ek_isa* isa : tested_isas())
    for (int64_t k : {1, 7, 32, 65}) {
      constexpr int64_t m = 3, n = 19;
      Guarded x(m * k * 4), q(m * k), scale(m * 4), zero_point(m * 4), acc(m * n * 4);
      memset(x.as<char>(), 0, m * k * 4);
      for (const ek_int8_range* range : {static_cast<const ek_int8_range*>(nullptr), &kRange})
        CHECK(ek_int8_quantize_lhs(isa, m, k, x.as<float>(), EK_F32, k, range, q.as<uint8_t>(), k, scale.as<float>(),
                                   zero_point.as<int32_t>(), nullptr) == EK_OK);
      Matrix rhs = Matrix::random(n, k, 2);
      std::vector<char> scratch = workspace(isa, m, k);
      CHECK(ek_int8_matmul_s32(isa, rhs.packed(isa), rhs.packed_size(isa), m, q.as<uint8_t>(), k, zero_point.as<int32_t>(),
                               acc.as<int32_t>(), n, scratch.data(), scratch.size(), nullptr) == EK_OK);
    }
}

TEST_CASE("guard pages around quantize_rhs, pack and unpack") {
  for (int64_t n : {1, 16, 17})
    for (int64_t k : {1, 5, 64}) {
      Guarded w(n * k * 4), q(n * k), scale(n * 4), bias(n * 4), q2(n * k), scale2(n * 4), bias2(n * 4);
      memset(w.as<char>(), 0, n * k * 4);
      memset(bias.as<char>(), 0, n * 4);
      CHECK(ek_int8_quantize_rhs(n, k, w.as<float>(), EK_F32, k, q.as<int8_t>(), k, scale.as<float>(), nullptr) == EK_OK);
      for (int64_t i = 0; i < n * k; i += 3) q.as<int8_t>()[i] = 1;
      for (ek_int8_form form : kForms) {
        size_t size = ek_int8_packed_size(nullptr, form, n, k, q.as<int8_t>(), k, nullptr);
        Guarded packed(size);
        CHECK(ek_int8_pack(nullptr, form, n, k, q.as<int8_t>(), k, scale.as<float>(), bias.as<float>(), packed.as<char>(), size,
                           nullptr) == EK_OK);
        CHECK(ek_int8_unpack(packed.as<char>(), size, q2.as<int8_t>(), k, scale2.as<float>(), bias2.as<float>(), nullptr) ==
              EK_OK);
      }
    }
}

TEST_CASE("unaligned rows: any address and any leading dimension") {
  Matrix rhs = Matrix::random(33, 30, 3);
  std::vector<float> values = Random(4).normals(5 * 30);
  for (const ek_isa* isa : tested_isas()) {
    std::vector<char> scratch = workspace(isa, 5, 30);
    std::vector<float> wanted(5 * 33);
    REQUIRE(ek_int8_linear(isa, rhs.packed(isa), rhs.packed_size(isa), 5, values.data(), EK_F32, 30, wanted.data(), 33, EK_NONE,
                           scratch.data(), scratch.size(), nullptr) == EK_OK);
    for (size_t offset : {1u, 3u, 7u}) {
      std::vector<float> x(offset + 5 * 30), y(offset + 5 * 33);
      std::copy(values.begin(), values.end(), x.begin() + static_cast<int64_t>(offset));
      std::vector<char> moved(scratch.size() + offset);
      REQUIRE(ek_int8_linear(isa, rhs.packed(isa), rhs.packed_size(isa), 5, x.data() + offset, EK_F32, 30, y.data() + offset,
                             33, EK_NONE, moved.data() + offset, scratch.size(), nullptr) == EK_OK);
      CHECK(std::equal(wanted.begin(), wanted.end(), y.begin() + static_cast<int64_t>(offset)));
    }
  }
}

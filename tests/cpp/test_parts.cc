// Several layers of one lhs in a call: each result is that of the layer alone, bit for bit.
#include <doctest/doctest.h>

#include "int4_support.h"
#include "support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

using Linears = decltype(&ek_int8_linears);

// Results of all layers, in rows that are longer than they need to be. What lies between them has to stay as it is.
std::vector<std::vector<float>> together(Linears linears, const ek_isa* isa, std::vector<ek_part> parts,
                                         const std::vector<int64_t>& columns, int64_t m, int64_t k, const std::vector<float>& x,
                                         size_t workspace, const ek_parallel* parallel) {
  constexpr int64_t kGap = 3;
  constexpr float kUntouched = 0.125f;
  std::vector<std::vector<float>> wide, results;
  for (size_t i = 0; i < parts.size(); ++i) wide.emplace_back(m * (columns[i] + kGap), kUntouched);
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].y = wide[i].data();
    parts[i].ld_y = columns[i] + kGap;
  }
  std::vector<char> scratch(workspace);
  ek_status status = linears(isa, parts.data(), static_cast<int64_t>(parts.size()), m, x.data(), EK_F32, k, EK_SILU,
                             scratch.data(), scratch.size(), parallel);
  REQUIRE_MESSAGE(status == EK_OK, ek_status_message(status));
  for (size_t i = 0; i < parts.size(); ++i) {
    results.emplace_back();
    for (int64_t at = 0; at < m * parts[i].ld_y; ++at) {
      if (at % parts[i].ld_y < columns[i])
        results[i].push_back(wide[i][at]);
      else
        CHECK(wide[i][at] == kUntouched);
    }
  }
  return results;
}

}  // namespace

TEST_CASE("parts: int8 layers of every form, on one thread and on three") {
  Pool pool(3);
  const ek_parallel three = pool.parallel();
  for (int64_t k : {5, 200})
    for (int64_t m : {1, 3, 40}) {
      std::vector<Matrix> layers;
      std::vector<int64_t> columns;
      for (int64_t n : {16, 1, 210, 33, 0, 7, 100, 65}) {
        layers.push_back(Matrix::sparse(n, k, 0.4, static_cast<uint32_t>(n + k)));
        columns.push_back(n);
      }
      std::vector<float> x = Random(static_cast<uint32_t>(m)).normals(m * k);
      for (const ek_isa* isa : tested_isas()) {
        std::vector<ek_part> parts;
        std::vector<std::vector<float>> wanted;
        size_t most = 0;
        for (size_t i = 0; i < layers.size(); ++i) {
          const ek_int8_form form = kForms[i % (sizeof(kForms) / sizeof(kForms[0]))];
          const Matrix& rhs = layers[i];
          parts.push_back({rhs.packed(isa, form), rhs.packed_size(isa, form), nullptr, 0});
          std::vector<char> scratch = workspace(isa, m, k, form);
          if (scratch.size() > most) most = scratch.size();
          wanted.emplace_back(m * rhs.n);
          REQUIRE(ek_int8_linear(isa, parts[i].packed, parts[i].packed_size, m, x.data(), EK_F32, k, wanted[i].data(), rhs.n,
                                 EK_SILU, scratch.data(), scratch.size(), nullptr) == EK_OK);
        }
        CHECK(together(ek_int8_linears, isa, parts, columns, m, k, x, most, nullptr) == wanted);
        CHECK(together(ek_int8_linears, isa, parts, columns, m, k, x, most, &three) == wanted);
      }
    }
}

TEST_CASE("parts: int4 layers of every form") {
  Pool pool(3);
  const ek_parallel three = pool.parallel();
  constexpr int64_t k = 150, columns[] = {40, 17, 200};
  for (int64_t m : {1, 50}) {
    std::vector<float> x = Random(1).normals(m * k);
    for (const ek_isa* isa : tested_isas()) {
      Int4Weights a(columns[0], k, 64, 0.5, true), b(columns[1], k, 64, 0.5, false), c(columns[2], k, 64, 1.0, false);
      Int4Packed first(isa, EK_INT4_BITMAP, a), second(isa, EK_INT4_BITMAP_2, b), third(isa, EK_INT4_DENSE, c);
      std::vector<ek_part> parts;
      std::vector<std::vector<float>> wanted;
      for (const Int4Packed* packed : {&first, &second, &third}) {
        parts.push_back({packed->data, packed->size, nullptr, 0});
        wanted.push_back(int4_linear(isa, *packed, m, x, EK_SILU));
      }
      size_t most = ek_int4_workspace_size(isa, m, k);
      for (const ek_parallel* parallel : {static_cast<const ek_parallel*>(nullptr), &three})
        CHECK(together(ek_int4_linears, isa, parts, {columns[0], columns[1], columns[2]}, m, k, x, most, parallel) == wanted);
    }
  }
}

TEST_CASE("parts: more rows than one slab holds") {
  constexpr int64_t m = 480, k = 9000, n = 2;
  Matrix a = Matrix::random(n, k, 1), b = Matrix::random(n, k, 2);
  std::vector<float> x = Random(3).normals(37 * k);
  x.resize(m * k);
  for (int64_t i = 37 * k; i < m * k; ++i) x[i] = x[i - 37 * k];
  for (const ek_isa* isa : tested_isas()) {
    std::vector<char> scratch = workspace(isa, m, k);
    std::vector<ek_part> parts;
    std::vector<std::vector<float>> wanted;
    for (const Matrix* rhs : {&a, &b}) {
      parts.push_back({rhs->packed(isa), rhs->packed_size(isa), nullptr, 0});
      wanted.emplace_back(m * n);
      REQUIRE(ek_int8_linear(isa, parts.back().packed, parts.back().packed_size, m, x.data(), EK_F32, k, wanted.back().data(),
                             n, EK_SILU, scratch.data(), scratch.size(), nullptr) == EK_OK);
    }
    CHECK(together(ek_int8_linears, isa, parts, {n, n}, m, k, x, scratch.size(), nullptr) == wanted);
  }
}

TEST_CASE("parts: what is refused") {
  Matrix rhs = Matrix::random(5, 6, 1), deeper = Matrix::random(5, 7, 1);
  const ek_isa* isa = tested_isas().front();
  std::vector<float> x(7), y(5);
  std::vector<char> scratch = workspace(isa, 1, 7);
  ek_part good{rhs.packed(isa), rhs.packed_size(isa), y.data(), 5},
      other{deeper.packed(isa), deeper.packed_size(isa), y.data(), 5};
  auto call = [&](std::vector<ek_part> parts, int64_t count) {
    return ek_int8_linears(isa, parts.data(), count, 1, x.data(), EK_F32, 7, EK_NONE, scratch.data(), scratch.size(), nullptr);
  };
  CHECK(call({good}, 1) == EK_OK);
  CHECK(call({good}, 0) == EK_ERROR_PARTS);
  CHECK(call(std::vector<ek_part>(EK_MAX_PARTS + 1, good), EK_MAX_PARTS + 1) == EK_ERROR_PARTS);
  CHECK(call({good, other}, 2) == EK_ERROR_PARTS);
  CHECK(call({good, {nullptr, 0, y.data(), 5}}, 2) == EK_ERROR_NULL_POINTER);
  CHECK(call({good, {rhs.packed(isa), 10, y.data(), 5}}, 2) == EK_ERROR_PACKED);
  CHECK(call({good, {rhs.packed(isa), rhs.packed_size(isa), nullptr, 5}}, 2) == EK_ERROR_NULL_POINTER);
  CHECK(ek_int8_linears(isa, nullptr, 1, 1, x.data(), EK_F32, 7, EK_NONE, scratch.data(), scratch.size(), nullptr) ==
        EK_ERROR_NULL_POINTER);
  CHECK(ek_int8_linears(isa, &good, 1, 1, x.data(), EK_F32, 7, EK_NONE, scratch.data(), 1, nullptr) == EK_ERROR_WORKSPACE);
  CHECK(ek_int4_linears(isa, nullptr, 1, 1, x.data(), EK_F32, 7, EK_NONE, scratch.data(), scratch.size(), nullptr) ==
        EK_ERROR_NULL_POINTER);
  CHECK(ek_int4_linears(isa, &good, 0, 1, x.data(), EK_F32, 7, EK_NONE, scratch.data(), scratch.size(), nullptr) ==
        EK_ERROR_PARTS);
}

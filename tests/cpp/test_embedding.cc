// Rows of packed matrices: the bits of canonical weights on every ISA, every tail, both kinds of indices, threads, errors.
#include <doctest/doctest.h>

#include <algorithm>

#include "base/half.h"
#include "int4_support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

constexpr ek_dtype kDtypes[] = {EK_F32, EK_F16, EK_BF16};
constexpr int64_t kBadDepth = 40;  // of the matrix that is read wrongly

// What a float becomes as dtype, as bits.
uint32_t bits_of(float value, ek_dtype dtype) {
  return dtype == EK_F32 ? f32_to_bits(value) : dtype == EK_F16 ? f32_to_f16(value) : f32_to_bf16(value);
}

// A packed matrix of either format: its rows, and what they are canonically.
struct Table {
  int64_t n, k;
  const void* packed;
  size_t size;
  decltype(&ek_int8_embedding) read;
  float (*value)(const void* weights, int64_t row, int64_t column);
  const void* weights;

  ek_status rows(const ek_isa* isa, int64_t count, const void* indices, ek_index type, void* y, ek_dtype dtype, int64_t ld_y,
                 const ek_parallel* parallel = nullptr) const {
    return read(isa, packed, size, count, indices, type, y, dtype, ld_y, parallel);
  }
};

Table table_of(const ek_isa* isa, const Matrix& rhs) {
  return {rhs.n,
          rhs.k,
          rhs.packed(isa),
          rhs.packed_size(isa),
          ek_int8_embedding,
          [](const void* weights, int64_t row, int64_t column) {
            const Matrix& from = *static_cast<const Matrix*>(weights);
            return static_cast<float>(from.w[row * from.k + column]) * from.scale[row];
          },
          &rhs};
}

Table table_of(const Int4Weights& rhs, const Int4Packed& packed) {
  return {rhs.n,
          rhs.k,
          packed.data,
          packed.size,
          ek_int4_embedding,
          [](const void* weights, int64_t row, int64_t column) {
            const Int4Weights& from = *static_cast<const Int4Weights*>(weights);
            return f16_to_f32(from.scale[from.group_at(row, column)]) * static_cast<float>(from.integer(row, column));
          },
          &rhs};
}

// Rows in any order, one of them twice, between guard pages, and nothing written between them.
void check_rows(const ek_isa* isa, const Table& table) {
  std::vector<int64_t> wide{table.n - 1, 0, table.n / 2, table.n / 2};
  std::vector<int32_t> narrow(wide.begin(), wide.end());
  const int64_t count = static_cast<int64_t>(wide.size()), ld = table.k + 3;
  for (ek_dtype dtype : kDtypes)
    for (bool is_wide : {true, false}) {
      const int64_t item = dtype == EK_F32 ? 4 : 2;
      size_t bytes = static_cast<size_t>(((count - 1) * ld + table.k) * item);
      Guarded y(bytes), indices(is_wide ? static_cast<const void*>(wide.data()) : narrow.data(), count * (is_wide ? 8 : 4));
      memset(y.as<char>(), 0x77, bytes);
      REQUIRE(table.rows(isa, count, indices.as<char>(), is_wide ? EK_INDEX_I64 : EK_INDEX_I32, y.as<char>(), dtype, ld) ==
              EK_OK);
      int wrong = 0;
      for (int64_t i = 0; i < (count - 1) * ld + table.k; ++i) {
        uint32_t got = 0;
        memcpy(&got, y.as<char>() + i * item, item);
        uint32_t untouched = item == 4 ? 0x77777777 : 0x7777;
        wrong += got != (i % ld < table.k ? bits_of(table.value(table.weights, wide[i / ld], i % ld), dtype) : untouched);
      }
      CHECK_MESSAGE(wrong == 0, ek_isa_name(isa), " ", int{dtype}, " n=", table.n, " k=", table.k);
    }
}

}  // namespace

TEST_CASE("embedding: int8 rows have the bits of their weights") {
  for (int64_t k : {1, 3, 4, 7, 8, 15, 16, 17, 31, 40, 511, 512, 513, 1200})
    for (int64_t n : {1, 15, 16, 17, 50}) {
      Matrix rhs = Matrix::random(n, k, static_cast<uint32_t>(k));
      for (const ek_isa* isa : tested_isas()) check_rows(isa, table_of(isa, rhs));
    }
}

TEST_CASE("embedding: int4 rows have the bits of their weights") {
  for (int64_t k : {1, 7, 8, 9, 16, 31, 32, 33, 63, 65, 127, 130, 300})
    for (int64_t n : {1, 8, 9, 16, 33})
      for (bool symmetric : {true, false}) {
        Int4Weights rhs(n, k, k % 3 == 0 ? 32 : k % 3 == 1 ? 64 : 128, 0.8, symmetric, static_cast<uint32_t>(k));
        for (const ek_isa* isa : tested_isas()) {
          Int4Packed packed(isa, EK_INT4_DENSE, rhs);
          check_rows(isa, table_of(rhs, packed));
        }
      }
}

TEST_CASE("embedding: every value of a weight, and every zero point") {
  for (int zero = 0; zero < 16; ++zero) {
    Int4Weights rhs(20, 48, 32, 1.0, false);
    std::fill(rhs.zero.begin(), rhs.zero.end(), static_cast<uint8_t>(zero));
    for (int64_t i = 0; i < 20 * 48; ++i) rhs.put(i / 48, i % 48, static_cast<int>((i + i / 48) % 16));
    for (const ek_isa* isa : tested_isas()) {
      Int4Packed packed(isa, EK_INT4_DENSE, rhs);
      check_rows(isa, table_of(rhs, packed));
    }
  }
  std::vector<int8_t> all;
  for (int64_t i = 0; i < 3 * 256; ++i) all.push_back(static_cast<int8_t>(i - 128 + i / 256));
  Matrix rhs(3, 256, all);
  for (const ek_isa* isa : tested_isas()) check_rows(isa, table_of(isa, rhs));
}

TEST_CASE("embedding: the number of threads changes no bit") {
  constexpr int64_t n = 300, k = 576, count = 500;
  Matrix rhs = Matrix::random(n, k, 3);
  Int4Weights small(n, k, 64, 1.0, false);
  std::vector<int64_t> indices = Random(4).integers<int64_t>(count, 0, n - 1);
  ek_pool* pool = nullptr;
  REQUIRE(ek_pool_create(3, &pool) == EK_OK);
  ek_parallel parallel = ek_pool_parallel(pool);
  for (const ek_isa* isa : tested_isas()) {
    Int4Packed packed(isa, EK_INT4_DENSE, small);
    for (const Table& table : {table_of(isa, rhs), table_of(small, packed)}) {
      std::vector<float> alone(count * k), shared(count * k);
      CHECK(table.rows(isa, count, indices.data(), EK_INDEX_I64, alone.data(), EK_F32, k) == EK_OK);
      CHECK(table.rows(isa, count, indices.data(), EK_INDEX_I64, shared.data(), EK_F32, k, &parallel) == EK_OK);
      CHECK((alone == shared));
    }
  }
  ek_pool_destroy(pool);
}

TEST_CASE("embedding: bad arguments are refused, and nothing is written") {
  constexpr int64_t n = 20, k = kBadDepth;
  Matrix rhs = Matrix::random(n, k, 3);
  Int4Weights small(n, k, 32, 0.5, true);
  for (const ek_isa* isa : tested_isas()) {
    Int4Packed packed(isa, EK_INT4_DENSE, small), bitmap(isa, EK_INT4_BITMAP, small);
    for (Table table : {table_of(isa, rhs), table_of(small, packed)}) {
      std::vector<float> y(2 * k, -7.0f);
      auto call = [&](std::vector<int64_t> indices, ek_dtype dtype = EK_F32, int64_t ld = kBadDepth, int type = EK_INDEX_I64) {
        return table.rows(isa, static_cast<int64_t>(indices.size()), indices.data(), static_cast<ek_index>(type), y.data(),
                          dtype, ld);
      };
      CHECK(call({0, n}) == EK_ERROR_INDEX);
      CHECK(call({0, -1}) == EK_ERROR_INDEX);
      CHECK(call({0, int64_t{1} << 40}) == EK_ERROR_INDEX);
      CHECK(call({0, 1}, EK_F32, k, 2) == EK_ERROR_INDEX);
      CHECK(call({0, 1}, static_cast<ek_dtype>(3)) == EK_ERROR_DTYPE);
      CHECK(call({0, 1}, EK_F32, k - 1) == EK_ERROR_STRIDE);
      CHECK(table.rows(isa, -1, y.data(), EK_INDEX_I64, y.data(), EK_F32, k) == EK_ERROR_SHAPE);
      CHECK(table.rows(isa, 1, nullptr, EK_INDEX_I64, y.data(), EK_F32, k) == EK_ERROR_NULL_POINTER);
      CHECK(table.rows(isa, 0, nullptr, EK_INDEX_I64, nullptr, EK_F32, k) == EK_OK);
      CHECK(table.read(isa, table.packed, 100, 0, nullptr, EK_INDEX_I64, nullptr, EK_F32, k, nullptr) == EK_ERROR_PACKED);
      for (float v : y) CHECK(v == -7.0f);
      CHECK(call({0, 1}) == EK_OK);
    }
    int64_t first = 0;
    float y[k];
    for (ek_int8_form form : {EK_INT8_BLOCKS_1, EK_INT8_BITMAP})
      CHECK(ek_int8_embedding(isa, rhs.packed(isa, form), rhs.packed_size(isa, form), 1, &first, EK_INDEX_I64, y, EK_F32, k,
                              nullptr) == EK_ERROR_FORM);
    CHECK(ek_int4_embedding(isa, bitmap.data, bitmap.size, 1, &first, EK_INDEX_I64, y, EK_F32, k, nullptr) == EK_ERROR_FORM);
  }
}

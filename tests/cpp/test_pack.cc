// The packed matrix: exact round trip, its description, and refusal of what is not one.
#include <doctest/doctest.h>
#include <math.h>

#include <algorithm>

#include "formats/int8/bitmap.h"
#include "support.h"

using namespace edgekern;
using namespace edgekern::test;

TEST_CASE("pack: unpack gives back every byte") {
  for (int64_t n : {1, 15, 16, 17, 40})
    for (int64_t k : {1, 3, 4, 5, 8, 66})
      for (bool with_bias : {false, true}) {
        Matrix rhs = Matrix::random(n, k, static_cast<uint32_t>(n * k), with_bias);
        for (size_t i = 0; i < rhs.w.size(); ++i)
          if (i % 5 < 3) rhs.w[i] = 0;
        for (auto [isa, form] : isas_and_forms()) {
          ek_int8_shape shape;
          REQUIRE(ek_int8_describe(rhs.packed(isa, form), rhs.packed_size(isa, form), &shape) == EK_OK);
          CHECK(shape.form == form);
          CHECK(shape.n == n);
          CHECK(shape.k == k);
          CHECK(shape.has_bias == with_bias);
          std::vector<int8_t> w(n * k);
          std::vector<float> scale(n), bias(n, 1.0f);
          REQUIRE(ek_int8_unpack(rhs.packed(isa, form), rhs.packed_size(isa, form), w.data(), k, scale.data(), bias.data(),
                                 nullptr) == EK_OK);
          CHECK(w == rhs.w);
          CHECK(scale == rhs.scale);
          CHECK(bias == (with_bias ? rhs.bias : std::vector<float>(n, 0.0f)));
        }
      }
}

TEST_CASE("pack: a block form takes the bytes of the blocks it keeps") {
  for (const ek_isa* isa : tested_isas()) {
    Matrix empty(32, 512, std::vector<int8_t>(32 * 512)), one = empty;
    one.w[17 * 512 + 300] = 5;
    for (ek_int8_form form : {EK_INT8_BLOCKS_1, EK_INT8_BLOCKS_2, EK_INT8_BLOCKS_4, EK_INT8_BLOCKS_8}) {
      size_t channels = static_cast<size_t>(form);
      // A block: 4 bytes a channel and its place, 1 byte or 2; everything ends on a multiple of 64.
      CHECK(one.size(isa, form) - empty.size(isa, form) <= 64);
      Matrix full = Matrix::random(32, 512, 9);
      for (int8_t& w : full.w) w = w == 0 ? int8_t{1} : w;
      size_t kept = (full.size(isa, form) - empty.size(isa, form)) * channels / (4 * channels + (channels <= 2 ? 1 : 2));
      CHECK(kept * 4 >= 32 * 512);            // s8, 4 values of k a block
      CHECK(kept * 4 <= 2 * 32 * 512 + 256);  // s16, 2 values of k a block
    }
  }
}

TEST_CASE("pack: CSR takes a byte and two for the place of each weight, or twice the byte, and fills up words") {
  constexpr int64_t n = 32, k = 512;  // one panel of k on every ISA
  for (const ek_isa* isa : tested_isas()) {
    Matrix empty(n, k, std::vector<int8_t>(n * k)), sparse = Matrix::sparse(n, k, 0.2, 5);
    int64_t taken = static_cast<int64_t>(sparse.size(isa, EK_INT8_CSR)) - static_cast<int64_t>(empty.size(isa, EK_INT8_CSR));
    auto expected = [&](int64_t depth) {
      int64_t words = 0;
      for (int64_t row = 0; row < n; ++row) {
        const int8_t* w = sparse.w.data() + row * k;
        words += (k - std::count(w, w + k, int8_t{0}) + depth - 1) / depth;
      }
      return words * (4 + 2 * depth);
    };
    bool pairs = std::abs(taken - expected(2)) <= 64, fours = std::abs(taken - expected(4)) <= 64;
    CHECK(pairs != fours);
  }
}

TEST_CASE("pack: a bitmap form takes the bytes it keeps, and its bits") {
  constexpr int64_t n = 40, k = 1030, places = 48 * 1032;  // with the padding
  for (const ek_isa* isa : tested_isas()) {
    Matrix sparse = Matrix::sparse(n, k, 0.3, 3), empty(n, k, std::vector<int8_t>(n * k)), full = Matrix::random(n, k, 4);
    for (int8_t& w : full.w) w = w == 0 ? int8_t{1} : w;
    for (ek_int8_form form : {EK_INT8_BITMAP, EK_INT8_BITMAP_4}) {
      int64_t unit = form == EK_INT8_BITMAP ? 1 : 4;
      auto bytes = [&](const Matrix& rhs) {
        int64_t kept = 0;
        for (int64_t row = 0; row < n; ++row)
          for (int64_t i = 0; i < k; i += unit) {
            const int8_t* w = rhs.w.data() + row * k;
            kept += std::any_of(w + i, w + std::min(i + unit, k), [](int8_t v) { return v != 0; }) ? unit : 0;
          }
        return kept + places / unit / 8;
      };
      // Beside them: sums, scales, bias and starts, which the empty matrix has as well.
      int64_t fixed = static_cast<int64_t>(empty.size(isa, form)) - bytes(empty);
      CHECK(fixed <= 64 + 48 * 4 * 4 + 4 * 8 + 4 * 64);
      for (const Matrix* rhs : {&sparse, &full})
        CHECK(std::abs(static_cast<int64_t>(rhs->size(isa, form)) - bytes(*rhs) - fixed) < 64);
    }
  }
}

TEST_CASE("pack: an order that no ISA has for the form is refused") {
  Matrix rhs = Matrix::sparse(20, 30, 0.5, 1);
  ek_int8_shape shape;
  for (ek_int8_form form : kForms) {
    size_t size = rhs.packed_size(nullptr, form);
    char* packed = rhs.packed(nullptr, form);
    int32_t& depth = reinterpret_cast<int8::Header*>(packed)->order.line_depth;
    int32_t truth = depth;
    for (int32_t lie : {0, 1, int8::in_panels(form) ? 2 : 8, 16}) {
      depth = lie;
      CHECK(ek_int8_describe(packed, size, &shape) == EK_ERROR_PACKED);
    }
    depth = truth;
    CHECK(ek_int8_describe(packed, size, &shape) == EK_OK);
  }
}

TEST_CASE("pack: a bitmap matrix that claims more values than it can have is refused") {
  Matrix rhs = Matrix::sparse(20, 30, 0.5, 1);
  ek_int8_shape shape;
  for (ek_int8_form form : {EK_INT8_BITMAP, EK_INT8_BITMAP_4}) {
    size_t size = rhs.packed_size(nullptr, form);
    char* packed = rhs.packed(nullptr, form);
    const auto* header = reinterpret_cast<int8::Header*>(packed);
    int8::BitmapLayout bitmap{{header->n, header->k, header->form, header->order}};
    uint64_t& kept = reinterpret_cast<uint64_t*>(packed + bitmap.parts().begin)[bitmap.layout.panels()];
    uint64_t truth = kept;
    for (uint64_t lie : {truth + 128, UINT64_MAX, uint64_t{1} << 63}) {
      kept = lie;
      CHECK(ek_int8_describe(packed, size, &shape) == EK_ERROR_PACKED);
    }
    kept = truth;
    CHECK(ek_int8_describe(packed, size, &shape) == EK_OK);
    CHECK(ek_int8_describe(packed, size - 1, &shape) == EK_ERROR_PACKED);
    CHECK(ek_int8_describe(packed, static_cast<size_t>(bitmap.parts().begin), &shape) == EK_ERROR_PACKED);
  }
}

TEST_CASE("pack: more weights of one channel than an int32 sum takes are left to the dense form") {
  constexpr int64_t k = EK_INT8_MAX_K_EXACT + 100;
  Matrix rhs(2, k, std::vector<int8_t>(2 * k));
  std::fill_n(rhs.w.begin() + k + 7, EK_INT8_MAX_K_EXACT, int8_t{-128});
  CHECK(rhs.size(nullptr, EK_INT8_BLOCKS_1) > 0);
  rhs.w[k] = 1;
  CHECK(rhs.size(nullptr, EK_INT8_BLOCKS_1) == 0);
  CHECK(rhs.size() > 0);
  std::vector<char> packed(1 << 20);
  char* data = packed.data() + (64 - reinterpret_cast<uintptr_t>(packed.data()) % 64) % 64;
  CHECK(ek_int8_pack(nullptr, EK_INT8_BLOCKS_1, 2, k, rhs.w.data(), k, rhs.scale.data(), nullptr, data, 1 << 19, nullptr) ==
        EK_ERROR_FORM);
}

TEST_CASE("pack: what is not a packed matrix is refused") {
  Matrix rhs = Matrix::random(20, 30, 1);
  ek_int8_shape shape;
  CHECK(ek_int8_describe(nullptr, rhs.packed_size(), &shape) == EK_ERROR_NULL_POINTER);
  CHECK(ek_int8_describe(rhs.packed(), rhs.packed_size() - 1, &shape) == EK_ERROR_PACKED);
  CHECK(ek_int8_describe(rhs.packed(), 10, &shape) == EK_ERROR_PACKED);
  CHECK(ek_int8_describe(rhs.packed() + 1, rhs.packed_size() - 1, &shape) == EK_ERROR_PACKED);
  auto* header = reinterpret_cast<int8::Header*>(rhs.packed());
  int64_t n = header->n;
  for (int64_t lie : {int64_t{-1}, int64_t{1} << 40, INT64_MAX, n + 16}) {
    header->n = lie;
    CHECK(ek_int8_describe(rhs.packed(), rhs.packed_size(), &shape) == EK_ERROR_PACKED);
  }
  header->n = n;
  header->k = int64_t{1} << 30;
  CHECK(ek_int8_describe(rhs.packed(), rhs.packed_size(), &shape) == EK_ERROR_PACKED);
  header->k = rhs.k;
  CHECK(ek_int8_describe(rhs.packed(), rhs.packed_size(), &shape) == EK_OK);
  int8::Order order = header->order;
  for (int8::Order lie : {int8::Order{5, 0}, int8::Order{0, 0}, int8::Order{4, 2}, int8::Order{4, -1}}) {
    header->order = lie;
    CHECK(ek_int8_describe(rhs.packed(), rhs.packed_size(), &shape) == EK_ERROR_PACKED);
  }
  header->order = order;
  for (int lie : {-1, 3, 5, 16, 17, 18, 1000}) {
    header->form = static_cast<ek_int8_form>(lie);
    CHECK(ek_int8_describe(rhs.packed(), rhs.packed_size(), &shape) == EK_ERROR_PACKED);
  }
  header->form = EK_INT8_DENSE;
  header->magic[3] ^= 1;
  CHECK(ek_int8_describe(rhs.packed(), rhs.packed_size(), &shape) == EK_ERROR_PACKED);
}

TEST_CASE("pack: an ISA refuses what was packed in another order") {
  Matrix rhs = Matrix::random(20, 30, 1);
  std::vector<float> x(30), y(20);
  for (const ek_isa* isa : tested_isas()) {
    std::vector<char> scratch = workspace(isa, 1, 30);
    auto run = [&] {
      return ek_int8_linear(isa, rhs.packed(isa), rhs.packed_size(isa), 1, x.data(), EK_F32, 30, y.data(), 20, EK_NONE,
                            scratch.data(), scratch.size(), nullptr);
    };
    CHECK(run() == EK_OK);
    auto* header = reinterpret_cast<int8::Header*>(rhs.packed(isa));
    header->order.line_depth = 12 - header->order.line_depth;  // 4 <-> 8: as many bytes
    CHECK(run() == EK_ERROR_ORDER);
  }
}

TEST_CASE("pack: bad arguments") {
  std::vector<int8_t> w(12);
  std::vector<float> scale(3, 1.0f);
  alignas(64) char packed[2048];
  REQUIRE(ek_int8_packed_size(nullptr, EK_INT8_DENSE, 3, 4, nullptr, 0, nullptr) <= sizeof(packed));
  CHECK(ek_int8_packed_size(nullptr, EK_INT8_DENSE, -1, 4, nullptr, 0, nullptr) == 0);
  CHECK(ek_int8_packed_size(nullptr, EK_INT8_DENSE, 1, int64_t{1} << 40, nullptr, 0, nullptr) == 0);
  CHECK(ek_int8_pack(nullptr, EK_INT8_DENSE, -1, 4, w.data(), 4, scale.data(), nullptr, packed, sizeof(packed), nullptr) ==
        EK_ERROR_SHAPE);
  CHECK(ek_int8_pack(nullptr, EK_INT8_DENSE, 3, 4, nullptr, 4, scale.data(), nullptr, packed, sizeof(packed), nullptr) ==
        EK_ERROR_NULL_POINTER);
  CHECK(ek_int8_pack(nullptr, EK_INT8_DENSE, 3, 4, w.data(), 4, scale.data(), nullptr, nullptr, sizeof(packed), nullptr) ==
        EK_ERROR_NULL_POINTER);
  CHECK(ek_int8_pack(nullptr, EK_INT8_DENSE, 3, 4, w.data(), 3, scale.data(), nullptr, packed, sizeof(packed), nullptr) ==
        EK_ERROR_STRIDE);
  CHECK(ek_int8_pack(nullptr, EK_INT8_DENSE, 3, 4, w.data(), 4, scale.data(), nullptr, packed + 8, sizeof(packed), nullptr) ==
        EK_ERROR_PACKED);
  scale[1] = NAN;
  CHECK(ek_int8_pack(nullptr, EK_INT8_DENSE, 3, 4, w.data(), 4, scale.data(), nullptr, packed, sizeof(packed), nullptr) ==
        EK_ERROR_VALUE);
  scale[1] = 1.0f;
  float bias[3] = {0.0f, INFINITY, 0.0f};
  CHECK(ek_int8_pack(nullptr, EK_INT8_DENSE, 3, 4, w.data(), 4, scale.data(), bias, packed, sizeof(packed), nullptr) ==
        EK_ERROR_VALUE);
}

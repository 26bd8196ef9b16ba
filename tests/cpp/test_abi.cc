// The edges of the C ABI: statuses, the ISA table, EDGEKERN_ISA.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <set>

#include "support.h"

using namespace edgekern;
using namespace edgekern::test;

TEST_CASE("abi: every status has its own message") {
  std::set<std::string> messages;
  for (int status = EK_OK; status <= EK_ERROR_INDEX; ++status)
    messages.insert(ek_status_message(static_cast<ek_status>(status)));
  CHECK(messages.size() == EK_ERROR_INDEX + 1);
  CHECK(std::string(ek_status_message(static_cast<ek_status>(999))) == "unknown status");
  CHECK(std::string(ek_version()).find('.') != std::string::npos);
}

TEST_CASE("abi: the ISA table ends in scalar, which every CPU runs") {
  REQUIRE(ek_isa_count() >= 1);
  const ek_isa* last = ek_isa_at(ek_isa_count() - 1);
  CHECK(std::string(ek_isa_name(last)) == "scalar");
  CHECK(ek_isa_supported(last) == 1);
  CHECK(ek_isa_at(ek_isa_count()) == nullptr);
  CHECK(ek_isa_find("scalar") == last);
  CHECK(ek_isa_find("sse9") == nullptr);
  CHECK(ek_isa_find(nullptr) == nullptr);
  for (size_t i = 0; i < ek_isa_count(); ++i) {
    char text[128];
    size_t missing = ek_isa_missing(ek_isa_at(i), text, sizeof(text));
    CHECK((missing == 0) == (ek_isa_supported(ek_isa_at(i)) == 1));
    CHECK(strlen(text) == missing);
    char cut[4];
    CHECK(ek_isa_missing(ek_isa_at(i), cut, sizeof(cut)) == missing);
    CHECK(strlen(cut) <= 3);
  }
}

TEST_CASE("abi: an ISA this CPU lacks is refused, not run") {
  Matrix rhs = Matrix::random(4, 4, 1);
  float x[4] = {}, y[4];
  for (size_t i = 0; i < ek_isa_count(); ++i) {
    const ek_isa* isa = ek_isa_at(i);
    if (ek_isa_supported(isa)) continue;
    char scratch[4096];
    CHECK(ek_int8_workspace_size(isa, EK_INT8_DENSE, 1, 4) == 0);
    CHECK(ek_int8_linear(isa, rhs.packed(), rhs.packed_size(), 1, x, EK_F32, 4, y, 4, EK_NONE, scratch, sizeof(scratch),
                         nullptr) == EK_ERROR_ISA);
    CHECK(ek_peak_int8_macs(isa, 10) == 0);
  }
}

// Runs alone, once for each value of EDGEKERN_ISA that CMakeLists.txt lists.
TEST_CASE("EDGEKERN_ISA: names the ISA, or is refused") {
  const char* wanted = getenv("EDGEKERN_ISA");
  const ek_isa* isa = nullptr;
  ek_status status = ek_isa_default(&isa);
  if (wanted == nullptr) {
    REQUIRE(status == EK_OK);
    CHECK(isa == tested_isas().front());
  } else if (ek_isa_find(wanted) != nullptr && ek_isa_supported(ek_isa_find(wanted))) {
    REQUIRE(status == EK_OK);
    CHECK(std::string(ek_isa_name(isa)) == wanted);
  } else {
    CHECK(status == EK_ERROR_ISA);
    CHECK(isa == nullptr);
    CHECK(ek_int8_workspace_size(nullptr, EK_INT8_DENSE, 1, 1) == 0);
  }
  CHECK(ek_isa_default(nullptr) == EK_ERROR_NULL_POINTER);
}

TEST_CASE("abi: linear refuses bad arguments and touches nothing") {
  Matrix rhs = Matrix::random(4, 8, 1);
  const ek_isa* isa = ek_isa_find("scalar");
  std::vector<char> scratch = workspace(isa, 2, 8);
  std::vector<float> x(16), y(8, -7.0f);
  auto call = [&](const void* packed, int64_t m, const void* lhs, int dtype, int64_t ld_x, void* out, int64_t ld_y,
                  int activation, size_t scratch_size) {
    return ek_int8_linear(isa, packed, rhs.packed_size(isa), m, lhs, static_cast<ek_dtype>(dtype), ld_x, out, ld_y,
                          static_cast<ek_activation>(activation), scratch.data(), scratch_size, nullptr);
  };
  size_t enough = scratch.size();
  CHECK(call(nullptr, 2, x.data(), EK_F32, 8, y.data(), 4, EK_NONE, enough) == EK_ERROR_NULL_POINTER);
  CHECK(call(rhs.packed(isa), -1, x.data(), EK_F32, 8, y.data(), 4, EK_NONE, enough) == EK_ERROR_SHAPE);
  CHECK(call(rhs.packed(isa), 2, nullptr, EK_F32, 8, y.data(), 4, EK_NONE, enough) == EK_ERROR_NULL_POINTER);
  CHECK(call(rhs.packed(isa), 2, x.data(), EK_F32, 8, nullptr, 4, EK_NONE, enough) == EK_ERROR_NULL_POINTER);
  CHECK(call(rhs.packed(isa), 2, x.data(), 3, 8, y.data(), 4, EK_NONE, enough) == EK_ERROR_DTYPE);
  CHECK(call(rhs.packed(isa), 2, x.data(), EK_F32, 7, y.data(), 4, EK_NONE, enough) == EK_ERROR_STRIDE);
  CHECK(call(rhs.packed(isa), 2, x.data(), EK_F32, 8, y.data(), 3, EK_NONE, enough) == EK_ERROR_STRIDE);
  CHECK(call(rhs.packed(isa), 2, x.data(), EK_F32, 8, y.data(), 4, 9, enough) == EK_ERROR_ACTIVATION);
  CHECK(call(rhs.packed(isa), 2, x.data(), EK_F32, 8, y.data(), 4, -1, enough) == EK_ERROR_ACTIVATION);
  CHECK(call(rhs.packed(isa), 2, x.data(), EK_F32, 8, y.data(), 4, EK_NONE, enough - 1) == EK_ERROR_WORKSPACE);
  for (float v : y) CHECK(v == -7.0f);
  CHECK(call(rhs.packed(isa), 2, x.data(), EK_F32, 8, y.data(), 4, EK_NONE, enough) == EK_OK);
  CHECK(call(rhs.packed(isa), 1, x.data(), EK_F32, 1, y.data(), 1, EK_NONE, enough) == EK_OK);  // one row has no stride
}

TEST_CASE("abi: matmul_s32 refuses a depth whose sum would not fit") {
  constexpr int64_t k = EK_INT8_MAX_K_EXACT + 4;
  Matrix rhs = Matrix::random(1, k, 1);
  std::vector<char> scratch = workspace(nullptr, 1, k);
  std::vector<uint8_t> q(k);
  int32_t zero_point = 0, acc = 0;
  CHECK(ek_int8_matmul_s32(nullptr, rhs.packed(), rhs.packed_size(), 1, q.data(), k, &zero_point, &acc, 1, scratch.data(),
                           scratch.size(), nullptr) == EK_ERROR_SHAPE);
}

TEST_CASE("machine limits: the probes count what they say") {
  std::vector<uint8_t> data(1000, 3);
  for (const ek_isa* isa : tested_isas()) {
    int64_t once = ek_peak_int8_macs(isa, 1);
    CHECK(once > 0);
    CHECK(ek_peak_int8_macs(isa, 100) == 100 * once);
    CHECK(ek_stream_read(isa, data.data(), data.size()) != 0);
    CHECK(ek_stream_read(isa, nullptr, 0) == 0);
  }
}

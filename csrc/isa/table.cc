// The ISA table and the choice of a row. Rows come from cmake/isa_table.cmake, best first.
#include <stdlib.h>
#include <string.h>

#include "cpu/features.h"
#include "edgekern/edgekern.h"
#include "isa/kernels.h"

namespace edgekern {

#define EK_ISA_ROW(name, needs) extern const Kernels kernels_##name;
#include "isa_rows.h"
#undef EK_ISA_ROW

namespace {

constexpr ek_isa kTable[] = {
#define EK_ISA_ROW(name, needs) {#name, needs, &kernels_##name},
#include "isa_rows.h"
#undef EK_ISA_ROW
};
constexpr size_t kRows = sizeof(kTable) / sizeof(kTable[0]);

bool supported(const ek_isa& isa) { return (feature_bits(isa.needs) & ~cpu_features()) == 0; }

// nullptr when EDGEKERN_ISA names something this CPU cannot run.
const ek_isa* choose() {
  const char* wanted = getenv("EDGEKERN_ISA");
  if (wanted != nullptr && *wanted != '\0') {
    const ek_isa* isa = ek_isa_find(wanted);
    return isa != nullptr && supported(*isa) ? isa : nullptr;
  }
  for (const ek_isa& isa : kTable)
    if (supported(isa)) return &isa;
  return nullptr;
}

// Writes what fits, always terminated; returns the length of the whole text.
size_t write_features(uint32_t bits, char* buffer, size_t size) {
  size_t length = 0;
  auto put = [&](char c) {
    if (length + 1 < size) buffer[length] = c;
    ++length;
  };
  for (unsigned i = 0; feature_name(i) != nullptr; ++i) {
    if ((bits >> i & 1u) == 0) continue;
    if (length > 0) put(' ');
    for (const char* c = feature_name(i); *c != '\0'; ++c) put(*c);
  }
  if (size > 0) buffer[length < size ? length : size - 1] = '\0';
  return length;
}

}  // namespace

ek_status resolve_isa(const ek_isa* isa, const Kernels** kernels) {
  if (isa == nullptr) {
    ek_status status = ek_isa_default(&isa);
    if (status != EK_OK) return status;
  } else if (!supported(*isa)) {
    return EK_ERROR_ISA;
  }
  *kernels = isa->kernels;
  return EK_OK;
}

}  // namespace edgekern

using namespace edgekern;

extern "C" size_t ek_isa_count(void) { return kRows; }

extern "C" const ek_isa* ek_isa_at(size_t index) { return index < kRows ? &kTable[index] : nullptr; }

extern "C" const ek_isa* ek_isa_find(const char* name) {
  for (const ek_isa& isa : kTable)
    if (name != nullptr && strcmp(isa.name, name) == 0) return &isa;
  return nullptr;
}

extern "C" const char* ek_isa_name(const ek_isa* isa) { return isa == nullptr ? "" : isa->name; }

extern "C" int ek_isa_supported(const ek_isa* isa) { return isa != nullptr && supported(*isa) ? 1 : 0; }

extern "C" size_t ek_isa_missing(const ek_isa* isa, char* buffer, size_t size) {
  return write_features(isa == nullptr ? 0 : feature_bits(isa->needs) & ~cpu_features(), buffer, size);
}

extern "C" ek_status ek_isa_default(const ek_isa** isa) {
  if (isa == nullptr) return EK_ERROR_NULL_POINTER;
  static const ek_isa* const chosen = choose();
  *isa = chosen;
  return chosen == nullptr ? EK_ERROR_ISA : EK_OK;
}

extern "C" const char* ek_cpu_name(void) { return cpu_name(); }

extern "C" size_t ek_cpu_features(char* buffer, size_t size) { return write_features(cpu_features(), buffer, size); }

extern "C" int64_t ek_peak_int8_macs(const ek_isa* isa, int64_t steps) {
  const Kernels* kernels = nullptr;
  return resolve_isa(isa, &kernels) == EK_OK ? kernels->peak_int8_macs(steps) : 0;
}

extern "C" uint64_t ek_stream_read(const ek_isa* isa, const void* data, size_t size) {
  const Kernels* kernels = nullptr;
  return data != nullptr && resolve_isa(isa, &kernels) == EK_OK ? kernels->stream_read(data, size) : 0;
}

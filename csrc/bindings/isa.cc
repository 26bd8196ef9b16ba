#include <cstdlib>

#include "status.h"

namespace edgekern {

std::string supported_isas() {
  std::string names;
  for (size_t i = 0; i < ek_isa_count(); ++i) {
    const ek_isa* isa = ek_isa_at(i);
    if (!ek_isa_supported(isa)) continue;
    if (!names.empty()) names += ", ";
    names += ek_isa_name(isa);
  }
  return names;
}

const ek_isa* isa_named(const char* name) {
  const ek_isa* isa = nullptr;
  const char* from = "isa";
  if (name == nullptr) {
    if (ek_isa_default(&isa) == EK_OK) return isa;
    from = "EDGEKERN_ISA";
    name = std::getenv(from);
    if (name == nullptr) throw std::runtime_error("edgekern: no ISA of this build runs on this CPU");
    isa = nullptr;
  }
  isa = ek_isa_find(name);
  if (isa == nullptr) {
    throw std::invalid_argument(
        text("edgekern: ", from, "='", name, "' is no ISA of this build; this CPU runs ", supported_isas()));
  }
  if (!ek_isa_supported(isa)) {
    char missing[256];
    ek_isa_missing(isa, missing, sizeof missing);
    throw std::invalid_argument(text("edgekern: ", from, "='", name, "' needs the CPU features ", missing,
                                     ", which this CPU lacks; it runs ", supported_isas()));
  }
  return isa;
}

}  // namespace edgekern

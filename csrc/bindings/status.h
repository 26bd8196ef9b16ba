// ek_status as C++ exceptions, and the ISA argument.
#pragma once

#include <new>
#include <sstream>
#include <stdexcept>
#include <string>

#include "edgekern/edgekern.h"

namespace edgekern {

// Concatenates what it gets: text("x has ", n, " rows").
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream(std::ios_base::out);  // without the mode it needs libstdc++ 9, newer than manylinux_2_28's
  (stream << ... << parts);
  return stream.str();
}

// Throws unless ok: bad_alloc for memory, invalid_argument (ValueError in Python) for everything else, since the
// library fails for no other reason than its arguments.
inline void check(ek_status status, const char* function) {
  if (status == EK_OK) return;
  if (status == EK_ERROR_OUT_OF_MEMORY) throw std::bad_alloc();
  throw std::invalid_argument(text("edgekern.", function, ": ", ek_status_message(status)));
}

// "avx2, scalar": the ISAs this CPU runs, best first.
std::string supported_isas();

// The table row of a name; the default one for null. Throws invalid_argument when there is none or the CPU lacks it.
const ek_isa* isa_named(const char* name);

}  // namespace edgekern

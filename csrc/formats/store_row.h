// Floats of one row on their way out of a packed matrix: what int8's and int4's embeddings end in.
#pragma once

#include <stdint.h>

#include "edgekern/edgekern.h"
#include "isa/tile.h"

namespace edgekern {
namespace {

// y[at + i] = value(i) for each i below count, a vector at a time; the last one is made whole, and stored in part.
template <class Isa, ek_dtype D, class Value>
EK_INLINE void store_row(void* y, int64_t at, int64_t count, Value&& value) {
  int64_t i = 0;
  for (; i + Isa::kLanes <= count; i += Isa::kLanes) Isa::template store_as<D>(y, at + i, value(i));
  if (i < count) Isa::template store_as<D>(y, at + i, value(i), count - i);
}

}  // namespace
}  // namespace edgekern

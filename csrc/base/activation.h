// Which activations there are.
#pragma once

#include "edgekern/edgekern.h"

namespace edgekern {

inline bool valid_activation(ek_activation activation) { return activation >= EK_NONE && activation <= EK_HARDSWISH; }

}  // namespace edgekern

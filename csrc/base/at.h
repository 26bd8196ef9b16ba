// What lies some bytes into a packed matrix.
#pragma once

#include <stdint.h>

namespace edgekern {
namespace {

template <class T>
T* at(void* packed, int64_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(packed) + offset);
}
template <class T>
const T* at(const void* packed, int64_t offset) {
  return reinterpret_cast<const T*>(static_cast<const char*>(packed) + offset);
}

}  // namespace
}  // namespace edgekern

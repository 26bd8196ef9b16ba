// f32 weights with zeros, into the packed layout and back.
#include "formats/blocks/pack_floats.h"
#include "formats/f32/layout.h"

using namespace edgekern;
using edgekern::f32::Format;

ek_status Format::open(const void* packed, size_t packed_size, blocks::Layout* layout) {
  return floats::open_packed<Format>(packed, packed_size, layout);
}

extern "C" size_t ek_f32_packed_size(int64_t channels, int64_t n, int64_t k, const void* w, ek_dtype dtype, int64_t ld_w,
                                     const ek_parallel* parallel) {
  return floats::packed_size<Format>(channels, n, k, {w, dtype, ld_w}, parallel);
}

extern "C" ek_status ek_f32_pack(int64_t channels, int64_t n, int64_t k, const void* w, ek_dtype dtype, int64_t ld_w,
                                 const float* bias, void* packed, size_t packed_size, const ek_parallel* parallel) {
  return floats::pack<Format>(channels, n, k, {w, dtype, ld_w}, bias, packed, packed_size, parallel);
}

extern "C" ek_status ek_f32_describe(const void* packed, size_t packed_size, ek_f32_shape* shape) {
  return floats::describe<Format>(packed, packed_size, shape);
}

extern "C" ek_status ek_f32_unpack(const void* packed, size_t packed_size, float* w, int64_t ld_w, float* bias,
                                   const ek_parallel* parallel) {
  return floats::unpack<Format>(packed, packed_size, w, ld_w, bias, parallel);
}

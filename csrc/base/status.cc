#include "edgekern/edgekern.h"

extern "C" const char* ek_status_message(ek_status status) {
  switch (status) {
    case EK_OK:
      return "ok";
    case EK_ERROR_NULL_POINTER:
      return "a required pointer is NULL";
    case EK_ERROR_SHAPE:
      return "a size (m, n or k) is negative or too large";
    case EK_ERROR_STRIDE:
      return "a leading dimension is shorter than its row";
    case EK_ERROR_DTYPE:
      return "unknown dtype; expected f32, f16 or bf16";
    case EK_ERROR_ACTIVATION:
      return "unknown activation; expected none, relu, gelu, gelu_tanh, silu, relu6 or hardswish";
    case EK_ERROR_PACKED:
      return "not a packed matrix of this format (wrong magic, truncated, or not 64-byte aligned); pack it again";
    case EK_ERROR_ISA:
      return "this CPU cannot run that ISA, or EDGEKERN_ISA names an unknown one";
    case EK_ERROR_WORKSPACE:
      return "the workspace is smaller than the size asked for";
    case EK_ERROR_VALUE:
      return "a weight, scale, zero point or bias is NaN, infinite or out of its format's range";
    case EK_ERROR_OUT_OF_MEMORY:
      return "out of memory";
    case EK_ERROR_ORDER:
      return "packed for an ISA that reads another order of bytes; pack the "
             "matrix again for this ISA";
    case EK_ERROR_FORM:
      return "unknown form or number of channels (1, 2, 4 or 8 for blocks), or a form that cannot hold this matrix; int8's "
             "dense form holds any";
    case EK_ERROR_GROUP:
      return "unknown group size; expected 32, 64 or 128";
    case EK_ERROR_CLIP:
      return "unknown way to clip; expected none, the lowest squared error, or half-quadratic";
    case EK_ERROR_PARTS:
      return "a call takes 1 to 8 layers, all of the same k, group size and range of activations";
    case EK_ERROR_INDEX:
      return "an index is negative or not below the number of rows, or of an unknown type; expected i32 or i64";
    case EK_ERROR_WINDOW:
      return "a stride or dilation below 1, negative padding, or a kernel larger than the padded image";
    case EK_ERROR_GROUPS:
      return "the number of groups does not divide the channels in and out";
    case EK_ERROR_IMAGES:
      return "unknown order of images (expected NCHW or NHWC), x and y that differ in order or float dtype, or a scale or "
             "zero point (0 to 255) that cannot be; u8 needs both, and NHWC";
    case EK_ERROR_STEP:
      return "a step of a program that is of no known kind, reads what no step before it makes, or images that do not fit it";
  }
  return "unknown status";
}

extern "C" const char* ek_version(void) { return EDGEKERN_VERSION; }

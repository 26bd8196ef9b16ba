"""The native kernels over NumPy arrays. Works without torch.

Names: ``lhs`` are activations ``[M, K]``, ``rhs`` are weights ``[N, K]``, both row-major. bfloat16, which NumPy lacks,
travels as its bits: a ``uint16`` array with ``dtype="bfloat16"``.

Every function raises ``TypeError`` for a wrong dtype and ``ValueError`` for a wrong shape or value, and names the
argument. ``isa`` picks a kernel by name (see :func:`isas`); ``None`` is the best this CPU runs, or what the environment
variable ``EDGEKERN_ISA`` names.
"""

from __future__ import annotations

from edgekern._lib import get_num_threads, set_num_threads
from edgekern.kernels.embedding import FLOATS, int4_embedding, int8_embedding
from edgekern.kernels.floats import (
    F32_CHANNELS,
    F16Packed,
    F32Packed,
    f16_halves,
    f16_linear,
    f16_pack,
    f32_linear,
    f32_pack,
)
from edgekern.kernels.int4 import (
    INT4_CLIPS,
    INT4_FORMS,
    INT4_GROUP_SIZES,
    Int4Packed,
    int4_form_code,
    int4_linear,
    int4_pack,
    int4_quantize,
)
from edgekern.kernels.int8 import (
    FORMS,
    Int8Packed,
    Range,
    form_code,
    int8_linear,
    int8_matmul,
    int8_pack,
    int8_quantize,
    int8_quantize_lhs,
)
from edgekern.kernels.machine import cpu, default_isa, isas
from edgekern.kernels.mixed import int4_float_linear, int8_float_linear
from edgekern.kernels.packed import ACTIVATIONS

__all__ = [
    "ACTIVATIONS",
    "F32_CHANNELS",
    "FLOATS",
    "FORMS",
    "INT4_CLIPS",
    "INT4_FORMS",
    "INT4_GROUP_SIZES",
    "F16Packed",
    "F32Packed",
    "Int4Packed",
    "Int8Packed",
    "Range",
    "cpu",
    "default_isa",
    "f16_halves",
    "f16_linear",
    "f16_pack",
    "f32_linear",
    "f32_pack",
    "form_code",
    "get_num_threads",
    "int4_embedding",
    "int4_float_linear",
    "int4_form_code",
    "int4_linear",
    "int4_pack",
    "int4_quantize",
    "int8_embedding",
    "int8_float_linear",
    "int8_linear",
    "int8_matmul",
    "int8_pack",
    "int8_quantize",
    "int8_quantize_lhs",
    "isas",
    "set_num_threads",
]

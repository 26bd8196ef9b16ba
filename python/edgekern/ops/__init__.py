"""The torch ops, and their weights. Importing this package registers them under ``torch.ops.edgekern``:

- :mod:`~edgekern.ops.linear`, :mod:`~edgekern.ops.embedding` and :mod:`~edgekern.ops.conv2d`: single layers
- :mod:`~edgekern.ops.program`: several convolutions in one op
- :mod:`~edgekern.ops.decoder`: what lies between the linear layers of a decoder

:mod:`~edgekern.ops.int8`, :mod:`~edgekern.ops.int4` and :mod:`~edgekern.ops.floats` make weights for them.

Inference only: raises ``ValueError`` when x requires grad and grad mode is on. The kernels are native and registered
through torch's stable C ABI, so one build of edgekern serves every torch from 2.9 on.
"""

from __future__ import annotations

from edgekern.kernels import ACTIVATIONS, FLOATS
from edgekern.ops import conv2d, decoder, embedding  # register their ops  # noqa: F401
from edgekern.ops.floats import (
    f16_pack,
    f16_packed_size,
    f16_unpack,
    f32_conv2d_pack,
    f32_conv2d_packed_size,
    f32_conv2d_unpack,
    f32_pack,
    f32_packed_size,
    f32_unpack,
)
from edgekern.ops.int4 import (
    int4_conv2d_pack,
    int4_conv2d_packed_size,
    int4_conv2d_unpack,
    int4_integers,
    int4_pack,
    int4_packed_size,
    int4_pair,
    int4_quantize,
    int4_unpack,
    int4_unpair,
    int4_values,
)
from edgekern.ops.int8 import (
    int8_conv2d_pack,
    int8_conv2d_packed_size,
    int8_conv2d_unpack,
    int8_pack,
    int8_packed_size,
    int8_quantize,
    int8_quantize_rows,
    int8_unpack,
)
from edgekern.ops.linear import LINEARS
from edgekern.ops.program import PROGRAM_COLUMNS, has_programs

__all__ = [
    "ACTIVATIONS",
    "FLOATS",
    "LINEARS",
    "PROGRAM_COLUMNS",
    "f16_pack",
    "f16_packed_size",
    "f16_unpack",
    "f32_conv2d_pack",
    "f32_conv2d_packed_size",
    "f32_conv2d_unpack",
    "f32_pack",
    "f32_packed_size",
    "f32_unpack",
    "has_programs",
    "int4_conv2d_pack",
    "int4_conv2d_packed_size",
    "int4_conv2d_unpack",
    "int4_integers",
    "int4_pack",
    "int4_packed_size",
    "int4_pair",
    "int4_quantize",
    "int4_unpack",
    "int4_unpair",
    "int4_values",
    "int8_conv2d_pack",
    "int8_conv2d_packed_size",
    "int8_conv2d_unpack",
    "int8_pack",
    "int8_packed_size",
    "int8_quantize",
    "int8_quantize_rows",
    "int8_unpack",
]

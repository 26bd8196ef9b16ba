"""Holding everybody to one instruction set, where they can be held."""

from __future__ import annotations

# What each tier sets. FBGEMM has no AVX-VNNI kernels, MKL and ATen no int8 ones to choose.
# ONNX Runtime reads no such variable: its kernels (MLAS) always use the best the CPU has.
TIERS: dict[str, dict[str, str]] = {
    "avx2": {
        "EDGEKERN_ISA": "avx2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx_vnni": {
        "EDGEKERN_ISA": "avx_vnni",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx512_vnni": {
        "EDGEKERN_ISA": "avx512_vnni",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX512_E1",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI",
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}


def tier_environment(tier: str | None, isa: str | None) -> dict[str, str]:
    """Environment of the workers: everybody at `tier`, then edgekern alone at `isa`. Raises ValueError."""
    if tier is not None and tier not in TIERS:
        raise ValueError(f"tier: expected one of {', '.join(TIERS)}, got {tier!r}")
    environment = dict(TIERS[tier]) if tier else {}
    if isa:
        environment["EDGEKERN_ISA"] = isa
    return environment

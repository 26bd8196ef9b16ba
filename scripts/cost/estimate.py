"""llvm-mca's estimate of a loop's speed: a model of a core's pipelines with everything in its first cache, no clock."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable

MCA = "llvm-mca-19"  # older ones have no models of these cores
PASSES = 200

# Core, its model's name in llvm, and the ISAs it runs. llvm's own Cortex-A76 is the A57's model; the Neoverse N1 is the
# A76 for servers and has one of its own.
CORES = (
    ("Cortex-A53", "cortex-a53", ("neon",)),
    ("Cortex-A72", "cortex-a72", ("neon",)),
    ("Cortex-A55", "cortex-a55", ("neon", "neon_dotprod")),
    ("Cortex-A76", "neoverse-n1", ("neon", "neon_dotprod")),
    ("Neoverse N2", "neoverse-n2", ("neon", "neon_dotprod", "neon_i8mm")),
    ("Neoverse V1", "neoverse-v1", ("neon", "neon_dotprod", "neon_i8mm")),
)


def macs_per_cycle(isa: str, body: Iterable[str], macs_per_pass: float) -> dict[str, float]:
    """By core, for the cores that run this ISA. Raises RuntimeError when llvm-mca does not run or not know the code."""
    loop = "".join(f"{re.sub(r'0x[0-9a-f]+ <.*>', 'loop', text)}\n" for text in body)
    return {
        core: round(macs_per_pass / _cycles(model, f"loop:\n{loop}"), 1) for core, model, isas in CORES if isa in isas
    }


def _cycles(model: str, loop: str) -> float:
    """Cycles of one pass, in a steady state."""
    command = (MCA, "-mtriple=aarch64", f"-mcpu={model}", f"-iterations={PASSES}")
    try:
        done = subprocess.run(command, input=loop, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError(f"{MCA} is not installed (Debian and Ubuntu: apt-get install llvm-19)") from None
    total = re.search(r"^Total Cycles:\s+(\d+)", done.stdout, re.MULTILINE)
    if done.returncode or total is None:
        raise RuntimeError(f"{MCA} -mcpu={model}: {done.stderr.strip()}")
    return int(total[1]) / PASSES

"""The rules for machine code: what spills is seen, and so is an instruction that a CPU may lack."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from objects import aarch64, x86_64  # noqa: E402
from objects.listing import Function, find_tool, innermost_loops  # noqa: E402


def listed(*code):
    return Function("accumulate", [(4 * i, text) for i, text in enumerate(code)])


def spills(machine, *code):
    return machine.spills(listed(*code), [text for _, text in listed(*code).code])


@pytest.mark.parametrize(
    "text",
    ["str q0, [sp, #0x10]", "ldr q0, [sp]", "ldp q0, q1, [sp], #0x20", "mov v1.16b, v2.16b", "fmov d0, d1"],
)
def test_aarch64_spills(text):
    assert spills(aarch64, "sdot v0.4s, v1.16b, v2.4b[0]", text) == [text]


@pytest.mark.parametrize(
    "text",
    ["ldr q0, [x0, #0x10]", "mov x0, x1", "mov v0.d[1], x3", "sdot v0.4s, v1.16b, v2.4b[0]", "ldr q0, [x29]"],
)
def test_aarch64_does_not_spill(text):
    assert spills(aarch64, text) == []


def test_x29_is_the_stack_only_where_it_points_there():
    assert spills(aarch64, "mov x29, sp", "ldr q0, [x29, #0x10]") == ["ldr q0, [x29, #0x10]"]
    assert spills(aarch64, "add x29, sp, #0x30", "ldr q0, [x29]") == ["ldr q0, [x29]"]
    assert spills(aarch64, "mov x29, x3", "ldr q0, [x29, #0x10]") == []


def test_x86_spills():
    spilt = ["vmovdqa %ymm0,0x20(%rsp)", "vmovdqa %ymm0,%ymm1"]
    assert spills(x86_64, "vpdpbusd %ymm0,%ymm1,%ymm2", "vmovdqa (%rdi),%ymm0", *spilt) == spilt


def test_only_innermost_loops_within_the_function_count():
    code = ["nop", "nop", "b.ne 0x4 <f+0x4>", "cbnz x0, 0x0 <f>", "b 0x20 <f>", "bl 0x0 <f>", "b.eq 4 <f+0x4>"]
    assert [[address for address, _ in loop] for loop in innermost_loops(listed(*code))] == [[4, 8]]


def test_a_jump_back_over_a_return_is_no_loop():
    code = ["nop", "jl 0 <f>", "nop", "ret", "nop", "jmp 8 <f+0x8>"]
    assert [[address for address, _ in loop] for loop in innermost_loops(listed(*code))] == [[0, 4]]


@pytest.fixture
def assembled(tmp_path):
    """Assembles aarch64 code to an object."""
    try:
        find_tool(*aarch64.OBJDUMP)
    except RuntimeError as error:
        pytest.skip(str(error))
    clang = shutil.which("clang-16") or shutil.which("clang")
    if clang is None:
        pytest.skip("clang is not installed")

    def assemble(*code):
        obj = tmp_path / "code.o"
        source = "\n".join((".arch armv8.6-a+sve+fp16", "f:", *code)) + "\n"
        command = [clang, "--target=aarch64-linux-gnu", "-c", "-x", "assembler", "-", "-o", str(obj)]
        subprocess.run(command, input=source, text=True, check=True)
        return obj

    return assemble


@pytest.mark.parametrize(
    ("code", "isas"),
    [
        ("sdot v0.4s, v1.16b, v2.16b", {"neon_dotprod", "neon_i8mm"}),
        ("smmla v0.4s, v1.16b, v2.16b", {"neon_i8mm"}),
        ("fadd v0.8h, v1.8h, v2.8h", {"neon_dotprod", "neon_i8mm"}),
        ("ldaddal w0, w1, [x2]", set()),
        ("bfdot v0.4s, v1.8h, v2.8h", set()),
        ("ptrue p0.b", set()),
        ("ldaprb w0, [x1]", set()),
        ("fcvtl v0.4s, v1.4h", {"", "neon", "neon_dotprod", "neon_i8mm"}),
        ("smull v0.8h, v1.8b, v2.8b", {"", "neon", "neon_dotprod", "neon_i8mm"}),
    ],
)
def test_an_object_holds_what_its_cpus_have(assembled, code, isas):
    obj, objdump = assembled("add x0, x0, #1", code, "ret"), find_tool(*aarch64.OBJDUMP)
    for isa in ("", "neon", "neon_dotprod", "neon_i8mm"):
        assert aarch64.forbidden(obj, isa, objdump) == ([] if isa in isas else [f"{code} in f"])

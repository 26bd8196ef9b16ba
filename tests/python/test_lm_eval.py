"""The model `edgekern` of the lm-evaluation-harness, on a task of our own: nothing is fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5")
pytest.importorskip("lm_eval", reason="needs pip install 'edgekern[lm-eval]'")

from tiny_llama import WORDS, add_tokenizer, folder_of, tiny  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

import edgekern as ek  # noqa: E402

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.not_emulated("imports much")]

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A float model, and the same saved converted, its tied head too."""
    base = tmp_path_factory.mktemp("lm_eval")
    source = add_tokenizer(folder_of(tiny(eos_token_id=95), base / "float"))
    rules = base / "rules.toml"
    rules.write_text('format = "per_layer"\n[rules]\nlm_head = "int8"\n_default = "int8"\n')
    from test_cli import invoke

    done = invoke("quantize", str(source), "--config", str(rules), "-o", str(base / "int8"))
    assert done.exit_code == 0, done.output
    return {"float": source, "int8": base / "int8"}


@pytest.fixture(scope="module")
def documents():
    random = torch.Generator().manual_seed(0)
    words = [[WORDS[int(i)] for i in torch.randint(94, (6,), generator=random)] for _ in range(24)]
    return [
        {"text": " ".join(line[:3]), "choices": line[3:], "answer": number % 3} for number, line in enumerate(words)
    ]


@pytest.fixture(scope="module")
def tasks(documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    file = folder / "documents.jsonl"
    file.write_text("\n".join(map(json.dumps, documents)))
    (folder / "tiny_choice.yaml").write_text(TASK.format(file=file))
    return folder


def accuracy(model, documents):
    """How often the likeliest of the choices, each one token, is the answer."""
    right = 0
    with torch.inference_mode():
        for document in documents:
            ids = torch.tensor([[WORDS.index(word) for word in document["text"].split()]])
            scores = model(ids).logits[0, -1]
            found = [float(scores[WORDS.index(word)]) for word in document["choices"]]
            right += found.index(max(found)) == document["answer"]
    return right / len(documents)


@pytest.mark.parametrize(("name", "scheme"), [("int8", None), ("float", None), ("float", "int8")])
def test_the_harness_scores_what_the_model_says(folders, documents, tasks, name, scheme, monkeypatch):
    import lm_eval
    from lm_eval.tasks import TaskManager

    import edgekern.integrations.lm_eval as adapter

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = {"pretrained": str(folders[name])} | ({"scheme": scheme} if scheme else {})
    model = adapter.EdgekernLM(**arguments, batch_size=4)
    if name == "int8":
        assert isinstance(model.model.lm_head, ek.nn.Int8Linear)
    manager = TaskManager(include_path=str(tasks))
    result = lm_eval.simple_evaluate(model, tasks=["tiny_choice"], task_manager=manager, bootstrap_iters=0)
    expected = AutoModelForCausalLM.from_pretrained(folders[name])
    if scheme:
        ek.convert_(expected, ek.Int8())
    assert result["results"]["tiny_choice"]["acc,none"] == pytest.approx(accuracy(expected, documents))
    assert 0.1 < accuracy(expected, documents) < 0.9


def test_the_command_has_the_harness_s_options(folders, documents, tasks, tmp_path):
    command = [sys.executable, "-m", "edgekern.integrations.lm_eval", "--model", "edgekern", "--tasks", "tiny_choice"]
    command += ["--model_args", f"pretrained={folders['int8']}", "--include_path", str(tasks), "--output_path"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([*command, str(tmp_path / "out")], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    expected = accuracy(AutoModelForCausalLM.from_pretrained(folders["int8"]), documents)
    assert json.loads(file.read_text())["results"]["tiny_choice"]["acc,none"] == pytest.approx(expected)


def test_mistakes_are_explained(folders, tmp_path):
    from edgekern.integrations.lm_eval import EdgekernLM

    with pytest.raises(ValueError, match="unknown format 'int5'"):
        EdgekernLM(str(folders["float"]), scheme="int5")
    bare = folder_of(tiny(), tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        EdgekernLM(str(bare))

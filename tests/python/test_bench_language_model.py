"""The benchmark of language models: its tasks on a small model, the files it makes, the rendered page."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5")

from results_file import ENERGY, JOULES_NOTE, with_joules, write_file  # noqa: E402
from tiny_llama import tiny  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import language_model  # noqa: E402
import render  # noqa: E402
from harness.subject import SUBJECTS, load_subject  # noqa: E402
from rendering.language_model import language_model_section  # noqa: E402
from rendering.results import read_results  # noqa: E402
from rivals import lm_task  # noqa: E402
from rivals.instant import ZeroLinear  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = [name for name in (*language_model.OURS, *language_model.RIVALS) if name.startswith("lm-")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model with the files that make_folder makes of the real one."""
    made = tmp_path_factory.mktemp("lm")
    model = tiny(hidden_size=64, intermediate_size=128)
    model.save_pretrained(made)
    prompt = np.random.default_rng(0).integers(96, size=24).astype(np.int32)
    np.save(made / lm_task.PROMPT, prompt)
    with torch.inference_mode():
        logits = model(torch.from_numpy(prompt).long()[None], logits_to_keep=1).logits[0, -1].numpy()
    np.save(made / lm_task.LOGITS, logits)
    return made


@pytest.fixture(autouse=True)
def _folder_of_the_task(folder, monkeypatch):
    monkeypatch.setenv(lm_task.FOLDER_VARIABLE, str(folder))


def test_everybody_is_a_subject_and_asked_the_same():
    assert {*language_model.OURS, *language_model.RIVALS} <= set(SUBJECTS)
    cells = language_model.all_cells(language_model.LENGTHS)
    assert [(cell["name"], cell["does"], cell["tokens"]) for cell in cells] == [
        ("pp512", "read", 512),
        ("tg64", "write", 64),
    ]


@pytest.mark.parametrize("name", HERE)
def test_every_subject_reads_and_writes(name):
    subject = load_subject(name, 1)
    errors = []
    with subject.session():
        for cell in language_model.all_cells({"read": ("pp", 16), "write": ("tg", 5)}):
            errors.append(subject.prepare(**cell).get("relative_error"))
            read = []
            plain = subject.read
            subject.read = lambda tokens, plain=plain, read=read: read.append(len(tokens)) or plain(tokens)
            subject.calls[0]()
            subject.calls[0]()
            subject.read = plain
            assert read == ([16, 16] if cell["does"] == "read" else [1] * 10)
    if name == "lm-stub":
        assert errors == [None, None]
        return
    assert errors[0] == pytest.approx(errors[1], abs=1e-6)
    if name == "lm-torch-fp32":
        assert errors[0] < 1e-5
    else:
        assert 1e-5 < errors[0] < 0.5


def test_what_is_converted(folder):
    import edgekern as ek

    kinds = {}
    for name in language_model.OURS:
        subject = load_subject(name, 1)
        subject.load(folder)
        model = subject._model
        kinds[name.removeprefix("lm-edgekern-")] = (type(model.model.layers[0].mlp.up_proj), type(model.lm_head))
    assert kinds == {
        "int8": (ek.nn.Int8Linear, torch.nn.Linear),
        "int8-head": (ek.nn.Int8Linear, ek.nn.Int8Linear),
        "int4": (ek.nn.Int4Linear, torch.nn.Linear),
        "int4-head": (ek.nn.Int4Linear, ek.nn.Int8Linear),
        "lm-stub": (ZeroLinear, ZeroLinear),
    }


def test_a_model_that_is_wired_up_wrongly_is_not_timed(folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    tiny(hidden_size=64, intermediate_size=128, seed=1).save_pretrained(other)
    for name in (lm_task.PROMPT, lm_task.LOGITS):
        (other / name).write_bytes((folder / name).read_bytes())
    monkeypatch.setenv(lm_task.FOLDER_VARIABLE, str(other))
    subject = load_subject("lm-torch-fp32", 1)
    (cell, _) = language_model.all_cells({"read": ("pp", 16), "write": ("tg", 5)})
    with subject.session(), pytest.raises(ArithmeticError, match=r"the logits are off by .* \(allowed 60%\)"):
        subject.prepare(**cell)


@pytest.mark.skipif(find_spec("gguf") is None, reason="needs gguf")
def test_floats_for_llama_cpp_are_those_of_the_source(tmp_path):
    gguf = pytest.importorskip("gguf")
    from rivals.lm_files import make_gguf, write_floats
    from test_transformers import write_gguf
    from transformers import AutoModelForCausalLM

    source = tiny(vocab_size=128, hidden_size=64, tied=False)
    write_gguf(gguf, source, tmp_path / "source.gguf")
    write_floats(tmp_path / "source.gguf", tmp_path / "floats.gguf")
    reader = gguf.GGUFReader(tmp_path / "floats.gguf")
    assert {tensor.tensor_type for tensor in reader.tensors} == {gguf.GGMLQuantizationType.F32}
    models = [
        AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=name, dtype=torch.float32).state_dict()
        for name in ("source.gguf", "floats.gguf")
    ]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][name], tensor) for name, tensor in models[1].items())
    with pytest.raises(RuntimeError, match=r"no llama.cpp: .* does not exist"):
        make_gguf(tmp_path, tmp_path / "none/bin/python")


def records():
    timing = {"kind": "timing", "min_s": 0.1, "p90_s": 0.1, "samples": 7, "rounds": 7, "foreign_load": 0.0}
    seconds = {
        ("lm-edgekern-int8", "pp512"): 0.5,
        ("lm-edgekern-int8", "tg64"): 0.4,
        ("lm-torch-fp32", "pp512"): 2.0,
        ("lm-torch-fp32", "tg64"): 1.0,
        ("llama-q8_0", "pp512"): 1.0,
        ("llama-q8_0", "tg64"): 0.32,
    }
    for (subject, name), median in seconds.items():
        task = {"name": name, "does": "read", "tokens": int(name[2:])}
        yield {**timing, "subject": subject, "threads": 2, **task, "median_s": median, "relative_error": median / 10}


def test_the_page(tmp_path):
    results = read_results(write_file(tmp_path, [{"kind": "versions", "subject": "x", "threads": 2}, *records()], "lm"))
    page = language_model_section(results, [])
    assert "| edgekern int8, head float32 | **1,024** | 160.0 | 5.0% |" in page
    assert "| torch float32 | 256.0 | 64.0 | 20.0% |" in page
    assert "| llama.cpp Q8_0 | *512.0* | **200.0** | 10.0% |" in page
    assert render.charts_of(results) == []
    assert render.SECTIONS["lm"] is language_model_section


def test_joules_of_a_token(tmp_path):
    page = language_model_section(read_results(write_file(tmp_path, with_joules(records()), "lm", energy=ENERGY)), [])
    assert page.count(JOULES_NOTE) == 1
    assert "| J/token | edgekern int8, head float32 | torch float32 | llama.cpp Q8_0 |" in page
    assert "| pp512, 2 threads | 0.00977 | 0.0391 | 0.0195 |" in page  # 10 W for 0.5, 2 and 1 s, over 512 tokens
    assert page.endswith("| tg64, 2 threads | 0.0625 | 0.156 | 0.05 |")

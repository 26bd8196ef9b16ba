"""quantize, eval, generate and bench lm, as their users meet them."""

from __future__ import annotations

import json
import math

import pytest
from test_cli import invoke, invoke_json, run

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5")
pytest.importorskip("scipy")
pytest.importorskip("tomli_w")

from tiny_llama import WORDS, add_tokenizer, folder_of, logits, tiny  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

import edgekern as ek  # noqa: E402
import edgekern.cli.options as options  # noqa: E402
from edgekern.config import read_config  # noqa: E402
from edgekern.evaluate import perplexity, windows  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

RULES = """
format = "per_layer"
[rules]
lm_head = "dense"
"re:.*mlp.*" = { format = "int8", rows = [1, 64] }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return add_tokenizer(folder_of(tiny(eos_token_id=95), tmp_path_factory.mktemp("cli") / "tiny"))


@pytest.fixture(scope="module")
def quantized(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "out"
    done = invoke("quantize", str(folder), "--scheme", "int8", "-o", str(out))
    assert done.exit_code == 0, done.output
    return out


def test_quantize_writes_what_from_pretrained_reads(folder, quantized):
    expected = AutoModelForCausalLM.from_pretrained(folder)
    ek.convert_(expected, ek.Int8())
    ek.fuse_blocks_(expected)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(quantized)), logits(expected))
    assert read_config(quantized / "edgekern.toml") == ek.Int8()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in quantized.iterdir()}


def test_quantize_by_rules(folder, tmp_path):
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    done = invoke("quantize", str(folder), "--config", str(file), "-o", str(tmp_path / "new/out"))
    assert done.exit_code == 0, done.output
    assert "23 layers: 9 converted, 14 left alone" in done.stdout
    assert "left alone: lm_head: the rule 'lm_head' is None" in done.stdout
    assert "peak memory" in done.stdout
    assert read_config(tmp_path / "new/out/edgekern.toml") == read_config(file)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_quantize_calibrates_where_the_configuration_says_so(folder, tmp_path):
    file, text, out = tmp_path / "static.toml", tmp_path / "text.txt", tmp_path / "out"
    file.write_text('format = "int8"\nactivations = "static"\nranges = "percentile"\npercentile = 99.9\n')
    text.write_text(" ".join(WORDS[i * i % 94] for i in range(256 * 8)))  # windows as long as the model reads
    done = invoke("quantize", str(folder), "--config", str(file), "--text", str(text), "-o", str(out))
    assert done.exit_code == 0, done.output
    assert "23 layers: 21 converted, 2 left alone" in done.stdout
    scheme = ek.Int8(activations="static", ranges="percentile", percentile=99.9)
    assert read_config(out / "edgekern.toml") == scheme
    expected = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([i * i % 94 for i in range(256 * 8)])
    ek.convert_(expected, scheme, data=[{"input_ids": window[None]} for window in ids.split(256)], progress=False)
    ek.fuse_blocks_(expected)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(logits(loaded), logits(expected))
    assert loaded.model.layers[0].mlp.up_proj.input_range == expected.model.layers[0].mlp.up_proj.input_range
    done = invoke("quantize", str(out), "-o", str(tmp_path / "again"))  # and its ranges are kept
    assert done.exit_code == 0, done.output
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "again")), logits(expected))


def test_quantize_with_activations_that_stay_floats(folder, tmp_path):
    file, out, theirs = tmp_path / "rules.toml", tmp_path / "out", tmp_path / "theirs"
    file.write_text(RULES + '_default = { format = "int4", group_size = 32, activations = "float" }\n')
    floats = ek.Int4(group_size=32, activations="float")
    for output, layout in ((out, "edgekern"), (theirs, "compressed-tensors")):
        done = invoke("quantize", str(folder), "--config", str(file), "-o", str(output), "--layout", layout)
        assert done.exit_code == 0, done.output
        config = read_config(output / "edgekern.toml")
        assert config == read_config(file)
        assert config.rules["_default"] == floats
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.model.layers[1].self_attn.q_proj.scheme == floats
    assert model.model.layers[1].mlp.up_proj.scheme == ek.Int8(rows=(1, 64))
    written = [invoke("generate", str(path), "-p", "w1 w2 w3", "-n", "12").stdout for path in (out, theirs)]
    assert written[0] == written[1]


def test_layouts_are_written_and_read_by_every_command(folder, quantized, tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for source, output, given in (
        (folder, tmp_path / "directly", ("--scheme", "int8", "--layout", "compressed-tensors")),
        (quantized, theirs, ("--layout", "compressed-tensors")),
        (theirs, ours, ()),
    ):
        done = invoke("quantize", str(source), "-o", str(output), *given)
        assert done.exit_code == 0, done.output
        assert "23 layers: 21 converted, 2 left alone" in done.stdout
        assert read_config(output / "edgekern.toml") == ek.Int8()
    said = json.loads((theirs / "config.json").read_text())["quantization_config"]
    assert (said["quant_method"], said["format"]) == ("compressed-tensors", "int-quantized")
    weights = [(path / "model.safetensors").read_bytes() for path in (theirs, tmp_path / "directly")]
    assert weights[0] == weights[1]
    expected = logits(AutoModelForCausalLM.from_pretrained(quantized))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(ours)), expected)
    written = [invoke("generate", str(path), "-p", "w1 w2 w3", "-n", "12").stdout for path in (quantized, theirs)]
    assert written[0] == written[1]
    rows = invoke_json("bench", "lm", str(theirs), "-p", "4", "-n", "0", "-r", "1", "-t", "1", "-o", "json")["rows"]
    assert [row["weights"] for row in rows] == ["stored"]


def test_quantize_within_a_budget(folder, tmp_path):
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(" ".join(WORDS[number * number % 94] for number in range(2500)))
    done = invoke("quantize", str(folder), "--budget", "8 bpw", "--text", str(text), "-o", str(out))
    assert done.exit_code == 0, done.output
    config = read_config(out / "edgekern.toml")
    assert len(config.rules) == 21
    assert len({repr(rule) for rule in config.rules.values()}) > 1
    model = AutoModelForCausalLM.from_pretrained(out)
    rows = {row.name: row for row in ek.explain(model).rows if row.name in config.rules}
    bits = 8 * sum(row.bytes_after for row in rows.values()) / sum(math.prod(row.shape) for row in rows.values())
    assert 7 < bits <= 8


def test_a_folder_without_tokenizer_is_quantised_without(tmp_path):
    folder = folder_of(tiny(), tmp_path / "bare")
    assert invoke("quantize", str(folder), "--scheme", "int8", "-o", str(tmp_path / "out")).exit_code == 0
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        invoke("generate", str(folder), "-p", "w1")


def test_eval_is_the_perplexity(quantized, tmp_path):
    file = tmp_path / "text.txt"
    words = [WORDS[number * number % 94] for number in range(200)]
    file.write_text(" ".join(words))
    result = invoke_json("eval", str(quantized), "--text", str(file), "--tokens", "16", "--windows", "4", "--json")
    ids = torch.tensor([WORDS.index(word) for word in words])
    expected = perplexity(AutoModelForCausalLM.from_pretrained(quantized), windows(ids, 16, 4))
    assert result["perplexity"] == pytest.approx(expected, rel=1e-6)
    assert (result["windows"], result["tokens"]) == (4, 16)
    table = invoke("eval", str(quantized), "--text", str(file), "--tokens", "16", "--windows", "4")
    assert table.stdout.startswith(f"perplexity {expected:.3f} on 4 windows of 16 tokens")


def test_generate_streams_the_likeliest_tokens(quantized):
    done = invoke("generate", str(quantized), "-p", "w1 w2 w3", "-n", "12")
    assert done.exit_code == 0, done.output
    model = AutoModelForCausalLM.from_pretrained(quantized)
    ids = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=12, do_sample=False, pad_token_id=0)[0, 3:]
    assert len(ids) > 3
    words = [WORDS[number] for number in ids.tolist() if number < 94]
    assert done.stdout.split() == words
    assert "prompt 3 tokens, " in done.stderr
    assert f"decode {len(ids) - 1} tokens, " in done.stderr


def test_bench_has_rows_like_llama_bench(folder, quantized):
    tests = ("-p", "8,5", "-n", "3", "-t", "1,2", "-r", "2")
    result = invoke_json("bench", "lm", str(folder), *tests, "--as", "stored,bfloat16,torch-int8,int8", "-o", "json")
    rows = result["rows"]
    assert [(row["test"], row["threads"]) for row in rows[:3]] == [("pp8", 1), ("pp5", 1), ("tg3", 1)]
    assert len(rows) == 4 * 3 * 2
    assert {row["weights"] for row in rows} == {"stored", "bfloat16", "torch-int8", "int8"}
    for row in rows:
        assert len(row["samples"]) == 2
        assert row["tokens_per_second"] == pytest.approx(sum(row["samples"]) / 2)
        assert row["deviation"] == pytest.approx(abs(row["samples"][0] - row["samples"][1]) / math.sqrt(2))
    sizes = {row["weights"]: row["bytes"] for row in rows}
    both = invoke_json("bench", "lm", str(folder), str(quantized), *tests, "--as", "float16", "-o", "json")["rows"]
    assert {(row["model"], row["weights"]) for row in both} == {("tiny", "float16"), ("out", "stored")}
    assert max(sizes["int8"], sizes["torch-int8"]) < sizes["stored"]
    assert sizes["bfloat16"] == pytest.approx(sizes["stored"] / 2, rel=0.02)


@pytest.mark.parametrize("form", ["md", "csv", "jsonl"])
def test_bench_prints_every_form(quantized, form):
    done = invoke("bench", "lm", str(quantized), "-p", "4", "-n", "0", "-r", "1", "-t", "1", "-o", form)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    if form == "md":
        assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
            "model",
            "weights",
            "size",
            "threads",
            "test",
            "t/s",
            "J/token",
        ]
        assert [cell.strip() for cell in lines[2].split("|")[1:6]][3:] == ["1", "pp4"]
    elif form == "csv":
        assert lines[0] == "model,weights,bytes,threads,test,tokens_per_second,deviation,joules_per_token"
        assert lines[1].split(",")[:2] == ["out", "stored"]
    else:
        (row,) = map(json.loads, lines)
        assert (row["joules_per_token"] is None) == bool(row["energy"]["why_none"])
        assert (row["test"], row["machine"]["isa"]) == ("pp4", ek.kernels.default_isa())


# ---------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("quantize", "NOWHERE", "--scheme", "int8", "-o", "out"), "MODEL: NOWHERE is not a folder"),
        (("quantize", "EMPTY", "--scheme", "int8", "-o", "out"), "holds no config.json"),
        (("quantize", "MODEL", "-o", "out"), "takes --config FILE, --scheme NAME or --budget AMOUNT"),
        (("quantize", "MODEL", "--scheme", "int8", "--config", "a.toml", "-o", "out"), "and one of them"),
        (
            ("quantize", "INT8", "--scheme", "int8", "-o", "out"),
            "is converted already, to edgekern; its integers are kept",
        ),
        (("quantize", "AWQ", "-o", "out"), "is stored as awq; expected floats, edgekern or compressed-tensors"),
        (("quantize", "MODEL", "--scheme", "int8", "--budget", "5 bpw", "-o", "out"), "and one of them"),
        (("quantize", "MODEL", "--budget", "5", "-o", "out"), "budget: expected an amount and a unit, as '4.5 bpw'"),
        (("quantize", "MODEL", "--budget", "1 bpw", "--text", "LATIN", "-o", "out"), "latin.txt is not UTF-8 text"),
        (("quantize", "MODEL", "--scheme", "int8", "--text", "RULES", "-o", "out"), "has no effect without --budget"),
        (("quantize", "MODEL", "--scheme", "int5", "-o", "out"), "unknown format 'int5'; .* awq, f16, f32"),
        (("quantize", "MODEL", "--scheme", "shrink", "-o", "out"), "shrink"),
        (("quantize", "MODEL", "--scheme", "int8", "-o", "EMPTY"), "OUT: .* exists already"),
        (("quantize", "MODEL", "--config", "nothing.toml", "-o", "out"), "nothing.toml"),
        (("quantize", "MODEL", "--config", "BITS", "-o", "out"), "bits.toml: .*no option 'bits'; it has form, rows"),
        (("quantize", "MODEL", "--config", "PRUNE", "-o", "out"), "prune.toml: config: Prune is for prune_"),
        (("eval", "MODEL", "--text", "nothing.txt"), "nothing.txt"),
        (("eval", "MODEL", "--text", "LATIN"), "latin.txt is not UTF-8 text"),
        (("eval", "MODEL", "--text", "RULES", "--tokens", "257"), "the model reads 256 tokens at once, not 257"),
        (("eval", "MODEL", "--text", "RULES", "--tokens", "200"), "expected at least one window of 200 tokens"),
        (("generate", "MODEL", "-p", " "), "--prompt: expected some text"),
        (("bench", "lm", "EMPTY"), "holds no config.json"),
        (("bench", "lm", "MODEL", "--as", "int5"), "--as int5: expected stored, float32, .* unknown format 'int5'"),
        (("bench", "lm", "MODEL", "--as", "prune"), "--as prune: expected stored"),
        (("bench", "lm", "MODEL", "-p", "0", "-n", "0"), "expected models, lengths"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_explained(arguments, message, folder, quantized, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"EMPTY": tmp_path / "empty", "MODEL": folder, "INT8": quantized, "AWQ": tmp_path / "awq"}
    files["EMPTY"].mkdir()
    files["AWQ"].mkdir()
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "awq"}}
    (files["AWQ"] / "config.json").write_text(json.dumps(config))
    contents = {"bits": b"format = 'int8'\nbits = 3", "prune": b"format = 'prune'\nsparsity = 0.5", "rules": b"w1 w2"}
    for name, content in contents.items():
        files[name.upper()] = tmp_path / f"{name}.toml"
        files[name.upper()].write_bytes(content)
    files["LATIN"] = tmp_path / "latin.txt"
    files["LATIN"].write_bytes(b"\xe4\xf6")
    with pytest.raises((OSError, ValueError), match=message):
        invoke(*(str(files.get(argument, argument)) for argument in arguments))
    assert not (tmp_path / "out").exists()


def test_a_wrong_number_is_explained(folder):
    done = invoke("bench", "lm", str(folder), "-t", "one")
    assert done.exit_code == 2
    assert "expected whole numbers, as 512 or 1,2; got 'one'" in done.output


def test_without_the_extra_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda name: None if name == "transformers" else object())
    with pytest.raises(ImportError, match=r"need transformers; run: pip install 'edgekern\[lm\]'"):
        invoke("generate", str(folder), "-p", "w1")


def test_a_mistake_is_one_line_of_the_real_command(tmp_path):
    done = run("quantize", str(tmp_path / "none"), "--scheme", "int8", "-o", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr == f"edgekern: MODEL: {tmp_path / 'none'} is not a folder\n"

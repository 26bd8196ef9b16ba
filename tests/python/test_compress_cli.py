"""edgekern compress, on folders of transformers models."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from test_cli import invoke

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5")
pytest.importorskip("scipy")
pytest.importorskip("tomli_w")

import transformers  # noqa: E402
from tiny_llama import WORDS, add_tokenizer, folder_of, logits, tiny  # noqa: E402
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM  # noqa: E402

import edgekern as ek  # noqa: E402
import edgekern.integrations.transformers  # noqa: E402 - registers the method
from edgekern.compress.record_file import read_record  # noqa: E402
from edgekern.config import read_config  # noqa: E402
from edgekern.evaluate import perplexity, windows  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot read TOML"),
]

RECIPE = """
[text]
tokens = 16
batch = 2
calibration = 4
evaluation = 3
[[stage]]
kind = "prune"
scheme = { format = "prune", sparsity = 0.5, method = "wanda" }
[[stage]]
kind = "distil"
layers = 2
fit = { steps = 3, optimizer = { name = "sgd", lr = 0.01 }, train_mode = false }
TUNE
[[stage]]
kind = "convert"
scheme = "int8"
[[stage]]
kind = "evaluate"
seconds = 0.01
layers = false
"""
TUNE = '[[stage]]\nkind = "fine_tune"\nfit = { steps = 2, optimizer = { name = "sgd", lr = 0.01 }, train_mode = false }'


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return add_tokenizer(folder_of(tiny(), tmp_path_factory.mktemp("compress") / "tiny"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
    model = transformers.BertModel(transformers.BertConfig(**sizes, num_attention_heads=4, max_position_embeddings=64))
    folder = tmp_path_factory.mktemp("compress") / "bert"
    model.save_pretrained(folder)
    tokenizer = add_tokenizer(folder)
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "</s>"}))
    return folder


@pytest.fixture
def files(tmp_path):
    """A text to learn from, one to evaluate on, and a recipe."""
    words = [WORDS[number * number % 94] for number in range(800)]
    (tmp_path / "text.txt").write_text("\n".join(" ".join(words[i : i + 10]) for i in range(0, 640, 10)))
    (tmp_path / "held.txt").write_text(" ".join(words[-160:]))
    (tmp_path / "mine.toml").write_text(RECIPE.replace("TUNE", ""))
    (tmp_path / "tuned.toml").write_text(RECIPE.replace("TUNE", TUNE))
    return tmp_path


class Pair:
    """In the place of WordSim-353."""

    name, texts = "pairs", ("w1 w2", "w3")

    def score(self, encode):
        first, second = encode(self.texts)
        return float(first @ second)


def command(model, files, recipe, *others):
    given = ("--recipe", str(recipe), "--data", str(files / "text.txt"), "-o", str(files / "out"))
    return invoke("compress", str(model), *given, *others)


def test_a_language_model(llama, files):
    done = command(llama, files, files / "tuned.toml", "--eval", str(files / "held.txt"))
    assert done.exit_code == 0, done.output
    assert "perplexity" in done.stdout
    assert "smaller" in done.stdout
    assert "stage 2 of 6: prune" in done.stderr
    record = read_record(files / "out")
    assert (record.model, record.recipe, record.complete) == (str(llama), "tuned", True)
    first, last = (stage.measured for stage in record.stages if stage.measured)
    model = AutoModelForCausalLM.from_pretrained(files / "out/model")
    assert len(model.model.layers) == 2
    assert isinstance(model.model.layers[1].mlp.up_proj, ek.nn.Int8Linear)
    assert (model.model.layers[0].mlp.up_proj.dense().weight == 0).float().mean() >= 0.5
    ids = torch.tensor([WORDS.index(word) for word in (files / "held.txt").read_text().split()])
    assert last.quality == pytest.approx(perplexity(model, windows(ids, 16, 3)), rel=1e-5)
    assert first.quality == pytest.approx(
        perplexity(AutoModelForCausalLM.from_pretrained(llama), windows(ids, 16, 3)), rel=1e-5
    )
    assert read_config(files / "out/model/edgekern.toml") == ek.Int8()
    again = command(llama, files, files / "tuned.toml", "--eval", str(files / "held.txt"))
    assert "finished: " in again.stderr
    assert again.stdout == done.stdout


READ = """
import sys
import edgekern.integrations.transformers, torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
with torch.inference_mode():
    torch.save(model(torch.arange(24)[None] * 3 % 96).logits, sys.argv[2])
"""


@pytest.mark.parametrize("scheme", ["int8", None])
def test_a_narrower_language_model(llama, files, scheme):
    recipe = RECIPE.replace("layers = 2", "layers = 2\nwidth = 0.5\nhard = 0.5").replace("TUNE", "")
    recipe = recipe.replace('[[stage]]\nkind = "convert"\nscheme = "int8"\n', "") if scheme is None else recipe
    (files / "narrow.toml").write_text(recipe)
    done = command(llama, files, files / "narrow.toml")
    assert done.exit_code == 0, done.output
    read = AutoModelForCausalLM.from_pretrained(files / "out/model")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    assert {name: getattr(read.config, name) for name in sizes} == sizes
    assert len(read.model.layers) == 2
    last = read_record(files / "out").stages[-1].measured
    ids = torch.tensor([WORDS.index(word) for word in (files / "text.txt").read_text().split()])
    assert last.quality == pytest.approx(perplexity(read, windows(ids[: 16 * 3], 16, 3)), rel=1e-5)
    if scheme is None:
        config = AutoConfig.from_pretrained(files / "out/model")
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(config)
        assert [(name, each.shape) for name, each in built.named_parameters()] == [
            (name, each.shape) for name, each in read.named_parameters()
        ]
    subprocess.run([sys.executable, "-c", READ, files / "out/model", files / "logits.pt"], check=True)
    assert torch.equal(torch.load(files / "logits.pt"), logits(read))
    again = command(llama, files, files / "narrow.toml")
    assert "finished: " in again.stderr
    assert again.stdout == done.stdout


def test_an_encoder_that_no_config_describes(bert, files):
    recipe = RECIPE.replace("TUNE", "")
    (files / "half.toml").write_text(recipe.replace("layers = 2", "width = 0.5"))
    message = (
        r"stage 'distil': its student cannot be written as .*bert is: its encoder.layer.0.attention.self.query.weight "
        r"is \[16, 32\], and by its BertConfig \[32, 32\]. Take another width, .* of a BERT all heads are left, or "
    )
    with pytest.raises(ek.CompressError, match=message):
        command(bert, files, files / "half.toml", "--eval", str(files / "held.txt"))
    assert not (files / "out/stages").exists()
    (files / "inner.toml").write_text(recipe.replace("layers = 2", "width = 0.9"))  # which rounds to all heads
    done = command(bert, files, files / "inner.toml", "--eval", str(files / "held.txt"))
    assert done.exit_code == 0, done.output
    assert AutoModel.from_pretrained(files / "out/model").config.intermediate_size == 56


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_recipes_that_come_along(llama, files, name):
    recipe = files / f"{name}.toml"
    from edgekern.compress import recipes

    text = (recipes._FOLDER / f"{name}.toml").read_text()
    quick = text.replace('kind = "evaluate"', 'kind = "evaluate"\nseconds = 0.01')
    recipe.write_text("[text]\ntokens = 16\nevaluation = 3\n" + quick.replace(f'name = "{name}"', "", 1))
    done = command(llama, files, recipe)
    assert done.exit_code == 0, done.output
    model = AutoModelForCausalLM.from_pretrained(files / "out/model")
    if name == "int8":
        expected = AutoModelForCausalLM.from_pretrained(llama)
        ek.convert_(expected, ek.Int8())
        ek.fuse_blocks_(expected)
        assert torch.equal(logits(model), logits(expected))
    else:
        assert isinstance(model.model.layers[1].mlp.up_proj, ek.nn.Int4Linear)
    assert (files / "out/model/tokenizer.json").is_file()


@pytest.mark.parametrize("held_out", [True, False])
def test_an_encoder(bert, files, held_out, monkeypatch):
    import edgekern.cli.compress as cli

    monkeypatch.setattr(cli, "load_wordsim353", Pair)
    done = command(bert, files, files / "mine.toml", *(("--eval", str(files / "held.txt")) if held_out else ()))
    assert done.exit_code == 0, done.output
    record = read_record(files / "out")
    assert record.stages[-1].measured.metric == ("squared error" if held_out else "pairs")
    assert any("learnt from 2 blocks inside" in note for note in record.stages[2].notes)
    model = AutoModel.from_pretrained(files / "out/model").eval()
    assert len(model.encoder.layer) == 2
    assert isinstance(model.encoder.layer[1].output.dense, ek.nn.Int8Linear)
    with torch.inference_mode():
        ids = torch.arange(8)[None]
        assert model(input_ids=ids).last_hidden_state.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("MODEL", "--recipe", "int9"), "recipe: int9 is no file, and none of distil-half, int4"),
        (("MODEL", "--recipe", "BAD"), "bad.toml: .*unknown kind 'melt'"),
        (("MODEL", "--recipe", "MINE", "--data", "nothing.txt"), "nothing.txt"),
        (("MODEL", "--recipe", "MINE", "--data", "LATIN"), "--data: .*latin.txt is not UTF-8"),
        (
            ("MODEL", "--recipe", "MINE", "--data", "SHORT"),
            "--data: the text is too short; expected at least 64 tokens",
        ),
        (("MODEL", "--recipe", "MINE", "--data", "TEXT", "--eval", "SHORT"), "--eval: the text is too short"),
        (("BERT", "--recipe", "TUNED", "--data", "TEXT"), "stage 'fine_tune' trains by labels"),
        (("BERT", "--recipe", "MINE", "--data", "EMPTY", "--eval", "TEXT"), "--data: the file holds no line of text"),
        (("MASKED", "--recipe", "MINE", "--data", "TEXT"), "architecture BertForMaskedLM; expected a causal"),
        (("INT8", "--recipe", "MINE", "--data", "TEXT"), "is converted already, to edgekern; compress the float model"),
        (("BARE", "--recipe", "MINE", "--data", "TEXT"), "holds no tokenizer"),
        (("NOWHERE", "--recipe", "int8"), "MODEL: NOWHERE is not a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_explained(arguments, message, llama, bert, files, monkeypatch):
    monkeypatch.chdir(files)
    known = {"MODEL": llama, "BERT": bert, "MINE": files / "mine.toml", "TUNED": files / "tuned.toml"}
    known["TEXT"] = files / "text.txt"
    for name, content in {
        "bad.toml": b'[[stage]]\nkind = "melt"',
        "latin.txt": b"\xe4",
        "short.txt": b"w1",
        "empty.txt": b"\n",
    }.items():
        (files / name).write_bytes(content)
        known[name.partition(".")[0].upper()] = files / name
    for name, change in {
        "masked": {"architectures": ["BertForMaskedLM"]},
        "int8": {"quantization_config": {"quant_method": "edgekern", "config": {"format": "int8"}}},
        "bare": {},
    }.items():
        (files / name).mkdir()
        source = bert if name == "masked" else llama
        (files / name / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text()) | change))
        known[name.upper()] = files / name
    with pytest.raises((OSError, ValueError), match=message):
        invoke("compress", *(str(known.get(argument, argument)) for argument in arguments), "-o", "out")
    assert not (files / "out").exists()


def test_the_command_is_listed_with_its_options():
    done = invoke("compress", "--help")
    assert done.exit_code == 0
    for option in ("--recipe", "--data", "--eval", "--restart", "--threads", "OUT"):
        assert option in done.stdout

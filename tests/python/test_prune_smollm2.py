"""The example that prunes a language model, and its benchmark: their parts, on a tiny one; and what the page says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("scipy")

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / folder) for folder in ("examples", "benchmarks", "scripts")]

import prune_lm  # noqa: E402
import prune_smollm2 as example  # noqa: E402
import render_prune  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern.bench import decode_in_turns  # noqa: E402
from edgekern.calibration.walk import Walk  # noqa: E402
from edgekern.evaluate import language_model, perplexity  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = 96


def tiny(**options):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        **options,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def text():
    return torch.randint(WORDS, (5000,), generator=torch.Generator().manual_seed(1))


def test_calibration_is_out_of_the_last_third(text, monkeypatch):
    monkeypatch.setattr(example, "CALIBRATION", (4, 100))
    marked = torch.arange(5000)
    batches = example.calibration(marked)
    assert [batch["input_ids"].shape for batch in batches] == [(1, 100)] * 4
    starts = [int(batch["input_ids"][0, 0]) for batch in batches]
    assert starts[0] == 5000 - 5000 // 3
    assert starts == sorted(starts)
    assert starts[-1] > 4500  # spread over it


@pytest.mark.parametrize(("pattern", "method"), [("unstructured", "sparsegpt"), ("2:4", "wanda")])
def test_half_of_the_decoder_goes_and_the_embedding_stays(model, text, monkeypatch, capsys, pattern, method):
    monkeypatch.setattr(example, "CALIBRATION", (4, 64))
    pruned = example.prune(model, pattern, method, example.calibration(text))
    assert "21 layers pruned, 50.00 % zeros" in capsys.readouterr().out
    assert prune_lm.share_of_zeros(pruned) == 0.5
    assert torch.equal(pruned.lm_head.weight, model.lm_head.weight)
    assert prune_lm.share_of_zeros(model) == 0  # a copy was pruned


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("cache", [True, False])
def test_a_decoder_is_walked_block_by_block_with_the_bits_of_whole_passes(attention, cache, text):
    """Also where the model makes a cache of keys and values, which every layer writes into."""
    model = tiny(attn_implementation=attention, use_cache=cache)
    batches = [{"input_ids": text[None, :40]}, {"input_ids": text[None, 40:90]}]
    layers = [layer for layer in model.model.layers.modules() if isinstance(layer, torch.nn.Linear)]
    walk = Walk(model, layers, batches)
    assert [len(stage) for stage in walk.stages] == [3, 1, 2, 1] * 3
    assert {chain.items for chain, _ in walk._homes.values()} == {tuple(model.model.layers)}
    names = {layer: name for name, layer in model.named_modules()}
    expected = tiny(attn_implementation=attention, use_cache=cache)
    config = ek.Prune(0.5, method="sparsegpt")
    for stage in walk.stages:
        rules = ek.PerLayer({**{names[layer]: config for layer in stage}, "_default": None})
        ek.prune_(expected, rules, batches, sequential=False, progress=False)
    ek.prune_(model, config, batches, progress=False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name]), name


def test_all_forms_write_the_same(model, text, monkeypatch):
    monkeypatch.setattr(example, "CALIBRATION", (2, 64))
    pruned = example.prune(model, "unstructured", "magnitude", [])
    forms = {form: example.int8(pruned, form) for form in ("dense", "bitmap", "measured")}
    ids = text[None, :20]
    with torch.no_grad():
        outputs = [forms[form](ids).logits for form in forms]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert prune_lm.forms(pruned) == {}  # a copy was converted
    assert prune_lm.forms(forms["bitmap"]) == {"bitmap": 21, "dense": 1}
    assert perplexity(forms["bitmap"], text[:90].view(3, 30)) == perplexity(forms["dense"], text[:90].view(3, 30))


def test_the_head_is_converted_where_asked_and_the_bytes_say_so(model):
    with_head, without = example.int8(model), example.int8(model, head=False)
    assert isinstance(with_head.lm_head, ek.nn.Int8Linear)
    assert isinstance(without.lm_head, torch.nn.Linear)
    linears = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    assert example.linear_bytes(model) == sum(layer.weight.nbytes for layer in linears)
    saved = example.linear_bytes(without) - example.linear_bytes(with_head)
    assert saved == model.lm_head.weight.nbytes - with_head.lm_head.packed_bytes


def test_models_write_in_turns(model, text):
    calls = []

    class Seen(torch.nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name, self.choices = name, []

        def forward(self, input_ids, past_key_values, use_cache):
            calls.append((self.name, input_ids.shape[1]))
            output = model(input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache)
            self.choices.append(int(output.logits[0, -1].argmax()))
            return output

    models = {name: Seen(name) for name in ("a", "b")}
    speeds = decode_in_turns(models, text[None, :7], tokens=3, rounds=2)
    assert speeds.keys() == models.keys()
    assert all(speed > 0 for speed in speeds.values())
    turn = [7, 1, 1, 1, 1]  # the prompt, a token that is not timed, and three that are
    assert calls == [(name, length) for name in "abbaab" for length in turn]
    with torch.no_grad():
        greedy = model.generate(text[None, :7], max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert models["a"].choices == greedy[0, 7:].tolist() * 3


@pytest.mark.parametrize("change", [{"models": {}}, {"tokens": 0}, {"rounds": 0}, {"prompt": torch.zeros(2, 3)}])
def test_bad_arguments_of_decoding(change, model):
    arguments = {"models": {"a": model}, "prompt": torch.zeros(1, 3, dtype=torch.long), "tokens": 1, "rounds": 1}
    with pytest.raises(ValueError, match="expected models, a prompt"):
        decode_in_turns(**{**arguments, **change})


def test_the_model_is_read_once_and_kept_whole(tmp_path, monkeypatch, model):
    """`load_smollm2` on a tiny model in the place of what is read from GGUF."""
    source = tmp_path / "wheel/SmolLM2.gguf"
    reads = []

    class Reader(transformers.AutoModelForCausalLM):
        @classmethod
        def from_pretrained(cls, folder, **options):
            if "gguf_file" not in options:
                return transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
            reads.append(Path(folder, options["gguf_file"]))
            read = tiny()
            read.config.quantization_config = {"quant_method": "gguf"}
            return read

    class Words:
        @classmethod
        def from_pretrained(cls, folder, **options):
            return cls()

        def save_pretrained(self, folder):
            Path(folder, "tokenizer.json").write_text("{}")

    monkeypatch.setattr(language_model, "package_path", lambda *_: source)
    monkeypatch.setattr(language_model, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs gguf and accelerate; run: pip install 'edgekern\[lm\]'"):
        language_model.load_smollm2(tmp_path / "cache")
    monkeypatch.setattr(language_model, "find_spec", lambda name: name)
    monkeypatch.setattr(language_model, "AutoModelForCausalLM", Reader)
    monkeypatch.setattr(language_model, "AutoTokenizer", Words)
    for _ in range(2):
        loaded = language_model.load_smollm2(tmp_path / "cache").model
        assert torch.equal(loaded(torch.arange(9)[None]).logits, model(torch.arange(9)[None]).logits)
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert reads == [source]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def machine():
    versions = {"torch": "2"}
    return {"versions": versions, "cpu": "a CPU", "isa": "avx2", "commit": "abc", "load": 0.5, "threads": 1}


def test_the_page_shows_what_pruning_costs():
    row = {
        "pattern": "2:4",
        "method": "wanda",
        "zeros": 0.5,
        "answer": "Because\nit is.",
        "float32": 30.126,
        "int8": 30.5,
    }
    about = {"machine": machine(), "text": [20, 1024], "calibration": [8, 512], "prompt": "Why?"}
    page = render_prune.perplexities({**about, "rows": [row]}, "A model")
    assert "| 2:4 | wanda | 50.0% | 30.13 | 30.50 |" in page
    assert "- 2:4, wanda: Because it is." in page


def test_the_page_shows_how_fast_it_writes():
    def part(rate, form):
        int8 = {"name": "int8", "tokens_per_second": 10.0, "bytes": 2_000_000, "forms": {"dense": 3}}
        other = {"name": "bitmap", "tokens_per_second": rate, "bytes": 1_000_000, "forms": {form: 3}}
        about = {"machine": machine(), "prompt": 64, "tokens": 32, "rounds": 9, "pruned_by": "sparsegpt"}
        return {**about, "rows": [int8, other]}

    page = render_prune.decoding({"1": part(15.0, "bitmap"), "2": part(8.0, "dense")}, "A model")
    assert "| 1 thread | 2 threads |" in page
    assert "| int8 | 2.0 | 10.0 (1.00x) | 10.0 (1.00x) | 3 dense |" in page
    assert "| bitmap | 1.0 | 15.0 (1.50x) | 8.0 (0.80x) | 3 bitmap; 3 dense |" in page

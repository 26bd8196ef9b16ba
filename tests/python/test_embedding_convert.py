"""Embedding tables in whole models: rules, ties, reports, files, and transformers."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from small_models import Block, LanguageModel, assert_untouched, snapshot  # noqa: E402
from torch import nn  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern import ConvertError, Float32, Int4, Int8, PerLayer  # noqa: E402
from edgekern.nn import Int4Embedding, Int8Embedding, Int8Linear  # noqa: E402

SCHEMES = {"int8": Int8(), "int4": Int4(group_size=32), "int4 symmetric": Int4(symmetric=True)}
IDS = torch.arange(12).view(2, 6)


def rows_of(report):
    return {row.name: row for row in report}


# ------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize("tied", [True, False])
def test_by_default_tables_are_left_alone(tied):
    model = LanguageModel(tied)
    report = rows_of(ek.convert_(model, Int8()))
    assert type(model.embed) is nn.Embedding
    row = report["embed"]
    assert (row.kind, row.shape, row.format, row.kernel) == ("Embedding", (40, 16), "dense", "")
    said = "its weight is also 'lm_head.weight'; " if tied else "an embedding table, "
    assert row.reason.startswith(said)
    assert "PerLayer({'embed': Int8(), '_default': Int8()})" in row.reason
    assert row.bytes_after == (0 if tied else 40 * 16 * 4)  # one tensor is counted once
    assert report["lm_head"].bytes_after == 40 * 16 * 4


@pytest.mark.parametrize("rule", ["embed", "lm_head", "re:embed|nothing", "re:.*head"])
@pytest.mark.parametrize("kind", SCHEMES)
def test_a_rule_for_either_converts_a_tied_pair_to_one_copy(rule, kind):
    model, scheme = LanguageModel(), SCHEMES[kind]
    weight = model.embed.weight.detach().clone()
    report = rows_of(ek.convert_(model, PerLayer({rule: scheme, "_default": Int8()})))
    assert model.embed.table is model.lm_head
    assert model.embed.tied
    head, table = report["lm_head"], report["embed"]
    assert (head.format, table.format, head.packing, table.packing) == (
        scheme.format,
        scheme.format,
        "dense",
        "that of 'lm_head'",
    )
    assert (table.bytes_before, table.bytes_after, table.reason) == (0, 0, "")
    assert (head.bytes_before, head.bytes_after) == (40 * 16 * 4, model.lm_head.packed_bytes)
    assert table.kernel.startswith(f"{scheme.format}_embedding_")
    assert ek.explain(model) == ek.Report(tuple(report.values()))
    assert torch.equal(model.embed(IDS), model.lm_head.weight[IDS])
    assert (model.lm_head.weight - weight).abs().max() < 0.3
    twice = LanguageModel(tied=False)  # the same weights, held twice
    twice.blocks = model.blocks
    with torch.no_grad():
        twice.embed.weight.copy_(weight)
        twice.lm_head.weight.copy_(weight)
    ek.convert_(twice, PerLayer({"embed": scheme, "lm_head": scheme}))
    assert twice.embed.table is not twice.lm_head
    assert torch.equal(model(IDS), twice(IDS))


def test_the_most_direct_rule_for_a_pair_counts():
    for rules in (
        {"lm_head": None, "_default": Int8()},
        {"embed": None, "_default": Int8()},
        {"lm_head": None, "re:emb.*": Int8(), "_default": Int8()},
    ):
        model = LanguageModel()
        report = rows_of(ek.convert_(model, PerLayer(rules)))
        assert type(model.embed) is nn.Embedding
        assert model.lm_head.weight is model.embed.weight
        assert report["embed"].reason == report["lm_head"].reason
        assert "is None" in report["embed"].reason
    model = LanguageModel()
    before = snapshot(model)
    with pytest.raises(ConvertError, match="'lm_head' and 'embed' are one shared weight, but the rules say"):
        ek.convert_(model, PerLayer({"embed": Int8(), "lm_head": Int4()}))
    assert_untouched(model, before)


def test_filter_fn_keeps_a_pair_together():
    model = LanguageModel()
    asked = []

    def keep(module, name):
        asked.append(name)
        return name != "lm_head"

    report = rows_of(ek.convert_(model, PerLayer({"embed": Int8(), "_default": Int8()}), keep))
    assert "lm_head" in asked
    assert "embed" not in asked
    assert report["embed"].reason == report["lm_head"].reason == "filter_fn declined it"


@pytest.mark.parametrize("kind", SCHEMES)
def test_an_untied_table(kind):
    model, scheme = LanguageModel(tied=False), SCHEMES[kind]
    report = rows_of(ek.convert_(model, PerLayer({"embed": scheme})))
    assert isinstance(model.embed, Int4Embedding if "int4" in kind else Int8Embedding)
    assert type(model.lm_head) is nn.Linear
    row = report["embed"]
    assert (row.bytes_before, row.bytes_after) == (40 * 16 * 4, model.embed.packed_bytes)
    assert torch.equal(model.embed(IDS), model.embed.weight[IDS])
    assert report["lm_head"].reason == "no rule speaks for it, and there is no '_default'"


def test_tables_of_one_weight_and_no_head():
    class Seq2Seq(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Embedding(40, 16)
            self.encoder, self.decoder = nn.Embedding(40, 16), nn.Embedding(40, 16)
            self.encoder.weight = self.decoder.weight = self.shared.weight
            self.block = Block(16)

        def forward(self, ids):
            return self.block(self.encoder(ids) + self.decoder(ids))

    model = Seq2Seq()
    report = rows_of(ek.convert_(model, PerLayer({"decoder": Int8(), "_default": Int8()})))
    assert model.encoder.table is model.decoder.table is model.shared.table
    assert [report[name].packing for name in ("shared", "encoder", "decoder")] == ["dense", *["that of 'shared'"] * 2]
    assert torch.equal(model(IDS), copy.deepcopy(model)(IDS))
    ek.dense_(model)
    assert model.encoder.weight is model.shared.weight is model.decoder.weight


def test_a_table_under_two_names_is_one():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = self.other = nn.Embedding(8, 8)

    model = Twice()
    report = ek.convert_(model, PerLayer({"other": Int8()}))
    assert model.one is model.other
    assert [row.reason for row in report] == ["", "the same module as 'one'"]


def test_tables_that_cannot_be_converted():
    class Scaled(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) * 4

    tables = {
        "max_norm": nn.Embedding(8, 8, max_norm=2.0),
        "sparse": nn.Embedding(8, 8, sparse=True),
        "scale_grad": nn.Embedding(8, 8, scale_grad_by_freq=True),
        "bag": nn.EmbeddingBag(8, 8),
        "scaled": Scaled(8, 8),
        "float64": nn.Embedding(8, 8, dtype=torch.float64),
    }
    model = nn.ModuleDict({**tables, "linear": nn.Linear(8, 8)})
    report = rows_of(ek.convert_(model, PerLayer({"re:.*": Int8()})))
    reasons = {
        "max_norm": "max_norm=2.0 rescales its rows whenever they are read",
        "sparse": "sparse=True is about gradients",
        "scale_grad": "scale_grad_by_freq=True is about gradients",
        "bag": "nn.EmbeddingBag adds up the rows that it reads",
        "scaled": "Scaled has a forward of its own",
        "float64": "its weight is torch.float64",
    }
    for name, reason in reasons.items():
        assert reason in report[name].reason
        assert model[name] is tables[name]
        with pytest.raises(ConvertError, match=f"'{name}' is named but cannot be converted: "):
            ek.convert_(nn.ModuleDict({name: tables[name]}), PerLayer({name: Int8()}))
    assert [row.kind for row in report.values()] == [*["Embedding"] * 3, "EmbeddingBag", *["Embedding"] * 2, "Linear"]


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (Float32(), r"Float32\(\) is for linear layers; embedding tables can be Int8\(\) or Int4\(\)"),
        (Int8(form="bitmap"), "rows of a table are read from the dense form alone, not 'bitmap'"),
    ],
)
def test_schemes_that_no_table_can_have(scheme, reason):
    with pytest.raises(ConvertError, match=f"'embed' is named but cannot be converted: {reason}"):
        ek.convert_(LanguageModel(tied=False), PerLayer({"embed": scheme}))


def test_a_head_whose_table_has_a_forward_of_its_own_is_converted_alone():
    class Scaled(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) * 4

    model = LanguageModel()
    model.embed.__class__ = Scaled
    report = rows_of(ek.convert_(model, PerLayer({"lm_head": Int8()})))
    assert isinstance(model.lm_head, Int8Linear)
    assert type(model.embed) is Scaled
    assert "has a forward of its own" in rows_of(ek.convert_(model, PerLayer({"_default": Int8()})))["embed"].reason
    assert report["embed"].format == "dense"


def test_a_weight_that_is_not_finite_leaves_all_as_it_was():
    model = LanguageModel()
    with torch.no_grad():
        model.embed.weight[3, 4] = float("nan")
    before = snapshot(model)
    with pytest.raises(ConvertError, match="the weight of 'embed' holds NaN"):
        ek.convert_(model, PerLayer({"lm_head": Int8(), "_default": Int8()}))
    assert_untouched(model, before)


# ------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("kind", SCHEMES)
def test_dense_ties_again(kind):
    model = LanguageModel()
    ek.convert_(model, PerLayer({"embed": SCHEMES[kind], "_default": Int8()}))
    weight = model.embed.weight
    report = ek.dense_(model)
    assert len(report) == 6
    assert report.bytes_after == sum(p.nbytes for p in model.parameters())
    assert model.embed.weight is model.lm_head.weight
    assert torch.equal(model.embed.weight, weight)
    again = rows_of(ek.convert_(model, PerLayer({"embed": SCHEMES[kind], "_default": Int8()})))
    assert again["embed"].packing == "that of 'lm_head'"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_model_keep_the_tie(copied):
    model = LanguageModel()
    ek.convert_(model, PerLayer({"embed": Int8(), "_default": Int8()}))
    twin = copied(model)
    assert twin.embed.table is twin.lm_head
    assert twin.lm_head is not model.lm_head
    assert torch.equal(twin(IDS), model(IDS))


def test_a_state_dict_holds_a_pair_once():
    model, other = LanguageModel(), LanguageModel()
    config = PerLayer({"embed": Int4(group_size=32), "_default": Int8()})
    for each in (model, other):
        ek.convert_(each, config)
    state = model.state_dict()
    names = {name for name in state if name.startswith(("embed", "lm_head"))}
    assert names == {"lm_head.weight", "lm_head.weight_scale", "lm_head.weight_zero"}
    assert not torch.equal(other(IDS), model(IDS))
    other.load_state_dict(state)
    assert torch.equal(other(IDS), model(IDS))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", SCHEMES)
@pytest.mark.parametrize("meta", [True, False])
def test_saved_and_loaded(tmp_path, tied, kind, meta):
    model = LanguageModel(tied)
    model.embed.padding_idx = 5
    ek.convert_(model, PerLayer({"embed": SCHEMES[kind], "_default": Int8()}))
    ek.save(model, tmp_path)
    stored = {name for name in load_file(tmp_path / "model.safetensors") if name.startswith(("embed", "lm_head"))}
    assert ("lm_head.weight_scale" in stored) == tied
    assert ("embed.weight_scale" in stored) != tied
    manifest = json.loads((tmp_path / "edgekern.json").read_text())
    assert manifest["format_version"] == 4
    assert [table["tied_to"] for table in manifest["tables"]] == ["lm_head" if tied else None]
    with torch.device("meta" if meta else "cpu"):
        fresh = LanguageModel(tied)
    fresh.embed.padding_idx = 5
    ek.load(fresh, tmp_path)
    assert torch.equal(fresh(IDS), model(IDS))
    assert (fresh.embed.table is fresh.lm_head) == tied
    assert fresh.embed.padding_idx == 5
    assert ek.explain(fresh).bytes_after == ek.explain(model).bytes_after


def test_a_table_with_many_zeros_is_saved_without_them(tmp_path):
    model = LanguageModel(tied=False)
    with torch.no_grad():
        model.embed.weight *= torch.rand(model.embed.weight.shape) < 0.1
    for kind, scheme in SCHEMES.items():
        twin = copy.deepcopy(model)
        ek.convert_(twin, PerLayer({"embed": scheme}))
        ek.save(twin, tmp_path / kind)
        assert torch.equal(ek.load(LanguageModel(tied=False), tmp_path / kind)(IDS), twin(IDS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(tied_to="nothing"), "layer 'embed' is tied to 'nothing', which is none"),
        (lambda t: t.update(embedding_dim=17), "layer 'embed': Int8Embedding: tied_to must have a weight of"),
        (lambda t: t.update(scheme={"format": "f32"}), "layer 'embed': a table cannot be of scheme Float32"),
        (lambda t: t.update(dtype="int8"), "layer 'embed': a table cannot be of dtype 'int8'"),
        (lambda t: t.update(names=["head"]), "the model has no layer 'head', which the checkpoint converts"),
        (lambda t: t.update(names=["lm_head"]), "the model has no layer 'lm_head', which the checkpoint converts"),
        (lambda t: t.pop("tied_to"), "a layer must have exactly"),
    ],
)
def test_what_a_file_may_not_say_of_a_table(tmp_path, change, message):
    model = LanguageModel()
    ek.convert_(model, PerLayer({"embed": Int8(), "_default": Int8()}))
    ek.save(model, tmp_path)
    file = tmp_path / "edgekern.json"
    manifest = json.loads(file.read_text())
    change(manifest["tables"][0])
    file.write_text(json.dumps(manifest))
    fresh = LanguageModel()
    before = snapshot(fresh)
    with pytest.raises(ek.CheckpointError, match=message):
        ek.load(fresh, tmp_path)
    assert_untouched(fresh, before)


# ------------------------------------------------------------------------------------------------- transformers

transformers = pytest.importorskip("transformers")

from tiny_llama import folder_of, logits, tiny  # noqa: E402

from edgekern.integrations.transformers import EdgekernConfig, adopt_  # noqa: E402

EMBED = "model.embed_tokens"


def loaded(folder, config=None):
    given = {} if config is None else {"quantization_config": EdgekernConfig(config)}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **given)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scheme", [Int8(), Int4(group_size=32)], ids=["int8", "int4"])
@pytest.mark.parametrize("rule", [EMBED, "lm_head"])
def test_from_pretrained_and_back(tmp_path, tied, scheme, rule):
    folder = folder_of(tiny(tied=tied), tmp_path / "float")
    config = PerLayer({rule: scheme, "_default": Int8()})
    expected = loaded(folder)
    report = ek.convert_(expected, config)
    ek.fuse_blocks_(expected)
    model = loaded(folder, config)
    assert torch.equal(logits(model), logits(expected))
    assert ek.explain(model) == report
    converted = {row.name for row in report.converted if row.name in (EMBED, "lm_head")}
    assert converted == ({EMBED, "lm_head"} if tied else {rule})
    model.save_pretrained(tmp_path / "out")
    again = loaded(tmp_path / "out")
    assert torch.equal(logits(again), logits(expected))
    if tied:
        assert again.model.embed_tokens.table is again.lm_head
        assert "model.embed_tokens.weight" not in load_file(tmp_path / "out/model.safetensors")
    again.save_pretrained(tmp_path / "twice")
    assert (tmp_path / "twice/config.json").read_text() == (tmp_path / "out/config.json").read_text()
    back = again.dequantize()
    assert (back.model.embed_tokens.weight is back.lm_head.weight) == tied


def test_adopted_models_keep_the_tie(tmp_path):
    model = tiny()
    config = PerLayer({"lm_head": Int8(), "_default": Int8()})
    ek.convert_(model, config)
    adopt_(model, config)
    model.save_pretrained(tmp_path)
    again = loaded(tmp_path)
    assert again.model.embed_tokens.table is again.lm_head
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("way", ["converted", "adopted", "read", "loaded"])
def test_transformers_ties_a_converted_head_no_more(tmp_path, way):
    config = PerLayer({"lm_head": Int8(), "_default": Int8()})
    model = tiny()
    if way in ("converted", "adopted"):
        ek.convert_(model, config)
    if way == "adopted":
        adopt_(model, config)
    if way in ("read", "loaded"):
        model = loaded(folder_of(model, tmp_path / "float"), config)
    if way == "loaded":
        model.save_pretrained(tmp_path / "out")
        model = loaded(tmp_path / "out")
    expected = logits(model)
    model.tie_weights()
    assert model.model.embed_tokens.table is model.lm_head
    assert torch.equal(logits(model), expected)
    ek.dense_(model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_ties_of_float_layers_stay():
    model = tiny()
    ek.convert_(model, Int8())  # leaves the head alone
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tied_to": "model.layers.0.mlp.up_proj"}, "cannot be tied to 'model.layers.0.mlp.up_proj'"),
        ({"tied_to": "model.norm"}, "tied to 'model.norm', which is none of the layers"),
        ({"tied_to": 3}, "tied_to must be the name of a layer, got 3"),
        ({"tied_to": None, "scheme": {"format": "f32"}}, "is an embedding table, and there are none in"),
        ({"names": ["model.norm"]}, "the model has no layer 'model.norm'"),
    ],
)
def test_what_config_json_may_not_say_of_a_table(tmp_path, change, message):
    folder = folder_of(tiny(), tmp_path / "float")
    loaded(folder, PerLayer({"lm_head": Int8(), "_default": Int8()})).save_pretrained(tmp_path / "out")
    file = tmp_path / "out/config.json"
    config = json.loads(file.read_text())
    entry = next(entry for entry in config["quantization_config"]["layers"] if EMBED in entry["names"])
    entry.update(change)
    file.write_text(json.dumps(config))
    with pytest.raises(ek.CheckpointError, match=message):
        loaded(tmp_path / "out")

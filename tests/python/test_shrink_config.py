"""What shrink_ makes of the config of a Hugging Face model: one that builds what is left, or none."""

import copy

import pytest
import torch

import edgekern as ek

transformers = pytest.importorskip("transformers")
from tiny_llama import tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 64}
NARROW = ek.Shrink(0.5, through_norms=True)


def tokens():
    return {"input_ids": torch.arange(24).view(2, 12)}


def images():
    return {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


def llama(kind="Llama", **options):
    return tiny(kind=kind, **{**SIZES, "num_key_value_heads": 3, **options})


def built(kind, **options):
    """A model by the name of its class."""
    torch.manual_seed(0)
    config = getattr(
        transformers, f"{kind.partition('For')[0].removesuffix('LMHeadModel').removesuffix('Model')}Config"
    )
    return getattr(transformers, kind)(config(**{**SIZES, **options})).eval()


def gpt2():
    sizes = {"n_embd": 48, "n_layer": 2, "n_head": 6, "n_positions": 16, "n_inner": 64}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=96, bos_token_id=None, eos_token_id=None, **sizes)
    ).eval()


def opt():
    sizes = {"ffn_dim": 64, "word_embed_proj_dim": 48, "max_position_embeddings": 32}
    return built("OPTForCausalLM", vocab_size=96, **sizes)


def masked():
    return built("BertForMaskedLM", vocab_size=96)


def vision():
    return built("ViTForImageClassification", image_size=16, patch_size=4)


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def given(model, batch):
    with torch.inference_mode():
        return model(**batch).logits


HEADS = {"num_attention_heads": 3}
HALF = {"hidden_size": 24, "intermediate_size": 32}
GROUPED = {**HALF, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
CASES = {
    "Llama": (llama, tokens, GROUPED),
    "Qwen2, which derives the width of heads": (lambda: llama("Qwen2"), tokens, GROUPED),
    "Qwen3, of wide heads": (lambda: llama("Qwen3", head_dim=16), tokens, {**GROUPED, "head_dim": 16}),
    "GPT-2, of other names": (gpt2, tokens, {"n_embd": 24, "n_inner": 32, "n_head": 3}),
    "OPT": (opt, tokens, {"hidden_size": 24, "word_embed_proj_dim": 24, "ffn_dim": 32, **HEADS}),
    "BERT with a head": (masked, tokens, {**HALF, **HEADS}),
    "ViT": (vision, images, {**HALF, **HEADS}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_config_of_the_new_sizes(case, tmp_path):
    build, batch, wanted = CASES[case]
    teacher, batch = build(), batch()
    before = copy.deepcopy(teacher.config.to_dict())
    student = ek.student_from(teacher, layers=1, width=0.5, example_inputs=batch)
    found = student.config.to_dict()
    assert {name: found[name] for name in wanted} == wanted
    assert teacher.config.to_dict() == before
    assert all(module.config is student.config for module in student.modules() if hasattr(module, "config"))
    with torch.device("meta"):
        assert shapes(type(student)(student.config)) == shapes(student)
    student.save_pretrained(tmp_path)
    read = type(student).from_pretrained(tmp_path)
    assert torch.equal(given(read, batch), given(student, batch))
    fresh = ek.student_from(build(), layers=1)
    ek.shrink_like_(fresh, student.state_dict(), batch)
    assert fresh.config.to_dict() == found


def encoder():
    return built("BertModel", vocab_size=96)


def gemma():
    return llama("Gemma", head_dim=8)


@pytest.mark.parametrize(
    ("build", "scheme"),
    [
        (llama, ek.PerLayer({"model.layers.0.mlp.up_proj": ek.Shrink(0.5)})),
        (encoder, NARROW),  # returns its whole width, by which its config tells how wide a head is
        (gemma, NARROW),  # multiplies by a number that it makes of its width
        (lambda: llama(num_key_value_heads=6), ek.PerLayer({"re:.*q_proj": ek.Shrink(0.2)})),  # 48 / 5
    ],
    ids=["blocks that differ", "BERT without a head", "Gemma", "heads that do not divide the width"],
)
def test_no_config_that_describes_it(build, scheme):
    model = build()
    config, before = model.config, copy.deepcopy(model.config.to_dict())
    report = ek.shrink_(model, scheme, tokens())
    assert report.shrunk
    assert model.config is config
    assert config.to_dict() == before
    said = f"its {type(config).__name__} stays as it was: no sizes in it describe this model"
    assert report.config == report.to_dict()["config"] == said
    assert said in str(report)
    model(**tokens())


def test_a_config_that_other_models_share_stays_theirs():
    one = llama()
    other = type(one)(one.config)
    report = ek.shrink_(one, NARROW, tokens())
    assert (one.config.hidden_size, other.config.hidden_size) == (24, 48)
    assert "its LlamaConfig: hidden_size 48 -> 24, intermediate_size 64 -> 32" in str(report)


def test_random_numbers_are_left_alone():
    model = llama()
    torch.manual_seed(1)
    ek.shrink_(model, NARROW, tokens())
    found = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(found, torch.rand(1))

"""Students of real architectures: made from their teachers, and taught by them."""

import copy

import pytest
import torch
from torch import nn

from edgekern import FitConfig, fit, student_from
from edgekern.distill import (
    Attention,
    CachedLogits,
    Distiller,
    DistillError,
    Hidden,
    block_stacks,
    cache_logits,
    map_layers,
)

transformers = pytest.importorskip("transformers")
from tiny_llama import tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def bert(layers=6, width=32, heads=4):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
    )
    model = transformers.BertModel(config).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # blocks of such small weights do next to nothing
    return model


def tokens(length=7, words=50, seed=0):
    torch.manual_seed(seed)
    mask = torch.ones(3, length, dtype=torch.long)
    mask[1, 4:] = 0
    return {"input_ids": torch.randint(1, words, (3, length)), "attention_mask": mask}


def learns(student, distiller, batch, steps=40):
    before = distiller(student, batch)["loss"].item()
    config = FitConfig(steps=steps, optimizer={"name": "adam", "lr": 3e-3}, train_mode=False)
    fit(student, [batch], distiller, config, progress=False)
    return distiller(student, batch)["loss"].item() / before


def test_an_encoder_of_half_the_blocks():
    teacher, batch = bert(), tokens()
    student = student_from(teacher, layers=3, example_inputs=batch)
    assert student.config.num_hidden_layers == 3
    assert teacher.config.num_hidden_layers == len(teacher.encoder.layer) == 6
    for mine, theirs in enumerate((0, 2, 5)):
        for name, tensor in student.encoder.layer[mine].state_dict().items():
            assert torch.equal(tensor, teacher.encoder.layer[theirs].state_dict()[name])
    layers = map_layers(student, teacher)
    assert layers == {f"encoder.layer.{i}": f"encoder.layer.{2 * i + 1}" for i in range(3)}
    distiller = Distiller(
        student,
        teacher,
        soft=0,
        hidden=Hidden(layers),
        attention=Attention({0: 1, 1: 3, 2: 5}, weight=0.5),
        example_inputs=batch,
    )
    assert {"loss", "hidden", "attention"} == distiller(student, batch).keys()
    assert learns(student, distiller, batch) < 0.5


def test_padding_teaches_nothing():
    teacher, batch = bert(), tokens()
    student = student_from(teacher, layers=[0, 5])
    distiller = Distiller(student, teacher, soft=0, hidden=Hidden(map_layers(student, teacher)), example_inputs=batch)
    other = copy.deepcopy(batch)
    other["input_ids"][1, 4:] = 9
    assert distiller(student, batch)["loss"].item() == pytest.approx(distiller(student, other)["loss"].item(), rel=1e-5)


def test_a_narrower_encoder_learns_through_projections():
    teacher, student, batch = bert(), bert(layers=3, width=16, heads=2), tokens()
    distiller = Distiller(
        student,
        teacher,
        soft=0,
        hidden=Hidden(map_layers(student, teacher)),
        attention=Attention({2: 5}),
        example_inputs=batch,
    )
    assert len(distiller.projections) == 3
    assert learns(student, distiller, batch) < 0.8


@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_a_language_model_of_fewer_blocks(kind, tmp_path):
    teacher, batch = tiny(kind=kind, num_hidden_layers=4), tokens(words=90)
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    student = student_from(teacher, layers=2)
    assert student.config.num_hidden_layers == 2
    assert [block.self_attn.layer_idx for block in student.model.layers] == [0, 1]
    assert student.generate(torch.arange(1, 5)[None], max_new_tokens=4, do_sample=False).shape == (1, 8)
    distiller = Distiller(student, teacher, hard=0.5, causal=True)
    parts = distiller(student, dict(batch))
    assert parts["hard"].item() == pytest.approx(student(**batch).loss.item(), rel=1e-4)
    rows = batch["labels"][:, 1:] != -100
    with torch.no_grad():
        mine, theirs = (torch.log_softmax(model(**batch).logits[:, :-1][rows] / 2, -1) for model in (student, teacher))
    soft = 4 * (theirs.exp() * (theirs - mine)).sum(-1).mean()
    assert parts["soft"].item() == pytest.approx(soft.item(), rel=1e-4)
    assert learns(student, distiller, batch) < 0.9
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    cache_logits(teacher, [inputs], tmp_path, 96, progress=False)
    by_cache = Distiller(student, CachedLogits(tmp_path), causal=True)(student, {**batch, "index": torch.arange(3)})
    expected = Distiller(student, teacher, causal=True)(student, batch)
    assert by_cache["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-2)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        block = lambda: nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU())  # noqa: E731
        self.first, self.blocks, self.last = (
            nn.Linear(8, 16),
            nn.Sequential(*(block() for _ in range(5))),
            nn.Linear(16, 3),
        )

    def forward(self, x):
        return self.last(self.blocks(self.first(x)))


def test_plain_stacks_and_widths():
    teacher, x = Plain().eval(), torch.randn(4, 8)
    assert [*block_stacks(teacher)] == ["blocks"]
    student = student_from(teacher, layers=2, width=0.5, example_inputs=x)
    assert len(student.blocks) == 2
    assert len(teacher.blocks) == 5
    assert student.blocks[0][0].weight.shape == (8, 8)
    assert student(x).shape == teacher(x).shape
    assert torch.equal(student_from(teacher, layers=[4])(x), teacher.last(teacher.blocks[4](teacher.first(x))))


def test_several_stacks_are_named():
    config = transformers.BartConfig(
        vocab_size=50,
        d_model=16,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    )
    teacher = transformers.BartModel(config).eval()
    with pytest.raises(DistillError, match=r"there are several stacks: 'encoder.layers' of 4, 'decoder.layers' of 4"):
        student_from(teacher, layers=2)
    student = student_from(teacher, layers={"decoder.layers": 2}, example_inputs=tokens())
    assert (student.config.encoder_layers, student.config.decoder_layers) == (4, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected one of them"),
        ({"layers": 6}, "has 5 blocks; expected 1 to 5 to keep, got 6"),
        ({"layers": [2, 1]}, "expected rising numbers of the 5 blocks"),
        ({"layers": [5]}, "expected rising numbers"),
        ({"layers": {"block": 2}}, "there is no stack 'block'; there is 'blocks' of 5"),
        ({"width": 0.5}, "narrowing follows channels"),
        ({"width": 1.5}, "above 0 and below 1; got 1.5"),
    ],
)
def test_students_that_cannot_be_made(options, message):
    with pytest.raises(DistillError, match=message):
        student_from(Plain(), **options)


def test_models_without_stacks():
    with pytest.raises(
        DistillError, match=r"Sequential has no nn.ModuleList or nn.Sequential of blocks that are alike"
    ):
        student_from(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)), layers=1)
    with pytest.raises(TypeError, match="expected a number of blocks, or their numbers; got 'two'"):
        student_from(Plain(), layers="two")


def test_a_student_of_no_logits_says_so():
    with pytest.raises(DistillError, match=r"has no logits; for an encoder without a head"):
        Distiller(bert(2), bert(2))(bert(2), tokens())

"""Tokens a second of language models."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5")

from tiny_llama import tiny  # noqa: E402

from edgekern.bench import token_rates  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


class Watched(torch.nn.Module):
    """Notes the calls of a model: its name, how many tokens came in, how many are given logits."""

    def __init__(self, name, calls):
        super().__init__()
        self.name, self.calls, self.model = name, calls, tiny()

    def forward(self, input_ids, past_key_values=None, use_cache=None, logits_to_keep=0):
        output = self.model(
            input_ids, past_key_values=past_key_values, use_cache=use_cache, logits_to_keep=logits_to_keep
        )
        self.calls.append((self.name, input_ids.shape[1], output.logits.shape[1]))
        return output


def test_models_take_turns_and_prompts_get_one_row_of_logits():
    calls = []
    models = {name: Watched(name, calls) for name in "ab"}
    rates = token_rates(models, 96, prompts=(7, 0), writes=(3, 0), repeats=2)
    reading = [(name, 7, 1) for name in "abbaab"]
    writing = [(name, 1, 1) for name in "baabba" for _ in range(2 + 3)]  # two tokens before those that are timed
    assert calls == reading + writing
    assert rates.keys() == {"pp7", "tg3"}
    assert all(len(rates[test][name]) == 2 and min(rates[test][name]) > 0 for test in rates for name in "ab")


@pytest.mark.parametrize(
    "change",
    [
        {"models": {}},
        {"prompts": (), "writes": ()},
        {"prompts": (0,), "writes": (0,)},
        {"writes": (-1,)},
        {"repeats": 0},
    ],
)
def test_bad_arguments(change):
    arguments = {"models": {"a": torch.nn.Identity()}, "vocabulary": 9, "prompts": (4,), "writes": (4,), "repeats": 1}
    with pytest.raises(ValueError, match="expected models, lengths"):
        token_rates(**{**arguments, **change})

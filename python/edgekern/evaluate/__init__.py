"""Real models and labelled data to judge a conversion by. Needs the [demo] extra and the two data packages."""

from .encoder import Encoder, load_minilm
from .packages import MissingDataError
from .similarity import SimilarityTask, load_lee50, load_simlex999, load_wordsim353

__all__ = [
    "Encoder",
    "MissingDataError",
    "SimilarityTask",
    "load_lee50",
    "load_minilm",
    "load_simlex999",
    "load_wordsim353",
]

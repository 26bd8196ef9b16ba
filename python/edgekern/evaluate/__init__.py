"""Real models and labelled data to judge a conversion by. Needs the [demo] extra and the data packages."""

from .encoder import Encoder, load_minilm
from .packages import MissingDataError
from .sentiment import ProbeTask, film_sentences, load_sentiment
from .similarity import SimilarityTask, load_lee50, load_simlex999, load_wordsim353, news_texts

__all__ = [
    "Encoder",
    "MissingDataError",
    "ProbeTask",
    "SimilarityTask",
    "film_sentences",
    "load_lee50",
    "load_minilm",
    "load_sentiment",
    "load_simlex999",
    "load_wordsim353",
    "news_texts",
]

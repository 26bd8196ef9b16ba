"""Real models and labelled data to judge a conversion by. Needs the [demo] extra and the data packages."""

from .encoder import Encoder, load_minilm
from .language_model import LanguageModel, load_smollm2
from .packages import MissingDataError
from .perplexity import perplexity, windows
from .prose import wikipedia_prose
from .sentiment import ProbeTask, film_sentences, load_sentiment
from .similarity import SimilarityTask, load_lee50, load_simlex999, load_wordsim353, news_texts

__all__ = [
    "Encoder",
    "LanguageModel",
    "MissingDataError",
    "ProbeTask",
    "SimilarityTask",
    "film_sentences",
    "load_lee50",
    "load_minilm",
    "load_sentiment",
    "load_simlex999",
    "load_smollm2",
    "load_wordsim353",
    "news_texts",
    "perplexity",
    "wikipedia_prose",
    "windows",
]

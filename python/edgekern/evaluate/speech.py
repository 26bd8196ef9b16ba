"""Speech to judge a recogniser by, and how to: read aloud by people, or by espeak-ng from any text."""

from __future__ import annotations

import io
import math
import re
import shutil
import subprocess
import wave
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from .packages import MissingDataError
from .whisper import RATE, SpeechModel

_RECORDINGS = Path("/usr/share/pocketsphinx/test/data/librivox")


@dataclass(frozen=True)
class Clip:
    """Someone saying something.

    Attributes:
        samples: float32 in -1..1, 16,000 a second.
        text: what is said.
    """

    samples: NDArray[np.float32]
    text: str


def load_librivox() -> list[Clip]:
    """Five sentences of a novel, read aloud by a volunteer: 25 seconds, 72 words.

    Raises:
        MissingDataError: Debian's package of them is not installed.
    """
    if not _RECORDINGS.exists():
        raise MissingDataError(f"there is no {_RECORDINGS}; apt-get install pocketsphinx-testdata brings it")
    said = re.findall(r"<s> (.*) </s> \((.*)\)", (_RECORDINGS / "transcription").read_text())
    return [Clip(_samples((_RECORDINGS / f"{name}.wav").read_bytes()), text) for text, name in said]


def read_aloud(texts: Iterable[str]) -> list[Clip]:
    """Each text as espeak-ng says it, in American English.

    Raises:
        MissingDataError: there is no espeak-ng.
    """
    if shutil.which("espeak-ng") is None:
        raise MissingDataError("there is no espeak-ng; apt-get install espeak-ng brings it")
    command = ["espeak-ng", "-v", "en-us", "--stdin", "--stdout"]
    return [Clip(_samples(subprocess.run(command, input=t.encode(), capture_output=True, check=True).stdout), t)
            for t in texts]  # fmt: skip


def sentences(text: str, words: tuple[int, int] = (8, 20)) -> list[str]:
    """Sentences of so many words out of prose: of plain words alone, so that there is one way to say them."""
    found = re.split(r"(?<=[a-z]{3}[.])\s+", text)
    plain = re.compile(r"[A-Z][a-z]+( [a-z]+,?)+\.")
    return [s for s in found if plain.fullmatch(s) and words[0] <= len(s.split()) <= words[1]]


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    """Words to put in, take out or replace, as a share of those said; case and punctuation are no matter.

    Raises:
        ValueError: not as many texts heard as said, or no word said.
    """
    if len(said) != len(heard):
        raise ValueError(f"heard: expected as many texts as were said, {len(said)}, got {len(heard)}")
    pairs = [(_words(one), _words(other)) for one, other in zip(said, heard, strict=True)]
    count = sum(len(words) for words, _ in pairs)
    if not count:
        raise ValueError("said: expected at least one word")
    return sum(_distance(*pair) for pair in pairs) / count


def transcript_perplexity(model: SpeechModel, clips: Iterable[Clip]) -> float:
    """e to the mean negative log-likelihood of each token of what is said, given the sound and the tokens before it."""
    losses = [model.loss(clip.samples, clip.text) for clip in clips]
    return math.exp(sum(loss for loss, _ in losses) / sum(count for _, count in losses))


def heard_error_rate(transcribe: Callable[[NDArray[np.float32]], str], clips: Sequence[Clip]) -> float:
    """The word error rate of what ``transcribe`` makes of clips."""
    return word_error_rate([clip.text for clip in clips], [transcribe(clip.samples) for clip in clips])


def _samples(data: bytes) -> NDArray[np.float32]:
    """Of a mono WAV file in 16 bits, at the rate that models are given."""
    with wave.open(io.BytesIO(data)) as file:
        rate, raw = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), np.int16)
    samples = raw.astype(np.float64) / 32768
    if rate != RATE:
        common = math.gcd(rate, RATE)
        samples = signal.resample_poly(samples, RATE // common, rate // common)
    return samples.astype(np.float32)


def _words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9' ]", " ", text.lower()).split()


def _distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Levenshtein's."""
    row = list(range(len(other) + 1))
    for i, word in enumerate(one, 1):
        above, row = row, [i]
        for j, heard in enumerate(other, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != heard)))
    return row[-1]

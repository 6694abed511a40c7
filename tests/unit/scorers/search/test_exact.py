"""The neighbours in a flat index are the true ones, also where float32 cannot tell vectors apart."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from metrad.scorers import KNN, LOF
from metrad.scorers.search import exact, screening
from metrad.scorers.search.distances import prepared
from metrad.scorers.search.indexes import IndexSettings, build, search

METRICS = ["cosine", "l2"]
SKLEARN = {"cosine": "cosine", "l2": "euclidean"}


def embeddings(offset, normal=1000, queries=500, width=512):
    """Return embeddings of unit spread in eight directions, at a place ``offset`` away from the origin in each."""
    generator = np.random.default_rng(0)
    axes = generator.normal(size=(8, width)) / 8**0.5
    drawn = generator.normal(size=(normal + queries, 8)) @ axes + offset * generator.uniform(0.5, 1.5, size=width)
    return np.split(drawn.astype(np.float32), [normal])


def screened(monkeypatch, wanted):
    """Screen every index, or none."""
    names = {"_LEAST_WIDTH": 8, "_LEAST_SIZE": 1, "_LEAST_QUERIES": 1, "_OUTSIDE": 2.0}
    for name, value in names.items():
        monkeypatch.setattr(screening, name, value if wanted else 10**9)


@pytest.mark.parametrize("screen", [False, True])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [10, 100, 1000])
@pytest.mark.parametrize("k", [1, 5])
def test_far_from_the_origin_knn_equals_scikit_learn(k, offset, metric, screen, monkeypatch):
    screened(monkeypatch, screen)
    normal, queries = embeddings(offset)
    finder = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=SKLEARN[metric]).fit(normal.astype(np.float64))
    expected = finder.kneighbors(queries.astype(np.float64))[0].mean(axis=1)
    scorer = KNN(k=k, metric=metric).fit(normal)
    # Directions are kept in float32.
    np.testing.assert_allclose(scorer.score(queries), expected, rtol=1e-6 if metric == "l2" else 1e-4, atol=1e-9)
    assert hasattr(scorer, "screen_") == screen


@pytest.mark.parametrize("offset", [10, 100, 1000])
def test_far_from_the_origin_lof_equals_scikit_learn(offset):
    normal, queries = embeddings(offset)
    twin = LocalOutlierFactor(n_neighbors=20, novelty=True, algorithm="brute").fit(normal.astype(np.float64))
    scores = LOF(metric="l2").fit(normal).score(queries)
    np.testing.assert_allclose(scores, -twin.score_samples(queries.astype(np.float64)), rtol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("block", [1, 2**16])
def test_the_size_of_blocks_and_batches_changes_nothing(offset, metric, block, monkeypatch):
    normal, queries = embeddings(offset, normal=60, queries=30)
    index, queries = build(IndexSettings(), normal, metric), prepared(queries, metric)
    apart, positions = search(index, queries, 3, metric)
    monkeypatch.setattr(exact, "_BLOCK", block)
    each = [search(index, queries[i : i + 1], 3, metric) for i in range(len(queries))]
    for batch in [search(index, queries, 3, metric), [np.concatenate(found) for found in zip(*each, strict=True)]]:
        np.testing.assert_array_equal(batch[0], apart)
        np.testing.assert_array_equal(batch[1], positions)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [1, 3, 8, 9, 40])
def test_any_number_of_neighbours_of_copies_and_near_copies_is_found(size, metric):
    normal, queries = embeddings(1000, normal=size, queries=20)
    normal = np.concatenate([normal, normal[:1], normal[:1]])
    queries = np.concatenate([queries, normal])
    # scikit-learn's distances of copies are differences of squares; these are not.
    apart = cdist(queries.astype(np.float64), normal.astype(np.float64), SKLEARN[metric])
    for k in range(1, len(normal) + 1, 3):
        scores = KNN(k=k, metric=metric).fit(normal).score(queries)
        expected = np.sort(apart, axis=1)[:, :k].mean(axis=1)
        np.testing.assert_allclose(scores, expected, rtol=1e-6 if metric == "l2" else 1e-4, atol=1e-9)


def brute_forced(monkeypatch, normal, queries, metric):
    """Return how many of the queries are compared with all vectors in float64."""
    counts = []
    full = exact._by_brute_force

    def counted(index, vectors, k):
        counts.append(len(vectors))
        return full(index, vectors, k)

    monkeypatch.setattr(exact, "_by_brute_force", counted)
    KNN(metric=metric).fit(normal).score(queries)
    return sum(counts)


@pytest.mark.parametrize("metric", METRICS)
def test_only_what_float32_cannot_settle_is_compared_in_float64(metric, monkeypatch):
    assert brute_forced(monkeypatch, *embeddings(0), metric) == 0
    assert brute_forced(monkeypatch, *embeddings(2), metric) == 0
    assert brute_forced(monkeypatch, *embeddings(1000), metric) > 100


def test_what_is_missing_is_infinitely_far():
    normal, queries = embeddings(0, normal=5, queries=2)
    index = build(IndexSettings(), normal, "l2")
    apart = exact.measured(index, queries, np.array([[0, -1], [4, 2]]), "l2")
    np.testing.assert_array_equal(np.isinf(apart), [[False, True], [False, False]])

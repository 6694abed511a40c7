"""Screening finds what a full search finds, whatever the embeddings."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from metrad.scorers import KNN, LOF
from metrad.scorers.search import screening
from metrad.scorers.search.distances import prepared
from metrad.scorers.search.indexes import IndexSettings, build, search

METRICS = ["cosine", "l2"]
WIDTH = 64


def random(generator, size):
    return generator.normal(size=(size, WIDTH))


def narrow(generator, size):
    """Return embeddings in a narrow cone that differ in few directions, as those of a network do."""
    axes = np.random.default_rng(7).normal(size=(5, WIDTH))
    return 3 + generator.normal(size=(size, 5)) @ axes + 0.1 * generator.normal(size=(size, WIDTH))


def clustered(generator, size):
    centres = np.random.default_rng(8).normal(size=(6, WIDTH))
    return 10 * centres[generator.integers(6, size=size)] + 0.01 * generator.normal(size=(size, WIDTH))


def duplicated(generator, size):
    return narrow(np.random.default_rng(9), 12)[generator.integers(12, size=size)]


def tied(generator, size):
    return np.eye(WIDTH)[generator.integers(WIDTH, size=size)]


def with_zeros(generator, size):
    return narrow(generator, size) * (generator.random((size, 1)) > 0.2)


def uneven(generator, size):
    return narrow(generator, size) * 10.0 ** generator.integers(-6, 7, size=(size, 1))


def constant(generator, size):
    return np.full((size, WIDTH), 2.0)


KINDS = [random, narrow, clustered, duplicated, tied, with_zeros, uneven, constant]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Screen indexes of the size of a test, and such as a screen is of no use to."""
    for name, value in {"_LEAST_WIDTH": 8, "_LEAST_SIZE": 100, "_LEAST_QUERIES": 1, "_OUTSIDE": 2.0}.items():
        monkeypatch.setattr(screening, name, value)


def embeddings(kind, seed, size=300, queries=40):
    generator = np.random.default_rng(seed)
    normal, fresh = (kind(generator, count).astype(np.float32) for count in (size, queries))
    return normal, np.concatenate([fresh, normal[:10]])


def brute_force(normal, queries, k, metric):
    """Return scikit-learn's distances (N, k) in float64; a zero vector is at cosine distance 1."""
    finder = NearestNeighbors(n_neighbors=k, algorithm="brute", metric={"l2": "euclidean"}.get(metric, metric))
    return finder.fit(normal.astype(np.float64)).kneighbors(queries.astype(np.float64))[0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.sampled_from([1, 3, 20]))
def test_scores_are_those_of_scikit_learn(kind, metric, seed, k):
    normal, queries = embeddings(kind, seed)
    scorer = KNN(k=k, metric=metric).fit(normal)
    scores = scorer.score(queries)
    expected = brute_force(normal, queries, k, metric).mean(axis=1)
    scale = 1 if metric == "cosine" else np.linalg.norm(queries, axis=1) + 1
    # scikit-learn's Euclidean distances of near copies are roots of differences of squares.
    np.testing.assert_array_less(np.abs(scores - expected) / scale, 1e-6)
    if kind is not constant:
        assert scorer.screen_ is not None


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [narrow, random])
def test_neighbours_are_those_of_the_full_search(kind, metric):
    normal, queries = embeddings(kind, 0, size=2000, queries=500)
    index, queries = build(IndexSettings(), normal, metric), prepared(queries, metric)
    screen = screening.screen(index)
    for k in (1, 7):
        apart, found = search(index, queries, k, metric, screen)
        expected, full = search(index, queries, k, metric)
        np.testing.assert_array_equal(found, full)
        np.testing.assert_array_equal(apart, expected)


@pytest.mark.parametrize("metric", METRICS)
def test_bounds_are_never_farther_than_the_vectors(metric):
    normal, queries = embeddings(random, 1)
    index, queries = build(IndexSettings(), normal, metric), prepared(queries, metric)
    screen = screening.screen(index)
    projected, _ = screening._projected(queries, screen.basis)
    bounds, positions = screen.bounds.search(projected, len(normal))
    full, order = index.search(queries, len(normal))
    bounds, full = (np.take_along_axis(a, np.argsort(p), axis=1) for a, p in ((bounds, positions), (full, order)))
    assert (bounds >= full - 1e-5).all() if metric == "cosine" else (bounds <= full + 1e-2).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e30])
def test_a_basis_is_orthonormal_and_holds_the_mean(kind, scale):
    sample = scale * embeddings(kind, 0)[0].astype(np.float64)
    basis = screening._basis(sample, 20)
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-13)
    mean = sample.mean(axis=0)
    np.testing.assert_allclose(basis @ (basis.T @ mean), mean, atol=1e-4 * np.abs(sample).max())


def test_a_basis_is_near_the_principal_axes():
    sample = embeddings(narrow, 0)[0].astype(np.float64)
    sample -= sample.mean(axis=0)
    most = np.linalg.svd(sample)[1][:5]
    assert np.square(sample @ screening._basis(sample, 6)).sum() > 0.999 * np.square(most).sum()


def searched_in_full(monkeypatch, index, queries, k, metric):
    """Return how many of the queries a screened search hands to the whole index."""
    counts = []
    full = faiss.IndexFlat.search

    def counted(self, vectors, *arguments, **named):
        counts.append(len(vectors) * (self.d == index.d))
        return full(self, vectors, *arguments, **named)

    screen = screening.screen(index)
    with monkeypatch.context() as patch:
        patch.setattr(faiss.IndexFlat, "search", counted)
        screening.nearest(screen, index, queries, k, k)
    return sum(counts)


@pytest.mark.parametrize("metric", METRICS)
def test_only_queries_that_bounds_do_not_settle_are_searched_in_full(metric, monkeypatch):
    normal, queries = embeddings(narrow, 2, size=2000, queries=500)
    index = build(IndexSettings(), normal, metric)
    assert searched_in_full(monkeypatch, index, prepared(queries, metric), 1, metric) < 0.1 * len(queries)
    normal, queries = embeddings(tied, 2, size=2000, queries=500)
    index = build(IndexSettings(), normal, metric)
    assert searched_in_full(monkeypatch, index, prepared(queries, metric), 1, metric) > 0.5 * len(queries)


def test_a_screen_is_made_only_where_few_directions_hold_most(monkeypatch):
    monkeypatch.setattr(screening, "_OUTSIDE", 0.1)
    assert screening.screen(build(IndexSettings(), embeddings(narrow, 3)[0], "l2")) is not None
    for kind in (random, constant):
        assert screening.screen(build(IndexSettings(), embeddings(kind, 3)[0], "l2")) is None


@pytest.mark.parametrize(
    ("kind", "size", "width", "queries"),
    [("flat", 99, 64, 1), ("flat", 100, 7, 1), ("flat", 100, 8, 0), ("fp16", 100, 8, 1)],
)
def test_a_screen_pays_only_for_large_flat_indexes(kind, size, width, queries):
    vectors = np.random.default_rng(0).normal(size=(size, width)).astype(np.float32)
    assert not screening.pays(build(IndexSettings(kind), vectors, "l2"), queries)
    assert screening.pays(build(IndexSettings(), np.ones((100, 8), np.float32), "l2"), 1)


def test_an_index_fitted_or_loaded_anew_gets_a_screen_of_its_own(tmp_path):
    first, queries = embeddings(narrow, 4)
    second = embeddings(narrow, 5)[0]
    scorer = KNN().fit(first)
    scorer.score(queries)
    scores = scorer.fit(second).score(queries)
    scorer.save(tmp_path)
    np.testing.assert_array_equal(KNN().fit(second).score(queries), scores)
    for mmap in (False, True):
        scorer.fit(first).score(queries)
        np.testing.assert_array_equal(scorer.load(tmp_path, mmap=mmap).score(queries), scores)
        assert scorer.screen_ is not None


def test_normal_embeddings_are_compared_through_the_screen(monkeypatch):
    normal, queries = embeddings(narrow, 6)
    screened = LOF(k=5).fit(normal)
    assert screened.screen_ is not None
    monkeypatch.setattr(screening, "_LEAST_QUERIES", 10**9)
    full = LOF(k=5).fit(normal)
    assert not hasattr(full, "screen_")
    np.testing.assert_allclose(screened.score(queries), full.score(queries), rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_embeddings_near_the_largest_float_are_scored_or_refused_as_without_a_screen(metric, monkeypatch):
    normal, queries = embeddings(narrow, 7)
    results = []
    for least in (1, 10**9):
        monkeypatch.setattr(screening, "_LEAST_QUERIES", least)
        try:
            results.append(KNN(metric=metric).fit(1e37 * normal).score(1e37 * queries))
        except Exception as error:
            results.append(str(error))
    np.testing.assert_array_equal(*results)

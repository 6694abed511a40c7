"""Scores against slow twins and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from torch import nn

from metrad.scorers import GMM, KNN, LOF, Centre, Contrast, HeadScorer, LocalKNN, Mahalanobis
from tests.reference.scorers import scoring as slow

GENERATOR = np.random.default_rng(0)
NORMAL = GENERATOR.normal(size=(50, 8)).astype(np.float32)
QUERIES = GENERATOR.normal(size=(30, 8)).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("reduce", ["mean", "max", "min", "sum"])
@pytest.mark.parametrize("k", [1, 3, 50])
def test_knn_equals_its_twin_and_scikit_learn(metric, reduce, k):
    scorer = KNN(k=k, metric=metric, reduce=reduce).fit(NORMAL)
    expected, nearest = slow.knn_scores(NORMAL, QUERIES, k, metric, reduce)
    np.testing.assert_allclose(scorer.score(QUERIES), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(scorer.neighbours(QUERIES), nearest[:, 0])
    name = {"cosine": "cosine", "l2": "euclidean"}[metric]
    distances, _ = NearestNeighbors(n_neighbors=k, metric=name).fit(NORMAL).kneighbors(QUERIES)
    np.testing.assert_allclose(scorer.score(QUERIES), getattr(distances, reduce)(axis=1), rtol=1e-5, atol=1e-6)


def test_one_nearest_neighbour_is_the_same_whatever_the_reduction():
    scores = [KNN(k=1, reduce=reduce).fit(NORMAL).score(QUERIES) for reduce in ("mean", "max", "min", "sum")]
    for other in scores[1:]:
        np.testing.assert_array_equal(scores[0], other)


def test_cosine_ranks_as_l2_on_unit_vectors():
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (NORMAL, QUERIES)]
    l2 = KNN(metric="l2").fit(unit[0]).score(unit[1])
    np.testing.assert_allclose(KNN(metric="cosine").fit(NORMAL).score(QUERIES), l2**2 / 2, atol=1e-6)


@pytest.mark.parametrize("length", [1e-8, 1.0, 1e4])
def test_knn_tells_small_distances_far_from_the_origin(length):
    near = (length * (NORMAL[:1] + 1e-3 * QUERIES)).astype(np.float32)
    expected, _ = slow.knn_scores(length * NORMAL, near, 1, "l2", "mean")
    scores = KNN(metric="l2").fit((length * NORMAL).astype(np.float32)).score(near)
    np.testing.assert_allclose(scores, expected, rtol=1e-3)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("reduce", ["mean", "max", "min", "sum"])
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("copies", [0, 4, 49])
def test_local_knn_equals_its_twin(metric, reduce, k, copies):
    normal = NORMAL.copy()
    normal[1 : copies + 1] = normal[0]
    scores = LocalKNN(k=k, metric=metric, reduce=reduce).fit(normal).score(QUERIES)
    expected = slow.local_knn_scores(normal, QUERIES, k, metric, reduce)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("reduce", ["mean", "max", "min", "sum"])
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_contrast_equals_its_twin_and_is_knn_without_weight(metric, reduce, k, weight):
    reference = GENERATOR.normal(size=(40, 8)).astype(np.float32) + 1
    scores = Contrast(k=k, metric=metric, reduce=reduce, weight=weight).fit(NORMAL, reference=reference).score(QUERIES)
    expected = slow.contrast_scores(NORMAL, reference, QUERIES, k, metric, reduce, weight)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    if not weight:
        np.testing.assert_array_equal(scores, KNN(k=k, metric=metric, reduce=reduce).fit(NORMAL).score(QUERIES))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("k", [1, 5, 20, 49])
@pytest.mark.parametrize("copies", [0, 3, 30])
def test_lof_equals_scikit_learn(metric, k, copies):
    normal = NORMAL.copy()
    normal[1 : copies + 1] = normal[0]
    queries = np.concatenate([QUERIES, normal[:2]])
    name = {"cosine": "cosine", "l2": "euclidean"}[metric]
    twin = LocalOutlierFactor(n_neighbors=k, metric=name, novelty=True, algorithm="brute").fit(normal.astype(float))
    scores = LOF(k=k, metric=metric).fit(normal).score(queries)
    np.testing.assert_allclose(scores, -twin.score_samples(queries.astype(float)), rtol=1e-4)


@pytest.mark.parametrize(("size", "width"), [(50, 8), (20, 64), (300, 4)])
def test_mahalanobis_equals_scikit_learn(size, width):
    mixing = GENERATOR.normal(size=(width, width))
    normal = (GENERATOR.normal(size=(size, width)) @ mixing + 2).astype(np.float32)
    queries = (GENERATOR.normal(size=(30, width)) @ mixing).astype(np.float32)
    squared = LedoitWolf().fit(normal.astype(float)).mahalanobis(queries.astype(float))
    np.testing.assert_allclose(Mahalanobis().fit(normal).score(queries), np.sqrt(squared), rtol=1e-5)


def test_mahalanobis_of_several_classes_is_the_smallest_of_each():
    classes = np.arange(50) % 3
    each = [Mahalanobis().fit((2 - c) * 3 + NORMAL[classes == c]).score(QUERIES) for c in range(3)]
    together = Mahalanobis().fit(NORMAL + ((2 - classes) * 3)[:, None], classes + 5).score(QUERIES)
    np.testing.assert_allclose(together, np.min(each, axis=0), rtol=1e-5)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_gmm_equals_scikit_learn(covariance_type):
    dimensions = 3
    scorer = GMM(components=2, covariance_type=covariance_type, dimensions=dimensions, reg_covar=1e-4, seed=3)
    projection = PCA(dimensions, whiten=True, svd_solver="full").fit(NORMAL.astype(float))
    mixture = GaussianMixture(2, covariance_type=covariance_type, reg_covar=1e-4, random_state=3, max_iter=500)
    mixture.fit(projection.transform(NORMAL.astype(float)))
    expected = -mixture.score_samples(projection.transform(QUERIES.astype(float)))
    np.testing.assert_allclose(scorer.fit(NORMAL).score(QUERIES), expected, rtol=1e-4, atol=1e-4)


def test_centre_equals_its_twin():
    classes = np.arange(50) % 3
    scores = Centre().fit(NORMAL, classes).score(QUERIES)
    np.testing.assert_allclose(scores, slow.centre_scores(NORMAL, classes, QUERIES), rtol=1e-5, atol=1e-6)


class Head(nn.Module):
    """Logits of a size at which a probability of 1 - 1e-20 occurs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(GENERATOR.normal(size=(5, 8)).astype(np.float32)))

    def logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        return 6 * embeddings @ self.weight.T

    def class_cosines(self, embeddings: torch.Tensor) -> torch.Tensor:
        return nn.functional.cosine_similarity(embeddings[:, None], self.weight[None], dim=2)


@pytest.mark.parametrize("variant", ["probability", "log_odds", "cosine"])
@pytest.mark.parametrize("normal_classes", [[2], [4, 1]])
def test_head_equals_its_twin(variant, normal_classes):
    head = Head()
    with torch.no_grad():
        give = head.class_cosines if variant == "cosine" else head.logits
        expected = slow.head_scores(give(torch.from_numpy(QUERIES)), normal_classes, variant)
    scores = HeadScorer(variant=variant).attach(head, normal_classes).fit(NORMAL).score(QUERIES)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=0 if variant == "probability" else 1e-6)

"""Settings of single scorers, approximate indexes and the head."""

import faiss
import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import nn

from metrad.errors import InputError
from metrad.files import require_unchanged, sealed, sha256, unsealed
from metrad.scorers import GMM, KNN, LOF, Centre, Contrast, HeadScorer, LocalKNN, Mahalanobis, NotFittedError
from metrad.scorers.search import indexes
from metrad.scorers.search.distances import prepared
from metrad.scorers.search.indexes import IndexSettings, build, recall, search, search_others

GENERATOR = np.random.default_rng(0)
NORMAL = (GENERATOR.normal(size=(60, 8)) + 3).astype(np.float32)
QUERIES = (GENERATOR.normal(size=(20, 8)) + 3).astype(np.float32)
# Every direction alike, so that no list of an inverted file is a good place to look.
UNSTRUCTURED = GENERATOR.normal(size=(1000, 64)).astype(np.float32)
# Vectors of few dimensions, which approximate indexes find well.
STRUCTURED = (GENERATOR.normal(size=(1000, 3)) @ GENERATOR.normal(size=(3, 32)) + 2).astype(np.float32)
# Thirty classes of fifty.
CLUSTERED = (GENERATOR.normal(size=(1500, 2)) + 20 * np.arange(30).repeat(50)[:, None]).astype(np.float32)
APPROXIMATE = ["ivf", "hnsw", "sq8", "fp16"]
METRICS = ["cosine", "l2"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KNN(k=0), r"scorer\.k must be at least 1, got 0"),
        (lambda: LOF(k=-1), r"scorer\.k must be at least 1, got -1"),
        (lambda: LocalKNN(k=0), r"scorer\.k must be at least 1, got 0"),
        (lambda: KNN(min_recall=0), r"scorer\.min_recall must be above 0 and at most 1, got 0"),
        (lambda: KNN(min_recall=1.01), r"scorer\.min_recall must be above 0 and at most 1, got 1.01"),
        (lambda: KNN(min_recall=float("nan")), r"scorer\.min_recall must be above 0"),
        (lambda: KNN(index="ivf", nlist=0), r"scorer\.nlist must be at least 1, got 0"),
        (lambda: KNN(index="ivf", nprobe=0), r"scorer\.nprobe must be at least 1, got 0"),
        (lambda: KNN(index="ivf", nlist=4, nprobe=5), r"scorer\.nprobe=5 is larger than scorer\.nlist=4"),
        (lambda: KNN(index="hnsw", M=1), r"scorer\.M must be at least 2, got 1"),
        (lambda: KNN(index="hnsw", ef_search=0), r"scorer\.ef_search must be at least 1, got 0"),
        (lambda: KNN(nlist=4), r"scorer\.nlist=4 is only for scorer\.index=ivf, not flat"),
        (lambda: KNN(index="ivf", M=4), r"scorer\.M=4 is only for scorer\.index=hnsw, not ivf"),
        (lambda: GMM(components=0), r"scorer\.components must be at least 1, got 0"),
        (lambda: GMM(dimensions=0), r"scorer\.dimensions must be at least 1, got 0"),
        (lambda: GMM(reg_covar=-1), r"scorer\.reg_covar must be at least 0, got -1"),
        (lambda: GMM(seed=-1), r"scorer\.seed must be at least 0"),
    ],
)
def test_a_setting_out_of_range_is_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scorer", "size", "message"),
    [
        (KNN(k=61), 60, r"scorer\.k=61 is larger than the index of 60 normal images"),
        (LOF(k=61), 60, r"scorer\.k=61 is larger"),
        (LOF(k=60), 60, r"scorer\.k=60 must be smaller than the 60 normal images"),
        (LocalKNN(k=60), 60, r"scorer\.k=60 must be smaller than the 60 normal images"),
        (LocalKNN(k=1), 1, r"scorer\.k=1 must be smaller"),
        (KNN(index="ivf", nlist=61), 60, r"scorer\.nlist=61 is larger than the 60 normal images"),
        (KNN(index="ivf", nprobe=2), 60, r"scorer\.nprobe=2 is larger than scorer\.nlist=1"),
        (Mahalanobis(), 1, "at least 3 images of each normal class for its covariance, got 1"),
        (Mahalanobis(), 2, "at least 3 images of each normal class for its covariance, got 2"),
        (GMM(components=61), 60, r"scorer\.components=61 is larger than the 60 normal images"),
        (GMM(components=1), 1, "at least 2 normal images"),
    ],
)
def test_too_few_normal_images_are_told_before_training_and_at_fit(scorer, size, message):
    for use in (lambda: scorer.check_size(size), lambda: scorer.fit(NORMAL[:size])):
        with pytest.raises(InputError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)
    with pytest.raises(NotFittedError):
        scorer.score(QUERIES)


def test_too_few_reference_images_are_told_before_training_and_at_fit():
    scorer = Contrast(k=9)
    for use in (lambda: scorer.check_reference(8), lambda: scorer.fit(NORMAL, reference=NORMAL[:8])):
        with pytest.raises(InputError, match=r"scorer\.k=9 is larger than the number of reference images, 8; lower"):
            use()
    with pytest.raises(NotFittedError):
        scorer.score(QUERIES)
    scorer.fit(NORMAL, reference=NORMAL[:9]).score(QUERIES)
    with pytest.raises(InputError, match=r"scorer\.weight must be at least 0 and finite, got -1"):
        Contrast(weight=-1)


def test_as_many_neighbours_as_there_are_will_do():
    KNN(k=60).fit(NORMAL).score(QUERIES)
    KNN(k=60, index="hnsw").fit(NORMAL).score(QUERIES)
    LOF(k=59).fit(NORMAL).score(QUERIES)
    LocalKNN(k=59).fit(NORMAL).score(QUERIES)
    GMM(components=60, dimensions=2).fit(NORMAL).score(QUERIES)


def test_mahalanobis_wants_images_of_every_class():
    with pytest.raises(InputError, match="got 2"):
        Mahalanobis().fit(NORMAL, np.array([0] * 58 + [1] * 2))


def test_mahalanobis_and_gmm_say_when_normal_images_are_all_alike():
    copies = np.repeat(NORMAL[:1], 10, axis=0)
    with pytest.raises(InputError, match="covariance of normal class 0 is singular, as its 10 images"):
        Mahalanobis().fit(copies)
    with pytest.raises(InputError, match="all alike"):
        GMM().fit(copies)


def test_gmm_says_when_it_cannot_fit_and_stays_as_it_was():
    scorer = GMM(components=30, covariance_type="full", reg_covar=0)
    fitted = vars(scorer).copy()
    for _ in range(2):
        with pytest.raises(InputError, match=r"raise scorer\.reg_covar or lower scorer\.components"):
            scorer.fit(NORMAL)
        assert vars(scorer) == fitted
        scorer.fit(CLUSTERED)
        fitted = vars(scorer).copy()


def test_gmm_keeps_at_most_the_directions_that_vary():
    flat = NORMAL.copy()
    flat[:, 3:] = 7
    assert GMM(components=1).fit(flat).fitted_figures()["dimensions"] == 3
    assert GMM(components=1, dimensions=2).fit(NORMAL).fitted_figures()["dimensions"] == 2


def test_gmm_depends_on_its_seed_alone():
    first, second = (GMM(components=8, seed=1).fit(STRUCTURED).score(STRUCTURED) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_gmm_measures_the_likelihood_of_the_normal_embeddings():
    scorer = GMM(components=1).fit(NORMAL)
    assert scorer.fitted_figures()["log_likelihood"] == pytest.approx(-scorer.score(NORMAL).mean(), rel=1e-5)
    assert scorer.fitted_figures()["converged"] == 1


def test_centre_does_not_look_at_lengths():
    longer = NORMAL * np.linspace(1, 100, 60, dtype=np.float32)[:, None]
    np.testing.assert_allclose(Centre().fit(longer).score(QUERIES), Centre().fit(NORMAL).score(QUERIES), atol=1e-6)


def test_a_zero_embedding_is_at_cosine_distance_1():
    zero = np.zeros((1, 8), dtype=np.float32)
    for scorer in (KNN(), KNN(k=5), Centre()):
        np.testing.assert_allclose(scorer.fit(NORMAL).score(zero), [1.0])
    np.testing.assert_allclose(KNN().fit(np.concatenate([NORMAL, zero])).score(zero), [1.0])


@pytest.mark.parametrize("metric", METRICS)
def test_a_copy_of_a_normal_embedding_scores_zero_exactly(metric):
    # A large batch and a small one take different paths through FAISS.
    for queries in (NORMAL, NORMAL[:3]):
        np.testing.assert_array_equal(KNN(metric=metric).fit(NORMAL).score(queries), 0)


def test_local_knn_of_copies_is_held_by_the_floor():
    copies = np.concatenate([np.zeros((10, 2)), np.arange(1, 11)[:, None] * [[100.0, 0]]])
    scorer = LocalKNN(k=1, metric="l2").fit(copies)
    # Ten copies at the origin, then a row 100 apart: the mean of own distances is (10·0 + 10·100) / 20 = 50.
    np.testing.assert_allclose(scorer.score(np.array([[0, 3.0]])), [3 / 0.5])
    np.testing.assert_allclose(scorer.score(np.array([[500.0, 20.0]])), [20 / 100])


# --- approximate indexes


def neighbours_by_hand(vectors, queries, k, metric):
    """Return the k nearest of the vectors to each query, in float64."""
    vectors, queries = vectors.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (queries, vectors)]
        distances = 1 - unit[0] @ unit[1].T
    else:
        distances = np.linalg.norm(queries[:, None] - vectors[None], axis=2)
    return np.argsort(distances, axis=1)[:, :k]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("index", APPROXIMATE)
def test_recall_is_what_brute_force_says(index, metric):
    normal, k = UNSTRUCTURED[:400], 5
    scorer = KNN(k=k, metric=metric, index=index, min_recall=1e-9).fit(normal)
    true = neighbours_by_hand(normal, normal, k + 1, metric)
    unit = normal / np.linalg.norm(normal, axis=1, keepdims=True) if metric == "cosine" else normal
    _, found = scorer.index_.search(unit, k + 1)
    hits = [len({*row[row != i][:k]} & {*best[1:]}) for i, (row, best) in enumerate(zip(found, true, strict=True))]
    assert scorer.recall_ == pytest.approx(np.mean(hits) / k, abs=0.01)
    assert scorer.fitted_figures()["recall"] == scorer.recall_


def test_recall_leaves_the_query_out():
    # Alone in its list, each vector finds itself and nothing else.
    vectors = np.eye(8, dtype=np.float32)
    index = build(IndexSettings("ivf", nlist=8, nprobe=1), vectors, "l2")
    others = build(IndexSettings(), np.roll(vectors, 1, axis=0), "l2")
    assert recall(index, vectors + 0.1 * np.arange(8, dtype=np.float32)[:, None], 1, "l2") < 1
    _, positions = search_others(others, np.arange(8), 3, "l2")
    assert not (positions == np.arange(8)[:, None]).any()


@pytest.mark.parametrize("index", APPROXIMATE)
def test_copies_cost_no_recall(index):
    assert KNN(k=3, index=index, min_recall=1).fit(np.repeat(NORMAL[:6], 10, axis=0)).recall_ == 1


@pytest.mark.parametrize("index", APPROXIMATE)
@pytest.mark.parametrize("size", [1, 2, 39, 60])
def test_few_embeddings_suit_every_index(index, size):
    scorer = KNN(index=index, min_recall=0.5).fit(NORMAL[:size])
    assert np.isfinite(scorer.score(QUERIES)).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("index", APPROXIMATE)
@pytest.mark.parametrize(
    "normal",
    [np.zeros((90, 8)), np.repeat(NORMAL[:1], 90, axis=0), 1e-8 * NORMAL, 1e4 * NORMAL, 1e7 * NORMAL],
    ids=["zero", "copies", "short", "long", "longer"],
)
def test_hard_embeddings_give_finite_scores_or_one_line_with_any_index(normal, index, metric):
    try:
        scores = KNN(k=2, index=index, metric=metric).fit(normal).score(np.concatenate([QUERIES, 0 * QUERIES, normal]))
    except InputError as error:
        assert (index, metric) == ("fp16", "l2")  # half precision holds 6e-8 to 65504
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert np.isfinite(scores).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("index", APPROXIMATE)
def test_on_structured_embeddings_an_approximate_index_scores_as_the_exact_one(index, metric):
    exact = KNN(k=3, metric=metric).fit(STRUCTURED[:900]).score(STRUCTURED[900:])
    scorer = KNN(k=3, metric=metric, index=index, min_recall=0.9).fit(STRUCTURED[:900])
    tolerance = {"sq8": 0.2, "fp16": 0.02}.get(index, 1e-6)
    scores = scorer.score(STRUCTURED[900:])
    assert np.mean(np.abs(scores - exact)) <= tolerance * exact.mean()
    assert scorer.recall_ >= 0.9


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (
            KNN(k=5, index="ivf", nprobe=1),
            r"scorer\.index=ivf finds 0\.\d{3} of the 5 nearest normal embeddings, less than scorer\.min_recall=0\.95; "
            r"raise scorer\.nprobe \(now 1 of 25 lists\) or choose scorer\.index=flat",
        ),
        (KNN(k=5, index="hnsw", M=2, ef_search=1), r"raise scorer\.ef_search \(now 1\) or scorer\.M \(now 2\)"),
        (KNN(k=5, index="sq8", min_recall=1), r"choose scorer\.index=fp16 or choose scorer\.index=flat"),
        (KNN(k=50, index="fp16", min_recall=1), r"scorer\.min_recall=1; choose scorer\.index=flat"),
    ],
)
def test_too_low_a_recall_is_refused_with_what_was_measured(scorer, message):
    with pytest.raises(InputError, match=message) as caught:
        scorer.fit(UNSTRUCTURED)
    assert "\n" not in str(caught.value)
    with pytest.raises(NotFittedError):
        scorer.score(UNSTRUCTURED)


def test_a_refused_fit_leaves_the_scorer_as_it_was():
    scorer = KNN(k=5, index="ivf", nlist=25, nprobe=8, min_recall=0.9).fit(STRUCTURED)
    before, found = scorer.score(STRUCTURED[:, ::-1]), scorer.recall_
    with pytest.raises(InputError, match="finds"):
        scorer.fit(UNSTRUCTURED)
    assert scorer.recall_ == found
    np.testing.assert_array_equal(scorer.score(STRUCTURED[:, ::-1]), before)


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_an_approximate_index_is_the_same_every_time_and_on_any_number_of_threads(index):
    threads = faiss.omp_get_max_threads()
    files = set()
    for number in (1, 4, 4):
        faiss.omp_set_num_threads(number)
        try:
            scorer = KNN(index=index, min_recall=0.1).fit(UNSTRUCTURED)
            assert faiss.omp_get_max_threads() == number
        finally:
            faiss.omp_set_num_threads(threads)
        files.add(faiss.serialize_index(scorer.index_).tobytes())
    assert len(files) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_an_inverted_file_with_empty_lists_still_finds_k(metric):
    index = build(IndexSettings("ivf", nlist=20, nprobe=1), UNSTRUCTURED[:40], metric)
    assert (index.search(UNSTRUCTURED[40:], 40)[1] < 0).any()
    distances, positions = search(index, UNSTRUCTURED[40:], 40, metric)
    np.testing.assert_array_equal(np.sort(positions, axis=1), np.tile(np.arange(40), (960, 1)))
    assert distances.max() < 100
    assert (np.diff(distances, axis=1) >= 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("nlist", "nprobe", "k"), [(25, 5, 1), (25, 25, 3), (400, 16, 5)])
def test_many_queries_of_an_inverted_file_find_what_faiss_finds(nlist, nprobe, k, metric):
    index = build(IndexSettings("ivf", nlist=nlist, nprobe=nprobe), STRUCTURED[:800], metric)
    queries = prepared(STRUCTURED, metric)
    assert len(queries) * nprobe >= 32 * nlist
    _, found = search(index, queries, k, metric)
    # Some lists hold fewer than k, and some hold none.
    few = [search(index, queries[i : i + 10], k, metric)[1] for i in range(0, 1000, 10)]
    np.testing.assert_array_equal(found, np.concatenate(few))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["flat", *APPROXIMATE])
def test_an_index_built_in_blocks_is_the_one_built_at_once(kind, metric, monkeypatch):
    settings = IndexSettings(kind).chosen(len(UNSTRUCTURED), 3)
    whole = build(settings, UNSTRUCTURED, metric)
    found = recall(whole, UNSTRUCTURED, 3, metric)
    monkeypatch.setattr(indexes, "_ROWS", 300)
    blocks = build(settings, UNSTRUCTURED, metric)
    assert recall(whole, UNSTRUCTURED, 3, metric) == found
    if kind == "hnsw":  # links its vectors level by level within a block
        assert recall(blocks, UNSTRUCTURED, 3, metric) == pytest.approx(found, abs=0.03)
    else:
        assert faiss.serialize_index(blocks).tobytes() == faiss.serialize_index(whole).tobytes()


def test_centres_are_learnt_from_some_of_many_vectors(monkeypatch):
    monkeypatch.setattr(indexes, "_TRAINING", 8)
    index = build(IndexSettings("ivf", nlist=25, nprobe=25), UNSTRUCTURED, "l2")
    assert index.ntotal == len(UNSTRUCTURED)
    assert recall(index, UNSTRUCTURED, 3, "l2") == 1


def test_a_graph_in_pieces_still_finds_k():
    index = build(IndexSettings("hnsw", M=2, ef_search=1), UNSTRUCTURED[:200], "l2")
    assert (index.search(UNSTRUCTURED[200:], 200)[1] < 0).any()
    _, positions = search(index, UNSTRUCTURED[200:], 200, "l2")
    np.testing.assert_array_equal(np.sort(positions, axis=1), np.tile(np.arange(200), (800, 1)))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("index", ["flat", *APPROXIMATE])
def test_an_index_of_any_kind_is_saved_loaded_and_mapped(index, metric, tmp_path):
    scorer = KNN(k=3, metric=metric, index=index, min_recall=0.5).fit(STRUCTURED)
    scorer.save(tmp_path)
    for mmap in (False, True):
        loaded = KNN(k=3, metric=metric, index=index, min_recall=0.5).load(tmp_path, mmap=mmap)
        np.testing.assert_array_equal(loaded.score(STRUCTURED[::-1]), scorer.score(STRUCTURED[::-1]))
        assert loaded.fitted_figures() == scorer.fitted_figures()
        if index == "flat":
            assert loaded.index_.codes.is_owned != mmap


def test_numbers_left_open_are_chosen_from_the_number_of_embeddings():
    assert IndexSettings("ivf").chosen(1000, 5).given() == {"nlist": 25, "nprobe": 16}
    assert IndexSettings("ivf").chosen(40_000, 5).given() == {"nlist": 800, "nprobe": 16}
    assert IndexSettings("ivf").chosen(10**6, 1).given() == {"nlist": 4000, "nprobe": 16}
    assert IndexSettings("ivf").chosen(10**7, 1).given() == {"nlist": 12649, "nprobe": 29}
    assert IndexSettings("ivf", nprobe=3).chosen(40_000, 5).given() == {"nlist": 800, "nprobe": 3}
    assert IndexSettings("hnsw").chosen(1000, 5).given() == {"M": 32, "ef_search": 64}
    assert IndexSettings("hnsw").chosen(1000, 50).given() == {"M": 32, "ef_search": 100}
    assert IndexSettings("hnsw", M=8).chosen(10**6, 5).given() == {"M": 8, "ef_search": 1000}
    assert IndexSettings("sq8").chosen(1000, 5).given() == {}


def test_chosen_numbers_are_fitted_and_reach_the_index():
    scorer = KNN(index="ivf", min_recall=0.1).fit(UNSTRUCTURED)
    assert (scorer.nlist_, scorer.nprobe_) == (scorer.index_.nlist, scorer.index_.nprobe) == (25, 16)
    scorer = KNN(index="hnsw", M=8).fit(STRUCTURED)
    assert (scorer.M_, scorer.ef_search_, scorer.index_.hnsw.efSearch) == (8, 64, 64)
    assert scorer.index_.hnsw.nb_neighbors(1) == 8


@pytest.mark.parametrize(
    ("saved", "loading", "message"),
    [
        (KNN(metric="l2"), KNN(), r"fitted with scorer\.metric=l2, not cosine"),
        (KNN(index="fp16", min_recall=0.1), KNN(), r"fitted with scorer\.index=fp16, not flat"),
        (KNN(index="ivf"), KNN(index="ivf", k=2), r"fitted with scorer\.k=1, not 2"),
        (KNN(index="ivf"), KNN(index="ivf", nprobe=1), r"fitted with scorer\.nprobe=None, not 1"),
        (KNN(index="sq8", min_recall=0.1), KNN(index="sq8", min_recall=1), r"less than scorer\.min_recall=1"),
        (LOF(k=5), LOF(k=6), r"fitted with scorer\.k=5, not 6"),
        (LocalKNN(reduce="max"), LocalKNN(reduce="mean"), r"fitted with scorer\.reduce=max, not mean"),
        (GMM(components=2), GMM(components=3), r"fitted with scorer\.components=2, not 3"),
        (KNN(k=1), KNN(k=1001), r"scorer\.k=1001 is larger than the index of 1000"),
    ],
)
def test_a_state_of_other_settings_is_refused(saved, loading, message, tmp_path):
    saved.fit(STRUCTURED + UNSTRUCTURED[:, :32]).save(tmp_path)
    with pytest.raises(InputError, match=message):
        loading.load(tmp_path)
    with pytest.raises(NotFittedError):
        loading.score(STRUCTURED)


def test_settings_that_do_not_shape_the_state_may_differ(tmp_path):
    KNN(k=1).fit(NORMAL).save(tmp_path)
    loaded = KNN(k=3, reduce="sum").load(tmp_path)
    np.testing.assert_array_equal(loaded.score(QUERIES), KNN(k=3, reduce="sum").fit(NORMAL).score(QUERIES))


def test_files_of_another_scorer_cannot_be_slipped_in(tmp_path):
    record = {"scorer": "KNN", "settings": {"metric": "cosine", "index": "flat"}, "width": 8}
    (tmp_path / "scorer.json").write_text(sealed({**record, "files": {"../x": "0"}}))
    with pytest.raises(InputError, match="another version of metrad"):
        KNN().load(tmp_path)


def test_what_is_no_index_is_refused_and_the_scorer_stays_as_it_was(tmp_path):
    LOF().fit(NORMAL[::-1] + 1).save(tmp_path)
    scorer = LOF().fit(NORMAL)
    scores = scorer.score(QUERIES)
    (tmp_path / "index.faiss").write_bytes(b"nonsense")
    record = unsealed(tmp_path / "scorer.json")
    record["files"]["index.faiss"] = sha256(tmp_path / "index.faiss")
    (tmp_path / "scorer.json").write_text(sealed(record))
    with pytest.raises(InputError, match=r"index\.faiss cannot be read as a FAISS index"):
        LOF().load(tmp_path)
    with pytest.raises(InputError, match=r"index\.faiss cannot be read as a FAISS index"):
        scorer.load(tmp_path)
    np.testing.assert_array_equal(scorer.score(QUERIES), scores)


def test_the_index_is_one_that_faiss_reads(tmp_path):
    KNN().fit(NORMAL).save(tmp_path)
    assert faiss.read_index(str(tmp_path / "index.faiss")).ntotal == 60


# --- the head


class Head(nn.Module):
    """Four classes along four axes; one more layer, to see whether its mode comes back."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.frozen = nn.Dropout(0.5).eval()
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("weight", torch.eye(8)[:4])

    def class_cosines(self, embeddings):
        return self.dropout(nn.functional.normalize(embeddings)) @ self.weight.T

    def logits(self, embeddings):
        return self.scale * self.class_cosines(embeddings)


def test_the_head_is_put_back_as_it_was_and_gathers_no_gradient():
    head = Head()
    scorer = HeadScorer().attach(head, [0]).fit(NORMAL)
    first = scorer.score(QUERIES)
    np.testing.assert_array_equal(scorer.score(QUERIES), first)
    assert (head.training, head.dropout.training, head.frozen.training) == (True, True, False)


def test_confident_images_do_not_tie():
    queries = np.eye(8, dtype=np.float32)[[0, 0, 1, 1]] + 0.01 * np.arange(4, dtype=np.float32)[:, None]
    scorer = HeadScorer().attach(Head(60.0), [0]).fit(NORMAL)
    assert 0 < scorer.score(queries)[0] < scorer.score(queries)[1] < 1e-20
    odds = HeadScorer(variant="log_odds").attach(Head(60.0), [0]).fit(NORMAL).score(queries)
    assert len(np.unique(odds)) == 4
    assert (np.argsort(odds, kind="stable")[:2] == [0, 1]).all()


def test_large_logits_keep_their_digits():
    head = Head(5000.0)
    queries = 1 + 3e-4 * GENERATOR.normal(size=(20, 8)).astype(np.float32)
    with torch.inference_mode():
        logits = head.eval().logits(torch.from_numpy(queries)).numpy().astype(np.float64)
    expected = logsumexp(logits[:, 1:], axis=1) - logits[:, 0]
    scores = HeadScorer(variant="log_odds").attach(head, [0]).fit(NORMAL).score(queries)
    np.testing.assert_allclose(scores, expected, rtol=1e-7)


@pytest.mark.parametrize(
    ("head", "classes", "message"),
    [
        (object(), [0], "takes a module with logits"),
        (nn.Linear(8, 4), [0], "takes a module with logits"),
        (Head(), [], "takes the numbers of the normal classes"),
        (Head(), [-1], "takes the numbers of the normal classes"),
        (Head(), [0.5], "takes the numbers of the normal classes"),
    ],
)
def test_what_cannot_be_attached_is_refused(head, classes, message):
    with pytest.raises(InputError, match=message):
        HeadScorer().attach(head, classes)


@pytest.mark.parametrize("classes", [[4], [0, 1, 2, 3]])
def test_normal_classes_must_be_some_of_the_head(classes):
    with pytest.raises(InputError, match="must be some, not all, of the 4 classes of the head, 0 to 3"):
        HeadScorer().attach(Head(), classes).fit(NORMAL)


def test_a_head_with_other_normal_classes_is_refused(tmp_path):
    scorer = HeadScorer().attach(Head(), [0, 2]).fit(NORMAL)
    scorer.save(tmp_path)
    for use in (
        lambda: scorer.attach(Head(), [0]),
        lambda: HeadScorer().attach(Head(), [1]).load(tmp_path),
        lambda: HeadScorer().load(tmp_path).attach(Head(), [0, 1]),
    ):
        with pytest.raises(InputError, match=r"fitted with normal classes \[0, 2\]"):
            use()
    HeadScorer().load(tmp_path).attach(Head(), [2, 0])


# --- checksums


def test_a_sealed_record_is_read_back(tmp_path):
    record = {"name": "Σ", "numbers": [1, 2.5, None], "inner": {"a": True}}
    path = tmp_path / "record.json"
    path.write_text(sealed(record), encoding="utf-8")
    assert unsealed(path) == record


def test_every_byte_of_a_sealed_record_counts(tmp_path):
    path = tmp_path / "record.json"
    whole = sealed({"a": 1, "b": "text"}).encode()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(InputError, match="checksum differs"):
            unsealed(path)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000])
def test_what_was_never_sealed_is_refused(text, tmp_path):
    (tmp_path / "record.json").write_bytes(text)
    with pytest.raises(InputError, match="checksum differs"):
        unsealed(tmp_path / "record.json")


def test_a_file_is_known_by_its_checksum(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    require_unchanged(path, sha256(path))
    with pytest.raises(InputError, match="its checksum differs"):
        require_unchanged(path, "0" * 64)
    for read in (unsealed, lambda missing: require_unchanged(missing, "0")):
        with pytest.raises(InputError, match="none is missing"):
            read(tmp_path / "none")
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path)

"""The contract that every scorer in conf/scorer keeps."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from metrad import config
from metrad.errors import InputError
from metrad.scorers import KNN, NotFittedError, Scorer

SCORERS = sorted(config.choices()["scorer"])
GENERATOR = np.random.default_rng(0)
NORMAL = (GENERATOR.normal(size=(60, 8)) + 3).astype(np.float32)
NEAR = (GENERATOR.normal(size=(20, 8)) + 3).astype(np.float32)
FAR = (GENERATOR.normal(size=(20, 8)) - 3).astype(np.float32)


def make(name: str) -> Scorer:
    cfg = OmegaConf.create({"scorer": OmegaConf.load(config.folder() / "scorer" / f"{name}.yaml"), "allow_targets": []})
    return config.build(cfg, "scorer")


@pytest.mark.parametrize("name", SCORERS)
def test_higher_is_more_anomalous(name):
    scorer = make(name).fit(NORMAL)
    assert scorer.score(NEAR).shape == (20,)
    assert scorer.score(NEAR).max() < scorer.score(FAR).min()


@pytest.mark.parametrize("name", SCORERS)
def test_a_score_depends_on_its_own_embedding_alone(name):
    scorer = make(name).fit(NORMAL)
    together = scorer.score(np.concatenate([NEAR, FAR]))
    np.testing.assert_allclose(together[:20], scorer.score(NEAR), atol=1e-6)
    np.testing.assert_allclose(together[20:21], scorer.score(FAR[:1]), atol=1e-6)


@pytest.mark.parametrize("name", SCORERS)
def test_saved_and_loaded_it_scores_alike(name, tmp_path):
    scorer = make(name).fit(NORMAL)
    scorer.save(tmp_path)
    loaded = make(name).load(tmp_path)
    np.testing.assert_array_equal(loaded.score(NEAR), scorer.score(NEAR))
    np.testing.assert_array_equal(loaded.neighbours(NEAR), scorer.neighbours(NEAR))


@pytest.mark.parametrize("name", SCORERS)
def test_unfitted_use_is_one_named_error(name):
    for use in (make(name).score, make(name).neighbours):
        with pytest.raises(NotFittedError, match="not fitted"):
            use(NEAR)


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(name, bad):
    spoilt = NORMAL.copy()
    spoilt[3, 2] = bad
    with pytest.raises(InputError, match="row 3"):
        make(name).fit(spoilt)
    with pytest.raises(InputError, match="row 3"):
        make(name).fit(NORMAL).score(spoilt)


@pytest.mark.parametrize("name", SCORERS)
def test_another_width_is_refused(name):
    with pytest.raises(InputError, match="width 8"):
        make(name).fit(NORMAL).score(NEAR[:, :5])


@pytest.mark.parametrize("name", SCORERS)
def test_no_normal_images_are_refused(name):
    with pytest.raises(InputError, match="no normal"):
        make(name).fit(NORMAL[:0])


def test_knn_refuses_more_neighbours_than_there_are(tmp_path):
    with pytest.raises(InputError, match="k=61 is larger than the index of 60"):
        KNN(k=61).fit(NORMAL)
    KNN(k=1).fit(NORMAL).save(tmp_path)
    with pytest.raises(InputError, match="larger than the index"):
        KNN(k=61).load(tmp_path)
    with pytest.raises(InputError, match=r"scorer\.k must be at least 1"):
        KNN(k=0)


def test_knn_refuses_a_broken_index(tmp_path):
    (tmp_path / "index.faiss").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"index\.faiss cannot be read"):
        KNN().load(tmp_path)


def test_knn_scores_a_zero_embedding():
    scores = KNN().fit(NORMAL).score(np.zeros((1, 8), dtype=np.float32))
    np.testing.assert_allclose(scores, [1.0])

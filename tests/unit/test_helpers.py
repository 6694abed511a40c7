"""What tests are made with does what it stands for."""

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from tests.helpers.commands import DIGITS, composed, configured


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["head=arcface", "head.margin=0.3", "+trainer.min_steps=2", "~head.scale"],
        ["selection=pseudo_anomaly", "selection.scorers.own.k=4", "+scorer@selection.scorers.own=lof"],
        ["augmentation=all", "seed=1", "seed=2", "++optimizer.lr=3", "hydra.run.dir=x"],
        ["head={_target_: a.B}", "~scheduler"],
    ],
)
def test_a_configuration_is_composed_as_by_hydra(more):
    cfg, hydra = configured(*DIGITS, *more)
    assert OmegaConf.to_container(cfg) == OmegaConf.to_container(composed(*DIGITS, *more))
    assert OmegaConf.is_struct(cfg)
    assert [*hydra.hydra.overrides.hydra, *hydra.hydra.overrides.task] != []
    assert hydra.hydra.runtime.choices == composed(*DIGITS, *more, hydra=True).hydra.runtime.choices


@pytest.mark.parametrize("wrong", ["sed=1", "head=nope", "seed=1,2", "seed=x", "~head.nope"])
def test_it_is_refused_as_by_hydra(wrong):
    told = []
    for compose in (composed, configured):
        with pytest.raises(ConfigCompositionException) as refused:
            compose(*DIGITS, wrong)
        told.append((str(refused.value), str(refused.value.__cause__)))
    assert told[0] == told[1]

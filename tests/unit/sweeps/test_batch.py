"""The jobs of a batch of runs: each has a folder of its own below the sweep's."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from metrad.errors import InputError
from metrad.runs.directory import Run
from metrad.sweeps import batch
from metrad.sweeps.plan import Job, Sweep
from tests.helpers.commands import composed


@pytest.fixture(scope="module")
def cfg():
    return composed("experiment=demo", hydra=True)


def job(cfg, folder: Path, subdir: str) -> Job:
    """Return the job of a run in the folder ``subdir`` of a sweep in ``folder``."""
    config = cfg.copy()
    OmegaConf.set_readonly(config, False)
    OmegaConf.set_readonly(config.hydra, False)
    config.hydra.sweep.dir, config.hydra.sweep.subdir = str(folder), subdir
    loader = SimpleNamespace(load_sweep_config=lambda sweep, overrides: config)
    return batch.job(SimpleNamespace(config_loader=loader), config, 0, [])


@pytest.mark.parametrize("subdir", ["..", "../..", ".", "", "a/b", "/elsewhere", "a/../../b", "a/"])
def test_no_run_of_a_sweep_lies_anywhere_but_in_a_folder_directly_below_it(subdir, cfg, tmp_path):
    with pytest.raises(InputError, match=r"hydra\.sweep\.subdir=.* must be the name of a folder in"):
        job(cfg, tmp_path, subdir)


def test_a_name_of_a_folder_is_taken(cfg, tmp_path):
    assert job(cfg, tmp_path, "run..1").run.path == tmp_path / "run..1"


def test_two_runs_with_other_settings_in_one_folder_are_refused_before_the_first_begins(cfg, tmp_path):
    other = cfg.copy()
    OmegaConf.set_readonly(other, False)
    other.seed = 1
    jobs = [Job(number, Run(tmp_path / "one"), each) for number, each in enumerate((cfg, other))]

    def never(jobs):
        pytest.fail("a run began")

    with pytest.raises(InputError, match=r"subdir=one gives two runs one folder \(seed is 0 and not 1\); leave it out"):
        batch.make(Sweep(tmp_path), jobs, never, fail_fast=False)
    assert list(tmp_path.iterdir()) == []

"""What metrad changes in the process for Hydra is put back, however Hydra ends."""

import os
import sys

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from metrad.app import hydra_seam
from metrad.app.messages import one_line
from metrad.runs.config import checks


class WantedError(Exception):
    """The error that a test raises."""


@pytest.fixture(autouse=True)
def _registered():
    checks.register()
    Plugins.instance()


def stored():
    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    return {name: (node.provider, OmegaConf.to_container(node.node)) for name, node in launchers.items()}


@pytest.mark.parametrize("before", [None, "0", "1"])
@pytest.mark.parametrize("fails", [False, True])
def test_all_is_as_it_was_when_hydra_ends(before, fails, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", mine := ["mine", "word"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if before is not None:
        monkeypatch.setenv("HYDRA_FULL_ERROR", before)
    launchers, seen = stored(), []

    def task(cfg):
        seen.append((cfg.seed, sys.argv[1:], os.environ["HYDRA_FULL_ERROR"], stored()["basic.yaml"][0]))
        if fails:
            raise WantedError

    arguments = ["seed=3", "hydra.run.dir=run", "hydra/job_logging=none"]
    if fails:
        with pytest.raises(WantedError):
            hydra_seam.run(arguments, task)
    else:
        hydra_seam.run(arguments, task)
    assert seen == [(3, arguments, "1", "metrad")]
    assert sys.argv is mine
    assert mine == ["mine", "word"]
    assert os.environ.get("HYDRA_FULL_ERROR") == before
    assert stored() == launchers


def test_a_launcher_of_another_package_is_back_afterwards():
    store = ConfigStore.instance()
    launchers = store.repo["hydra"]["launcher"]
    before = dict(launchers)
    store.store(group="hydra/launcher", name="joblib", node={"_target_": "another"}, provider="another")
    try:
        with hydra_seam.own_launchers():
            assert stored()["joblib.yaml"][0] == "metrad"
        assert stored()["joblib.yaml"] == ("another", {"_target_": "another"})
    finally:
        launchers.clear()
        launchers.update(before)


def raised(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_errors_of_hydra_and_of_parsers_are_known_by_who_raised_them():
    assert hydra_seam.raised_by_hydra(raised(yaml.safe_load, "a: ["))
    assert hydra_seam.raised_by_hydra(raised(OmegaConf.create, {"a": object()}))
    assert hydra_seam.raised_by_hydra(raised(OmegaConf.update, OmegaConf.create({"a": None}), 3, 1))
    assert not hydra_seam.raised_by_hydra(raised(int, "x"))
    assert not hydra_seam.raised_by_hydra(ValueError("never raised"))


def test_a_line_ends_with_the_arguments_given_or_those_of_the_process(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["metrad", "of", "the process"])
    assert one_line(ValueError("bad\nvalue"), ["seed=1", "x=2"]) == "bad value (given: seed=1 x=2)"
    assert one_line(ValueError("bad"), []) == "bad (given: )"
    assert one_line(ValueError("bad")) == "bad (given: of the process)"

"""Which settings are secret, and that a run keeps no value of an environment variable."""

import logging

import pytest
from omegaconf import OmegaConf

from metrad.errors import InputError
from metrad.runs.config.secrets import is_secret, secrets
from metrad.runs.directory import Run
from metrad.runs.naming import run_name
from tests.helpers.commands import configured

SECRET = "s3cr3t-value"


@pytest.fixture(autouse=True)
def _secret(monkeypatch):
    monkeypatch.setenv("MY_SECRET", SECRET)


@pytest.mark.parametrize("key", ["logger.api_key", "logger.token", "a.hub_token", "x.PASSWORD", "secret", "b.apikey"])
def test_a_name_can_say_that_a_value_is_secret(key):
    assert is_secret(key)
    assert not is_secret(f"{key}.length")


@pytest.mark.parametrize("key", ["keys", "tokens_per_image", "head.margin", "dataset.normal", "monkey"])
def test_other_names_do_not(key):
    assert not is_secret(key)


def test_values_of_variables_and_of_secret_names_are_found():
    cfg = OmegaConf.create(
        {
            "a": "x/${oc.env:MY_SECRET}",
            "logger": {"api_key": "plain", "tokens": "${oc.env:MY_SECRET}", "token": None},
            "paths": {"data": "${oc.env:HOME}"},
            "list": ["${oc.env:NEVER_SET}", "${oc.env:MY_SECRET,x}"],
        }
    )
    assert secrets(cfg) == {SECRET: "${oc.env:MY_SECRET}", "plain": "***"}
    assert secrets(given=["+logger.api_key='abc'", "seed=3"]) == {"abc": "***"}


def test_a_run_keeps_no_value_of_a_variable_in_its_files_or_its_name(tmp_path):
    overrides = ["experiment=demo", "logger.name=${oc.env:MY_SECRET}", "optimizer.lr=${oc.env:MY_SECRET}"]
    cfg, hydra = configured(*overrides)
    Run(tmp_path).save_config(cfg, hydra)
    kept = {path.name: path.read_text() for path in (tmp_path / ".hydra").iterdir()}
    assert kept.keys() == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    assert all("${oc.env:MY_SECRET}" in text and SECRET not in text for text in kept.values())
    assert SECRET not in run_name(hydra.hydra, 0)


def test_the_log_and_the_status_of_a_failed_run_show_no_secret(tmp_path):
    run = Run(tmp_path / "run")
    run.begin()

    def fail():
        logging.getLogger("metrad").error("log in with %s \x1b[31m", SECRET)
        raise InputError(f"{SECRET} is refused")

    with pytest.raises(InputError), run.recorded(keep_refused=True, secrets={SECRET: "***"}):
        fail()
    assert run.noted()["error"] == "*** is refused"
    assert "log in with *** \\x1b[31m" in run.log.read_text()
    assert SECRET not in run.log.read_text()

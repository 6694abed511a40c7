"""Crafted run directories: whatever their configuration and their detector name, nothing of it runs or is imported."""

import copy
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from metrad.app.evaluate import evaluate_run
from metrad.detector import bundle
from metrad.detector.core import Detector
from metrad.errors import InputError
from metrad.files import sealed, unsealed
from metrad.reports.report import write_run_report
from metrad.runs.config import stored
from metrad.runs.config.schema import PARTS
from metrad.runs.directory import Run
from metrad.sweeps.table import collect
from tests.helpers.commands import DIGITS, isolated, trained
from tests.helpers.stored import without_manifest

SECRET = "s3cr3t-of-the-reader"
MARK = "touch pwned"
HELPERS = [
    {"_target_": "pytorch_lightning.cli.instantiate_class", "args": MARK, "init": {"class_path": "os.system"}},
    {"_target_": "pytorch_lightning.cli.LightningCLI", "args": ["fit"], "run": True},
    {"_target_": "pytorch_lightning.Trainer", "default_root_dir": "pwned"},
    {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "pwned"},
    {"_target_": "sklearn.datasets.fetch_openml", "name": "x", "data_home": "pwned"},
    {"_target_": "sklearn.datasets.clear_data_home", "data_home": "pwned"},
    {"_target_": "sklearn.datasets.load_files", "container_path": "."},
    {"_target_": "sklearn.utils._testing.assert_run_python_script_without_output", "source_code": "1"},
    {"_target_": "torchvision.datasets.utils.download_url", "url": "http://localhost", "root": "pwned"},
    {"_target_": "torchvision.datasets.utils.extract_archive", "from_path": "a.zip", "remove_finished": True},
    {"_target_": "torchvision.utils.save_image", "tensor": [], "fp": "pwned"},
    {"_target_": "torchvision.io.write_file", "filename": "pwned", "data": []},
    {"_target_": "torchvision.models.get_model", "name": "resnet18", "weights": "DEFAULT"},
    {"_target_": "torchvision.datasets.LSUN", "root": ".", "classes": ["x"]},
    {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "m", "source": "local"},
    {"_target_": "torch.load", "f": "x.pt", "weights_only": False},
    {"_target_": "torch.utils.cpp_extension.load", "name": "x", "sources": []},
    {"_target_": "torch.optim.lr_scheduler.LambdaLR", "lr_lambda": MARK},
    {"_target_": "metrad.app.cli.train", "argv": ["--help"]},
    {"_target_": "metrad.runs.config.build.instantiate", "cfg": {}, "key": "scorer"},
    {"_target_": "metrad.files.write_json", "path": "pwned", "content": 1},
    {"_target_": "hydra.utils.call", "config": {"_target_": "os.system", "command": MARK}},
    {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.system", "command": MARK}},
    {"_target_": "omegaconf.OmegaConf.load", "file_": "/etc/hostname"},
    {"_target_": "os.system", "command": MARK},
    {"_target_": "subprocess.run", "args": MARK, "shell": True},
    {"_target_": "builtins.exec", "_args_": ["open('pwned', 'w')"]},
    {"_target_": "hostile_module.Part"},
    {"_target_": "hostile_module:Part"},
    {"_target_": ["os.system"]},
    {"_target_": None},
    {"_target_": "${oc.env:METRAD_HOSTILE}"},
]


def shapes(helper: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield settings of a scorer that name ``helper`` itself, or inside a setting."""
    own = {"_target_": "metrad.scorers.KNN"}
    yield helper
    yield {**own, "k": helper}
    yield {**own, "k": [{"a": {**helper, "_partial_": True}}]}


CASES = [shape for helper in HELPERS for shape in shapes(helper)]
NAMES = [f"{i // 3}-{('itself', 'inside', 'deep inside')[i % 3]}" for i in range(len(CASES))]


@pytest.fixture(scope="session", name="sound")
def sound_run(once: Callable[..., Path]) -> Path:
    """Make one finished run that the tests only copy."""

    def make(folder: Path) -> None:
        with isolated(folder):
            trained(folder / "run", *DIGITS)

    return once("sound", make) / "run"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder with a module that leaves a file when it is imported; nothing of it may have run at the end."""
    (tmp_path / "hostile_module.py").write_text("open('pwned', 'w').close()\nclass Part: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with isolated(tmp_path):
        os.environ["METRAD_HOSTILE"] = "os.system"
        os.environ["METRAD_SECRET"] = SECRET
        yield
    assert not (tmp_path / "pwned").exists()
    assert "hostile_module" not in sys.modules


@pytest.fixture(name="run")
def run_to_change(sound: Path, tmp_path: Path) -> Run:
    """Copy the sound run, without the manifest, which would notice every change."""
    run = Run(shutil.copytree(sound, tmp_path / "run"))
    without_manifest(run)
    return run


def crafted(run: Run, key: str, value: Any) -> None:
    """Write ``value`` at ``key`` of the run's configuration, and allow there whatever can be allowed."""
    cfg = OmegaConf.load(run.config)
    content = OmegaConf.to_container(cfg)
    content["allow_targets"] = ["hostile_module", "os", "builtins", "subprocess", "torch", "pytorch_lightning"]
    node = content
    *parents, last = key.split(".")
    for name in parents:
        node = node.setdefault(name, {})
    node[last] = copy.deepcopy(value)
    OmegaConf.save(OmegaConf.create(content), run.config)


def refusal(run: Run, *overrides: str) -> str:
    with pytest.raises(InputError) as refused:
        evaluate_run(run.path, list(overrides))
    assert len(str(refused.value).splitlines()) == 1
    assert not run.evaluations.exists()
    return str(refused.value)


def test_a_scorer_that_is_code_is_refused_by_the_command(run):
    for case in CASES[::3]:
        crafted(run, "scorer", case)
        assert refusal(run).startswith("scorer")


@pytest.mark.parametrize("key", [*PARTS, "selection.scorers.mine", "study.mine"])
def test_code_in_any_part_is_refused_in_every_shape(key, sound):
    """Although an evaluation builds no other parts than scorer and source."""
    content = OmegaConf.to_container(OmegaConf.load(Run(sound).config))
    *parents, last = key.split(".")
    node = content
    for name in parents:
        node[name] = node.get(name) or {}
        node = node[name]
    suitable = {
        "scheduler": "torch.optim.lr_scheduler.LambdaLR",
        "trainer": "pytorch_lightning.Trainer",
        "logger": "pytorch_lightning.loggers.CSVLogger",
    }
    for case in CASES if key == "scorer" else CASES[::4]:  # every fourth, in all shapes in turn
        if case["_target_"] != suitable.get(key):
            node[last] = case
            with pytest.raises(InputError, match=f"^{re.escape(key)}"):
                stored.check(stored.inert(OmegaConf.create(content)))


def test_a_source_that_is_code_is_not_built_when_the_embeddings_are_gone(run):
    shutil.rmtree(run.embeddings)
    for case in CASES[:12]:
        crafted(run, "dataset.source", case)
        assert refusal(run).startswith("dataset.source")


@pytest.mark.parametrize("kind", bundle.TABLES)
def test_a_detector_that_is_code_is_refused_in_every_shape(kind, run):
    record = unsealed(run.model / bundle.RECORD)
    record.pop("sha256", None)
    for case in CASES:
        (run.model / bundle.RECORD).write_text(sealed({**record, kind: case}), encoding="utf-8")
        loaded = Detector.load(run.model)
        with pytest.raises(InputError, match=f"^{kind}"):
            assert loaded.scorer if kind == "scorer" else loaded.backend.head  # which is built after the backbone


def test_what_the_run_itself_allows_counts_for_nothing(run):
    crafted(run, "scorer", {"_target_": "hostile_module.Part"})
    assert "add 'allow_targets=[hostile_module]'" in refusal(run)


RESOLVERS = ["${oc.env:METRAD_SECRET}", "${oc.decode:${oc.env:METRAD_SECRET}}", "a/${oc.env:METRAD_SECRET,x}"]


@pytest.mark.parametrize("text", [*RESOLVERS, "${hydra:runtime.cwd}", "${now:%Y}", "${oc.select:seed}", "${a.${b}}"])
@pytest.mark.parametrize("key", ["scorer.k", "scorer.metric", "dataset.test_share", "evaluation.level"])
def test_a_resolver_in_what_is_used_is_refused_and_not_called(text, key, run):
    crafted(run, key, text)
    line = refusal(run)
    assert line.startswith(f"{key} is {text}")
    assert SECRET not in line


@pytest.mark.parametrize(
    "key", ["logger.name", *(pytest.param(key, marks=pytest.mark.long) for key in ("seed", "trainer.max_epochs"))]
)
def test_a_resolver_in_what_is_not_used_stays_text(key, run):
    crafted(run, key, RESOLVERS[0])
    folder, metrics = evaluate_run(run.path, ["scorer=lof"])
    assert metrics["auroc"] > 0.5
    assert SECRET not in (folder / "config.yaml").read_text()
    assert SECRET not in write_run_report(run.path).read_text()


def test_a_table_of_runs_shows_no_variable_of_its_reader(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "other")
    OmegaConf.save(OmegaConf.create([f"head={RESOLVERS[0]}"]), run.overrides)
    rows = collect(tmp_path)
    assert "${oc.env:METRAD_SECRET}" in str(rows)
    assert SECRET not in str(rows)


def test_the_folder_of_the_data_alone_may_be_a_variable():
    cfg = OmegaConf.create({"paths": {"data": "${oc.env:METRAD_SECRET,x}"}, "other": "${oc.env:METRAD_SECRET,x}"})
    made = OmegaConf.to_container(stored.inert(cfg), resolve=True)
    assert made == {"paths": {"data": SECRET}, "other": "${oc.env:METRAD_SECRET,x}"}
    for text in ("${oc.env:A,${oc.env:METRAD_SECRET}}", "${oc.decode:x}", "${oc.env:METRAD_SECRET}${now:x}"):
        made = OmegaConf.to_container(stored.inert(OmegaConf.create({"paths": {"data": text}})), resolve=True)
        assert made == {"paths": {"data": text}}


def test_references_to_other_settings_are_followed():
    cfg = OmegaConf.create({"a": {"b": 3, "c": "${.b}", "d": "${a.b}/x", "e": "${a}"[:0]}})
    assert OmegaConf.to_container(stored.inert(cfg), resolve=True)["a"] == {"b": 3, "c": 3, "d": "3/x", "e": ""}


@pytest.mark.parametrize(
    ("source", "data", "overrides", "kept"),
    [
        ("${paths.data}", None, [], True),
        ("${paths.data}", "/elsewhere", [], False),
        ("${paths.data}", "/elsewhere", ["paths.data=/mine"], True),
        ("${paths.data}/..", None, [], False),
        ("/elsewhere", None, [], False),
        ("/elsewhere", None, ["dataset.source.root=/mine"], True),
        ("${paths.data}", "${oc.env:METRAD_DATA,/elsewhere}", [], False),
    ],
)
def test_nothing_is_downloaded_to_a_folder_that_the_run_names(source, data, overrides, kept):
    paths = {"data": data or "${oc.env:METRAD_DATA,data}"}
    cfg = OmegaConf.create({"paths": paths, "dataset": {"source": {"root": source, "download": True}}})
    assert stored.confined(cfg, overrides).dataset.source.download is kept


OWN = """
from metrad.scorers import KNN
class Mine(KNN):
    pass
"""


def test_a_run_with_a_class_of_its_makers_own_is_read_at_the_readers_word(tmp_path):
    (tmp_path / "own_scorer.py").write_text(OWN)
    try:
        allowed = ["scorer._target_=own_scorer.Mine", "allow_targets=[own_scorer]"]
        run = trained(tmp_path / "run", *DIGITS, *allowed)
        with pytest.raises(
            InputError, match=r"scorer\._target_=own_scorer\.Mine .* add 'allow_targets=\[own_scorer\]'"
        ):
            evaluate_run(run.path, [])
        assert evaluate_run(run.path, ["allow_targets=[own_scorer]"])[1]["auroc"] > 0.5
    finally:
        sys.modules.pop("own_scorer", None)

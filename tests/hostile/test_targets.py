"""Every callable of every package that is loaded, tried as each part of a run: what has another role is refused.

None is called and nothing is imported while it is tried: Python's audit events would say so.
"""

import builtins
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from omegaconf import OmegaConf

from metrad.detector import targets
from metrad.errors import InputError
from metrad.runs.config import catalogue
from metrad.runs.config.roles import ROLES
from metrad.runs.config.schema import PARTS

PACKAGES = [
    *("metrad", "torch", "torchvision", "pytorch_lightning", "torchmetrics", "sklearn", "faiss", "timm", "joblib"),
    *("pytorch_metric_learning", "hydra", "hydra_plugins", "omegaconf", "lightning_fabric", "lightning_utilities"),
    *("os", "posix", "subprocess", "shutil", "builtins", "pickle", "importlib", "runpy", "pathlib", "tempfile"),
    *("numpy", "scipy", "pandas", "PIL", "yaml", "safetensors", "matplotlib", "pydantic", "typer", "filelock"),
    *("code", "ctypes", "multiprocessing", "socket", "urllib", "http", "webbrowser", "pty", "cProfile", "timeit"),
]
BASES = {
    "head": ("metrad.models.heads.Head",),
    "scorer": ("metrad.scorers.Scorer",),
    "dataset.source": ("metrad.data.sources.Source", "torchvision.datasets.VisionDataset"),
    "augmentation": ("torch.nn.Module",),
    "optimizer": ("torch.optim.Optimizer",),
    "scheduler": ("torch.optim.lr_scheduler.LRScheduler",),
    "trainer": ("pytorch_lightning.Trainer",),
    "logger": ("pytorch_lightning.loggers.Logger",),
}
DOING = ("import", "exec", "open", "subprocess.Popen", "os.", "shutil.", "socket.", "urllib.", "pickle.", "ctypes.")
_watched: list[list[str]] = []


def _note(event: str, _: object) -> None:
    if _watched and event.startswith(DOING):
        _watched[-1].append(event)


sys.addaudithook(_note)  # it cannot be removed, so it does nothing but inside ``watched``


@contextmanager
def watched() -> Iterator[list[str]]:
    """Collect what the process imports, opens, starts or runs."""
    _watched.append([])
    try:
        yield _watched[-1]
    finally:
        _watched.pop()


def resolved(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.fixture(scope="module")
def everything() -> dict[str, object]:
    """Return every callable in the modules of PACKAGES by name; in the modules of a role, by each of its names."""
    for package in (*PACKAGES, *(module for role in ROLES.values() for module in role.modules)):
        try:
            importlib.import_module(package)
        except ImportError:
            assert package.split(".")[0] == "timm"  # optional
    roots = tuple(f"{module}." for role in ROLES.values() for module in role.modules)
    found, seen = {}, set()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PACKAGES and module is not None:
            for key, value in list(vars(module).items()):
                if callable(value) and (id(value) not in seen or f"{name}.".startswith(roots)):
                    found[f"{name}.{key}"] = value
                    seen.add(id(value))
    assert len(found) > 20_000
    return found


def test_the_roles_are_those_of_the_parts():
    assert ROLES.keys() == PARTS.keys() == {*BASES, "backbone"}


@pytest.mark.parametrize("part", PARTS)
def test_only_what_has_the_role_of_a_part_is_accepted_and_nothing_is_called(part, everything):
    role = ROLES[part]
    importlib.import_module("metrad.scorers.head")
    for base in role.bases:
        targets._imported(base)
    accepted = {}
    with watched() as done:
        for name in everything:
            try:
                accepted[name] = targets.located(part, name, role)
            except InputError:
                continue
    assert done == []
    if part == "backbone":
        assert {name.rpartition(".")[2] for name in accepted} == {"convnet", "mobilenet_v2", "torchvision_model"}
        return
    bases = tuple(map(resolved, BASES[part]))
    assert all(isinstance(found, type) and issubclass(found, bases) for found in accepted.values())
    assert all(found is everything[name] for name, found in accepted.items())
    if part == "trainer":
        assert set(accepted.values()) == set(bases)


@pytest.mark.parametrize("part", [part for part in PARTS if part != "dataset.source"])
def test_every_shipped_choice_is_accepted(part):
    nodes = [OmegaConf.load(path) for path in sorted((catalogue.folder() / part).glob("*.yaml"))]
    named = [str(node._target_) for node in nodes if "_target_" in node]
    assert named
    assert all(callable(targets.located(part, name, ROLES[part])) for name in named)


@pytest.mark.parametrize("name", ["LSUN", "LSUNClass"])
def test_a_dataset_that_unpickles_is_refused(name):
    with pytest.raises(InputError, match=r"dataset\.source\._target_"):
        targets.located("dataset.source", f"torchvision.datasets.{name}", ROLES["dataset.source"])


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "target",
    [
        *(
            "never_imported.Head",
            "metrad.models.heads.never.Head",
            "torch.optim.never",
            "antigravity.geohash",
            "this.c",
        ),
        *("", ".", "..", "metrad", "torch.nn.", "a:b", "os:system", "metrad.scorers:Scorer", "\x1b[31m", "x" * 10**6),
        *(None, 3, True, [], {}, ["os.system"], {"_target_": "os.system"}, "метрад.Head", "eval", "__main__.x"),
    ],
)
def test_a_name_that_is_none_is_refused_in_a_short_line_without_an_import(part, target):
    before = set(sys.modules)
    with pytest.raises(InputError) as refused:
        targets.located(part, target, ROLES[part])
    assert len(str(refused.value)) < 500
    assert set(sys.modules) - before == set()


PRIVATE = [{"_args_": ["touch pwned"]}, {"_recursive_": False}, {"_partial_": True}, {"_mode_": 1}, {"_args_": []}]


@pytest.mark.parametrize("private", PRIVATE, ids=str)
def test_a_private_key_is_refused(private):
    with pytest.raises(InputError, match=rf"scorer\.{next(iter(private))} cannot be set"):
        targets.build("scorer", {"_target_": "metrad.scorers.KNN", **private}, ROLES["scorer"])


def nested(inner: object) -> list[dict[str, object]]:
    """Return settings of a scorer in which ``inner`` stands in another place each."""
    places = [inner, [inner], {"a": inner}, {"a": [{"b": [inner]}]}, [[inner]]]
    return [{"_target_": "metrad.scorers.KNN", "k": place} for place in places]


@pytest.mark.parametrize("target", ["os.getpid", "metrad.scorers.KNN", "metrad.models.heads.ArcFace", "torch.nn.ReLU"])
@pytest.mark.parametrize("place", range(5))
def test_a_part_inside_a_part_is_refused_before_anything_is_built(target, place, monkeypatch):
    monkeypatch.setattr("metrad.scorers.KNN.__init__", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(InputError, match="a part inside a part cannot be named here"):
        targets.build("scorer", nested({"_target_": target})[place], ROLES["scorer"])


MNIST = {"_target_": "torchvision.datasets.MNIST", "root": "x"}
JOINED = "metrad.data.joined_sources.JoinedSources"


def test_sources_inside_a_source_are_bound_and_nothing_is_built(monkeypatch):
    monkeypatch.setattr("torchvision.datasets.MNIST.__init__", lambda *_, **__: pytest.fail("it was built"))
    node = {"_target_": JOINED, "sources": {"a": MNIST, "b": {"_target_": JOINED, "sources": {"c": MNIST}}}}
    made = targets.bound("dataset.source", node, ROLES["dataset.source"])
    inner = made.keywords["sources"]
    assert (inner["a"].func.__name__, inner["a"].keywords) == ("MNIST", {"root": "x"})
    assert inner["b"].keywords["sources"]["c"].func.__name__ == "MNIST"


@pytest.mark.parametrize(
    "target", ["os.getpid", "metrad.models.heads.ArcFace", "torchvision.datasets.LSUN", "torch.nn.ReLU"]
)
@pytest.mark.parametrize(
    "place",
    [
        lambda part: {"sources": {"a": part}},
        lambda part: {"sources": {"a": {"_target_": JOINED, "sources": {"b": part}}}},
        lambda part: {"sources": {"a": {**MNIST, "transform": part}}},
    ],
)
def test_what_is_no_source_is_refused_inside_a_source(target, place):
    node = {"_target_": JOINED, **place({"_target_": target})}
    with pytest.raises(InputError, match=r"dataset\.source\.sources\.a.*_target_"):
        targets.bound("dataset.source", node, ROLES["dataset.source"])


@pytest.mark.parametrize(
    "place",
    [
        lambda part: {"sources": [part]},
        lambda part: {"sources": {"a": [part]}},
        lambda part: {"sources": {"a": {"b": part}}},
        lambda part: {"others": {"a": part}},
        lambda part: {"sources": part},
        lambda part: {"sources": {"a": {**MNIST, "transform": part}}},
    ],
)
def test_a_source_elsewhere_inside_a_source_is_refused(place):
    with pytest.raises(InputError, match="a part inside a part cannot be named here"):
        targets.bound("dataset.source", {"_target_": JOINED, **place(MNIST)}, ROLES["dataset.source"])


OWN = """
import os
from subprocess import run
from metrad.scorers import KNN

class Mine(KNN):
    pass

class Other:
    pass

def make():
    return Mine()
"""


@pytest.fixture(name="own")
def own_module(tmp_path, monkeypatch) -> Iterator[str]:
    """Make a package of the user's own that can be imported."""
    (tmp_path / "own_package.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_package"
    sys.modules.pop("own_package", None)


def test_a_class_of_the_users_own_is_imported_only_at_their_word(own):
    with pytest.raises(InputError, match=r"add 'allow_targets=\[own_package\]'"):
        targets.located("scorer", f"{own}.Mine", ROLES["scorer"])
    assert own not in sys.modules
    assert targets.build("scorer", {"_target_": f"{own}.Mine", "k": 3}, ROLES["scorer"], [own]).k == 3


@pytest.mark.parametrize("name", ["os.system", "run", "KNN", "os", "Missing", "Other", "make", "Mine.fit"])
def test_a_package_that_the_user_allows_leads_nowhere_else(name, own):
    with pytest.raises(InputError, match=r"scorer\._target_=own_package"):
        targets.located("scorer", f"{own}.{name}", ROLES["scorer"], [own])


def test_builtins_are_no_parts_even_if_they_are_allowed():
    for name in dir(builtins):
        with pytest.raises(InputError):
            targets.located("scorer", f"builtins.{name}", ROLES["scorer"], ["builtins"])

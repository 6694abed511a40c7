"""A head from outside the repository, one class and one YAML, is found, trained and held to the contract."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from metrad.runs.directory import Run
from tests.helpers.heads import of_the_user

ROOT = Path(__file__).parents[2]
IMPORTS = """\
from torch import Tensor
from metrad.models.heads import CosineHead
"""
SOUND = """
class AdditiveMargin(CosineHead):
    def __init__(self, in_features: int, num_classes: int, *, scale: float = 20.0, margin: float = 0.2) -> None:
        super().__init__(in_features, num_classes, scale=scale)
        self.margin = margin

    def with_margin(self, cosine: Tensor, embeddings: Tensor) -> Tensor:
        return cosine - self.margin
"""
BROKEN = """
class Forgetful(CosineHead):
    def __init__(self, in_features: int, num_classes: int, *, scale: float = 20.0) -> None:
        super().__init__(in_features, num_classes, scale=scale)
        self.growth = 1.0

    def training_logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if self.training:
            self.growth += 0.1
        return self.growth * super().training_logits(embeddings, labels)


class Generous(CosineHead):
    def with_margin(self, cosine: Tensor, embeddings: Tensor) -> Tensor:
        return cosine + 0.2
"""


def own_heads(folder: Path, module: str, classes: str, **names: str) -> Path:
    """Write a module and one YAML for each of its classes below ``folder``; return the folder for --config-dir."""
    (folder / f"{module}.py").write_text(IMPORTS + classes)
    (folder / "conf-folder/head").mkdir(parents=True)
    for name, made in names.items():
        text = f"# a head of my own\n_target_: {module}.{made}\nscale: 20.0\n"
        (folder / f"conf-folder/head/{name}.yaml").write_text(text)
    return folder / "conf-folder"


def contract(folder: Path, conf: Path, which: str = "mine") -> subprocess.CompletedProcess[str]:
    """Hold the heads in ``conf`` whose names have ``mine`` in them to the contract, as a user would."""
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "METRAD_TEST_HEADS": str(conf / "head"), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "tests/contract/models/test_heads.py", "-k", which, "-q"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_head_of_ones_own_is_found_and_trained(metrad, refused, digits, tmp_path, monkeypatch):
    conf = own_heads(tmp_path, "additive_margin", SOUND, mine="AdditiveMargin")
    monkeypatch.syspath_prepend(tmp_path)
    choice = ["--config-dir", str(conf), *digits, "head=mine"]
    refused("train", *choice, words=("head._target_=additive_margin.AdditiveMargin", "allow_targets"))
    refused("train", *choice, "head.margn=0.1", words=("unknown configuration key head.margn; allowed: scale\n",))
    settings = ["head.scale=15", "+head.margin=0.1", "allow_targets=[additive_margin]", "hydra.run.dir=run"]
    result = metrad("train", *choice, *settings)
    assert (result.code, result.err) == (0, "")
    run = Run.finished(tmp_path / "run")
    assert run.metrics.is_file()
    assert (run.path / "head.png").is_file()
    assert "_target_: additive_margin.AdditiveMargin" in run.config.read_text()
    sys.modules.pop("additive_margin")


@pytest.mark.long
@pytest.mark.compiles
def test_a_head_of_ones_own_is_held_to_the_contract(tmp_path):
    answer = contract(tmp_path, own_heads(tmp_path, "sound_head", SOUND, mine="AdditiveMargin"))
    passed = re.search(r"(\d+) passed", answer.stdout)
    assert answer.returncode == 0, answer.stdout
    assert passed is not None
    assert int(passed[1]) > 20


@pytest.mark.long
def test_broken_heads_fail_the_contract(tmp_path):
    conf = own_heads(tmp_path, "broken_heads", BROKEN, mine_forgets="Forgetful", mine_raises="Generous")
    answer = contract(tmp_path, conf, "mine and not compiles")  # the compiler takes seconds
    assert answer.returncode == pytest.ExitCode.TESTS_FAILED
    failed = set(re.findall(r"FAILED tests/contract/models/test_heads\.py::(\w+\[.*mine_\w+)", answer.stdout))
    assert "test_all_state_is_in_the_state_dict[mine_forgets" in failed
    assert "test_the_margin_never_raises_the_true_logit[mine_raises" in failed


@pytest.mark.parametrize(
    ("names", "words"), [([], "is no folder with"), (["arcface"], "names that are taken: arcface")]
)
def test_a_folder_without_heads_or_with_names_that_are_taken_is_a_mistake(names, words, tmp_path, monkeypatch):
    conf = own_heads(tmp_path, "sound_head", SOUND, **dict.fromkeys(names, "AdditiveMargin"))
    monkeypatch.setenv("METRAD_TEST_HEADS", str(conf / "head"))
    with pytest.raises(ValueError, match=words):
        of_the_user()

"""The manuals: complete, quick, and with examples that work."""

import os
import resource
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]
CHOICES = [(path.parent.name, path.stem) for path in sorted(ROOT.glob("conf/*/*.yaml"))]
WITHOUT_TORCH = """
import runpy, sys
try:
    {start}
except SystemExit as ended:
    assert not ended.code, ended.code
assert not {{"torch", "torchvision", "pytorch_lightning", "faiss", "matplotlib"}} & set(sys.modules)
"""
TRAIN_PY = f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
AS_A_MODULE = "runpy.run_module('metrad', run_name='__main__')"
INSTALLED = "from metrad.app.cli import main; main()"


@pytest.mark.parametrize(
    ("start", "arguments", "says"),
    [
        (TRAIN_PY, ["--help"], "Usage: python train.py"),
        (TRAIN_PY, ["-h", "head=nope"], "Usage: python train.py"),
        (INSTALLED, [], "metrad train --help lists every choice and setting."),
        (INSTALLED, ["--help"], "metrad fit GOOD --out RUN"),
        (INSTALLED, ["train", "--help"], "Usage: python train.py"),
        (INSTALLED, ["evaluate", "--help"], "RUN/evaluations"),
        (INSTALLED, ["fit", "--help"], "good images"),
        (INSTALLED, ["compare", "--help"], "auroc, area under the ROC curve"),
        (
            INSTALLED,
            ["plan", "--rate", "0.01", "--parts=500"],
            "1 % with confidence 0.95: cannot be promised; 561 parts can",
        ),
        (INSTALLED, ["predict", "--help"], "--fail-on-anomaly"),
        (INSTALLED, ["--version"], metadata.version("metrad")),
        (AS_A_MODULE, ["compare", "--help"], "auroc, area under the ROC curve"),
        (TRAIN_PY, ["--cfg", "job", "dataset=digits", "head=arcface"], "_target_: metrad.models.heads.ArcFace"),
        (INSTALLED, ["train", "--cfg", "job", "head=arcface"], "_target_: metrad.models.heads.ArcFace"),
    ],
)
def test_manuals_and_configuration_answer_at_once_and_without_torch(start, arguments, says, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", WITHOUT_TORCH.format(start=start), *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert says in answer.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5  # 0.3 s on an idle machine
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_cannot_be_is_refused_in_one_line(refused):
    refused("plan", "--rate=5", words=("--rate must lie between 0 and 1", "such as 0.05"))
    refused("plan", "--confidence=95", words=("--confidence must lie between 0 and 1", "such as 0.95"))
    refused("plan", "--parts=9", words=("--parts must be at least 10", "got 9"))
    refused("plan", "--rate=often", words=("--rate", "valid number"))
    refused("plan", "0.01", words=("0.01",))


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_the_page_of_all_commands_has_examples_and_leaves_the_choices_to_train(arguments, metrad):
    said = metrad(*arguments).out
    assert "Examples:" in said
    assert "metrad train --help lists every choice" in said
    assert "subcenter_arcface" not in said
    assert [name for name in ("train", "fit", "predict", "compare") if f" {name} " not in said] == []
    assert len(said.splitlines()) < 60


def test_the_manual_lists_every_group_and_choice_with_what_it_is(metrad):
    said = metrad("train", "--help").out
    listed: dict[str, dict[str, str]] = {}
    for line in said.splitlines():
        if line.endswith("=") and " " not in line:
            group = listed.setdefault(line[:-1], {})
        elif listed and line.startswith("  ") and not line.startswith("   "):
            name, _, text = line.strip().partition(" ")
            group[name] = text.strip()
    assert {(group, name) for group, name in CHOICES} <= {(group, name) for group in listed for name in listed[group]}
    assert [choice for choice in CHOICES if not listed[choice[0]][choice[1]]] == []
    assert "Examples:" in said
    assert "metrad evaluate RUN" in said


def examples():
    from metrad.app.cli import manual

    lines = [line.strip() for line in manual().split("Examples:")[1].splitlines()]
    return [shlex.split(line.split("   ")[0])[2:] for line in lines if line.startswith("python train.py")]


@pytest.mark.parametrize("example", examples(), ids=" ".join)
def test_the_examples_of_the_manual_compose(example, metrad):
    """Sweeps are composed with the first of their values."""
    single = [item.replace("range(10)", "0") for item in example if item != "-m"]
    single = [item if "[" in item else item.split(",")[0] for item in single]
    answer = metrad("train", *[item for item in single if item not in ("--cfg", "job")], "--cfg", "job")
    assert (answer.code, answer.err) == (0, "")
    cfg = OmegaConf.create(answer.out)
    for item in (item for item in single if "." in item.partition("=")[0]):
        key, _, value = item.partition("=")
        assert str(OmegaConf.select(cfg, key)).strip("[]").replace("'", "") == value.strip("[]")


def test_the_defaults_are_the_articles(metrad):
    default = OmegaConf.create(metadata_free(metrad("train", "--cfg", "job").out))
    article = OmegaConf.create(metadata_free(metrad("train", "experiment=article", "--cfg", "job").out))
    assert default == article
    assert (default.image_size, default.batch_size, default.trainer.max_epochs) == (96, 128, 10)
    assert (default.backbone.weights, default.optimizer.lr, default.optimizer.amsgrad) == ("imagenet", 1e-4, True)
    assert (default.scorer.k, default.scorer.metric) == (1, "cosine")


def metadata_free(text):
    return "\n".join(line for line in text.splitlines() if not line.startswith("experiment"))


def test_metrad_data_moves_the_data(refused, metrad, monkeypatch, tmp_path):
    monkeypatch.setenv("METRAD_DATA", str(tmp_path / "my data"))
    refused("train", "dataset=magnetic_tile", words=(str(tmp_path / "my data/magnetic_tile"),))
    refused("train", "dataset=magnetic_tile", "paths.data=here", words=(str(tmp_path / "here/magnetic_tile"),))
    monkeypatch.delenv("METRAD_DATA")
    assert OmegaConf.create(metrad("train", "--cfg", "job", "--resolve").out).paths.data == "data"


@pytest.mark.parametrize("arguments", [["trian"], ["--nope"], ["evaluate"], ["train", "--nope"], ["train", "--cfg"]])
def test_unknown_commands_and_flags_are_bad_input(arguments, metrad):
    result = metrad(*arguments)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert result.out == ""


def test_train_py_ends_with_code_two_and_one_line(tmp_path):
    command = [sys.executable, ROOT / "train.py", "dataset=magnetic_tile", "trainer.max_epochs=1", "paths.data=nowhere"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert str(tmp_path / "nowhere/magnetic_tile") in answer.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_of_ones_own_adds_choices(metrad, refused, tmp_path):
    mine = tmp_path / "mine/dataset"
    mine.mkdir(parents=True)
    text = (ROOT / "conf/dataset/digits.yaml").read_text().replace('["7"]', '["3"]')
    (mine / "threes.yaml").write_text(text)
    answer = metrad("train", "--config-dir", tmp_path / "mine", "dataset=threes", "--cfg", "job")
    assert OmegaConf.create(answer.out).dataset.normal == ["3"]
    refused("train", "--config-dir", tmp_path / "mine", "dataset=thres", words=("thres", "threes"))
    refused("train", "--config-dir", tmp_path / "nowhere", words=("nowhere",))

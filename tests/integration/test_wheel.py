"""The wheel: works from anywhere without the checkout."""

import filecmp
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
START = "from metrad.app.cli import main; main()"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return the folder the wheel is installed in, inside a git repository that is not metrad's."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("metrad-*.whl")
    target = folder / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(install, check=True, capture_output=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    subprocess.run(["git", *identity, "commit", "--quiet", "--allow-empty", "-m", "x"], cwd=folder, check=True)
    return target


@pytest.fixture
def python(installed, tmp_path):
    def call(code, *arguments):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def test_the_wheel_is_what_is_imported(python, installed):
    answer = python(
        "import metrad, metrad.runs.config.checks; print(metrad.__file__); print(metrad.runs.config.catalogue.folder())"
    )
    assert answer.stdout.splitlines() == [str(installed / "metrad/__init__.py"), str(installed / "metrad/conf")]


def test_it_composes_the_configuration_from_its_own_conf(python, installed):
    answer = python(START, "train", "--cfg", "job", "head=arcface")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "_target_: metrad.models.heads.ArcFace" in answer.stdout
    assert str(installed / "metrad/conf") in python(START, "train", "--info", "searchpath").stdout


def test_its_conf_is_the_checkouts(installed):
    ours, theirs = ROOT / "conf", installed / "metrad/conf"
    names = sorted(path.relative_to(ours) for path in ours.rglob("*.yaml"))
    assert names == sorted(path.relative_to(theirs) for path in theirs.rglob("*.yaml"))
    assert filecmp.cmpfiles(ours, theirs, [str(name) for name in names], shallow=False)[1:] == ([], [])


def test_its_modules_are_the_checkouts(installed):
    ours, theirs = ROOT / "src/metrad", installed / "metrad"
    assert sorted(path.relative_to(ours) for path in ours.rglob("*.py")) == sorted(
        path.relative_to(theirs) for path in theirs.rglob("*.py")
    )
    assert (theirs / "py.typed").is_file()


def test_it_names_no_commit_of_the_repository_it_is_installed_in(python):
    answer = python("from metrad.runs.environment import _git_commit; print(_git_commit())")
    assert (answer.stdout, answer.stderr) == ("None\n", "")


def test_it_holds_every_file_of_the_package_that_is_no_code(installed):
    packed, ours = installed / "metrad", ROOT / "src/metrad"
    others = [path for path in ours.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    names = [str(path.relative_to(ours)) for path in others]
    assert {"reports/page/templates/report.html.j2", "py.typed"} <= set(names)
    assert filecmp.cmpfiles(packed, ours, names, shallow=False)[1:] == ([], [])

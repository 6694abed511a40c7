"""Other Hydra programs in the environment that metrad is installed in: their sweeps are Hydra's own."""

import importlib.util
import json
import subprocess
import sys

import pytest

APP = """
import hydra
@hydra.main(version_base="1.3", config_path=None)
def app(cfg): print("x is", cfg.x)
app()
"""
SCAN = """
import json, sys
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
found = sorted(cls.__name__ for cls in Plugins.instance().discover())
stored = ConfigStore.instance().repo["hydra"]
print(json.dumps({
    "plugins": found,
    "metrad": sorted(name for name in sys.modules if name.split(".")[0] == "metrad"),
    "heavy": sorted({"torch", "pytorch_lightning", "faiss", "numpy", "rich", "typer"} & set(sys.modules)),
    "stored": [name for group in ("launcher", "sweeper") for name, node in stored[group].items()
               if "metrad" in str(node.node) or node.provider == "metrad"],
    "basic": stored["launcher"]["basic.yaml"].provider,
}))
"""


@pytest.fixture
def foreign(tmp_path):
    """Run a Python program in a process of its own, where every warning is an error."""

    def call(program, *arguments):
        (tmp_path / "app.py").write_text(program)
        command = [sys.executable, "-W", "error", tmp_path / "app.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return call


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=basic"]])
def test_a_sweep_of_another_program_is_hydras_own(launcher, foreign, tmp_path):
    answer = foreign(APP, "-m", "+x=1,2", *launcher)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert [line for line in answer.stdout.splitlines() if line.startswith("x is")] == ["x is 1", "x is 2"]
    assert "Launching 2 jobs locally" in answer.stdout
    assert len(list(tmp_path.glob("multirun/*/*/*/.hydra/config.yaml"))) == 2


@pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is not None, reason="Hydra's joblib is installed"
)
@pytest.mark.parametrize("choice", ["launcher=joblib", "launcher=metrad", "sweeper=grids"])
def test_another_program_is_offered_none_of_metrads_choices(choice, foreign):
    answer = foreign(APP, "-m", "+x=1,2", f"hydra/{choice}")
    assert answer.returncode == 1
    assert f"Could not find 'hydra/{choice.replace('=', '/')}'" in answer.stderr
    offered = answer.stderr.partition("Available options in")[2].partition("Config search path")[0].splitlines()[1:]
    assert "basic" in [name.strip() for name in offered]
    assert [name for name in offered if "metrad" in name or "grids" in name or name.strip() == "slurm"] == []


def test_another_programs_search_for_plugins_loads_little_of_metrad_and_stores_nothing(foreign):
    answer = foreign(SCAN)
    assert (answer.returncode, answer.stderr) == (0, "")
    found = json.loads(answer.stdout)
    assert {"GridSweeper", "SlurmLauncher", "SweepLauncher"} <= set(found.pop("plugins"))
    assert found == {"metrad": [], "heavy": [], "stored": [], "basic": "hydra"}


def test_another_program_that_asks_for_metrads_launcher_is_told_what_it_is_for(foreign):
    target = "++hydra.launcher._target_=hydra_plugins.metrad_launcher.SweepLauncher"
    answer = foreign(APP, "-m", "+x=1,2", target)
    assert answer.returncode == 1
    assert "this launcher only makes runs of metrad; choose hydra/launcher=basic" in answer.stderr


@pytest.mark.parametrize(
    ("chosen", "jobs"),
    [
        ([], 1),
        (["hydra/launcher=basic"], 1),
        (["hydra/launcher=joblib"], None),
        (["hydra/launcher=metrad_parallel"], None),
    ],
)
def test_inside_metrad_basic_and_joblib_are_its_own(chosen, jobs, metrad):
    from omegaconf import OmegaConf

    answer = metrad("train", *chosen, "--cfg", "hydra", "-p", "hydra.launcher")
    assert (answer.code, answer.err) == (0, "")
    assert OmegaConf.create(answer.out) == {
        "_target_": "hydra_plugins.metrad_launcher.SweepLauncher",
        "n_jobs": jobs,
        "jobs_per_gpu": 1,
    }

"""The run directory: the only owner of its file names."""

import contextlib
import csv
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from metrad.errors import InputError

PACKAGES = (
    *("faiss-cpu", "hydra-core", "metrad", "numpy", "omegaconf", "pillow", "pytorch-lightning", "scikit-learn"),
    *("torch", "torchmetrics", "torchvision"),
)

SPLIT_KEYS = {"hash", "classes", "head_classes", "copies_left_out", "corrupt_left_out", "images"}


class Run:
    """A directory that holds one trained model and all that is known of it.

    Each file is written under a temporary name and renamed, and ``status.json`` says ``finished`` only when all the
    others are there, so a killed run never looks finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / ".hydra" / "config.yaml"
        self.overrides = self.config.with_name("overrides.yaml")
        self.metrics = self.path / "metrics.json"
        self.scores = self.path / "scores.csv"
        self.split = self.path / "split.json"
        self.environment = self.path / "environment.json"
        self.status = self.path / "status.json"
        self.log = self.path / "run.log"
        self.logs = self.path / "logs"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.embedder = self.model / "embedder.safetensors"
        self.head = self.model / "head.safetensors"
        self.calibration = self.model / "calibration.safetensors"
        self.embeddings = self.path / "embeddings"
        self.pictures = {name: self.path / f"{name}.png" for name in ("roc", "scores", "neighbours", "hardest", "head")}
        self.evaluations = self.path / "evaluations"

    @classmethod
    def finished(cls, path: str | Path) -> "Run":
        """Open the directory of a finished run.

        Raises:
            InputError: it is no run directory, or the run did not finish.
        """
        run = cls(path)
        if not run.status.is_file() or not run.config.is_file():
            raise InputError(f"{path} is not a run directory: it has no status.json and .hydra/config.yaml")
        status = read_json(run.status)
        unknown = "in a state that status.json does not tell"
        state = status.get("state", unknown) if isinstance(status, dict) else unknown
        if state != "finished":
            advice = f"go on with ckpt_path={run.last_checkpoint}" if run.last_checkpoint.exists() else "train it again"
            raise InputError(f"{path} holds a run that is {state}, not finished; {advice}")
        return run

    @property
    def last_checkpoint(self) -> Path:
        """Where training can go on from."""
        return self.checkpoints / "last.ckpt"

    def claim(self) -> None:
        """Make the directory this run's own.

        Raises:
            InputError: there is a run in it already.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        own = (self.config.parent, self.metrics, self.scores, self.split, self.environment, self.log, self.logs)
        taken = [
            path.name
            for path in (*own, self.checkpoints, self.model, self.embeddings, *self.pictures.values())
            if path.exists()
        ]
        if taken and not self.status.exists():
            raise InputError(f"{self.path} holds {', '.join(taken)} already; choose another directory")
        try:
            with self.status.open("x", encoding="utf-8") as file:
                json.dump({"state": "running", "pid": os.getpid(), "started": _now()}, file, indent=2)
        except FileExistsError as error:
            raise InputError(f"{self.path} holds a run already; choose another directory with hydra.run.dir") from error

    @contextlib.contextmanager
    def recorded(self, *, keep_refused: bool) -> Iterator[None]:
        """Write what is logged to the run's log, and to its status how it ended.

        Args:
            keep_refused: leave a record of a run whose settings were refused before training began; otherwise the
                directory is removed.
        """
        handler = logging.FileHandler(self.log, encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger = logging.getLogger("metrad")
        logger.addHandler(handler)
        refused = False
        try:
            yield
        except BaseException as error:
            # To the file alone: the terminal gets one line.
            handler.handle(logger.makeRecord("metrad", logging.ERROR, "", 0, "failed", (), sys.exc_info()))
            refused = isinstance(error, InputError | OSError) and not keep_refused and not self.checkpoints.exists()
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            self._end("interrupted" if stopped else "failed", str(error) or type(error).__name__)
            raise
        else:
            self._end("finished")
        finally:
            logger.removeHandler(handler)
            handler.close()
            if refused:
                self._discard()

    def _end(self, state: str, error: str | None = None) -> None:
        started = read_json(self.status)["started"]
        reason = {} if error is None else {"error": " ".join(error.split())}
        write_json(self.status, {"state": state, "started": started, "ended": _now()} | reason)

    def _discard(self) -> None:
        for folder in (self.config.parent, self.logs):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (self.status, self.log, self.split, self.environment):
            path.unlink(missing_ok=True)
        self.remove_if_empty()

    def remove_if_empty(self) -> None:
        """Remove the directory if nothing is in it."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def save_config(self, cfg: DictConfig, hydra: DictConfig, overrides: list[str]) -> None:
        """Write the configuration as Hydra would, in ``.hydra``."""
        self.config.parent.mkdir(parents=True, exist_ok=True)
        for name, content in (("hydra", hydra), ("overrides", OmegaConf.create(overrides)), ("config", cfg)):
            with replacing(self.config.with_name(f"{name}.yaml")) as partial:
                OmegaConf.save(content, partial)

    def load_config(self) -> DictConfig:
        """Return the configuration the run was made with.

        Raises:
            InputError: it cannot be read.
        """
        try:
            cfg = OmegaConf.load(self.config)
        except (OSError, ValueError, YAMLError) as error:
            raise InputError(f"{self.config} cannot be read ({' '.join(str(error).split())})") from error
        if not isinstance(cfg, DictConfig):
            raise InputError(f"{self.config} holds no configuration")
        return cfg

    def saved_split(self) -> dict[str, Any]:
        """Return what ``split.json`` holds.

        Raises:
            InputError: it cannot be read or lacks something.
        """
        split = read_json(self.split)
        if not isinstance(split, dict) or not split.keys() >= SPLIT_KEYS:
            raise InputError(f"{self.split} holds no split of a run")
        return split


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, and put it in the place of ``path`` if all went well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON, all or nothing."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``rows``, which share their keys, as CSV, all or nothing."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({str(error).splitlines()[0]})") from error


def environment(device: str, precision: str) -> dict[str, Any]:
    """Return what a reader needs to judge whether two runs were made alike."""
    import torch

    return {
        "device": device,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "git_commit": _git_commit(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _git_commit() -> str | None:
    """Return the commit of the checkout that metrad runs from, with + if it was changed; None if it is installed."""
    here = Path(__file__).parent
    try:
        tracked = ["git", "ls-files", "--error-unmatch", Path(__file__).name]
        subprocess.run(tracked, cwd=here, capture_output=True, check=True)  # noqa: S603
        describe = ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
        result = subprocess.run(describe, cwd=here, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

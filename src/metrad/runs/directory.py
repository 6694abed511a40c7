"""The run directory; no other module defines its file names."""

import contextlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from metrad.detector.located import MODEL, STATUS
from metrad.errors import DivergedError, HeldError, InputError, WriteError, told_to_stop
from metrad.files import (
    json_bytes,
    json_of,
    overwrite_json,
    read_bytes,
    read_json,
    remove,
    replacing,
    require_inside,
    sha256,
    write_all,
    write_json,
    writing,
)
from metrad.quoting import setting
from metrad.runs import contents, manifest, pictures
from metrad.runs.saved import config_of, made_by_metrad
from metrad.terminal import Formatter, hide

STATES = ("running", "interrupted", "failed", "finished")
PROMISED = "manifest"  # entry of status.json: the run has a manifest
REFUSED = "refused"  # entry of status.json: the run failed before training, for its settings or images


class _RunLog(logging.FileHandler):
    """The file of a run's log. What it cannot write is an error of the run and not a traceback for each line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 # logging's name
        """Raise the error that is being handled."""
        raise  # noqa: PLE0704 # called while it is handled


class Run:
    """The directory of one run: its trained model, metrics, plots, tables and logs.

    Each file is written under a temporary name and renamed. ``status.json`` says ``finished`` only after all other
    files are written, so a killed run never looks finished. The training process holds the lock ``.lock``, which the
    operating system releases when the process dies.

    A finished run has a manifest, ``manifest.json``, with the checksum of each file that something reads; ``read``
    verifies it. The folders ``model`` and ``embeddings`` have their own, and the checkpoint ends with its checksum.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / ".hydra" / "config.yaml"
        self.asked = self.config.with_name("asked.yaml")
        self.overrides = self.config.with_name("overrides.yaml")
        self.metrics = self.path / "metrics.json"
        self.scores = self.path / "scores.csv"
        self.properties = self.path / "properties.csv"
        self.unusual = self.path / "unusual.csv"
        self.envelope = self.path / "envelope.json"
        self.split = self.path / "split.json"
        self.environment = self.path / "environment.json"
        self.epochs = self.path / "epochs.csv"
        self.study = self.path / "study.csv"
        self.good_images = self.path / "good_images.csv"
        self.selection = self.path / "selection"
        self.selection_table = self.path / "selection.csv"
        self.status = self.path / STATUS
        self.lock = self.path / ".lock"
        self.manifest = self.path / manifest.NAME
        self.log = self.path / "run.log"
        self.logs = self.path / "logs"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / MODEL
        self.embedder = self.model / "embedder.safetensors"
        self.head = self.model / "head.safetensors"
        self.calibration = self.model / "calibration.safetensors"
        self.embeddings = self.path / "embeddings"
        self.pictures = {picture.name: self.path / f"{picture.name}.png" for picture in pictures.PICTURES}
        self.evaluations = self.path / "evaluations"
        self._own_lock = False

    @classmethod
    def finished(cls, path: str | Path) -> "Run":
        """Open the directory of a finished run.

        Raises:
            InputError: ``path`` is not a run directory, the run has not finished, or its manifest or status changed.
        """
        run = cls(path)
        if not os.path.lexists(run.status) or not os.path.lexists(run.config):
            missing = (
                "it has no status.json and .hydra/config.yaml" if Path(path).is_dir() else "there is no such folder"
            )
            raise InputError(
                f"{path} is not a run directory: {missing}; give the folder of a run, such as outputs/TIME-…"
            )
        read_json(run.status)
        if run.state != "finished":
            state = "in an unknown state" if run.state == "new" else run.state
            raise InputError(f"{path} holds a run that is {state}, not finished; {run.way_on()}")
        run.read(run.status)
        return run

    def way_on(self) -> str:
        """Return the advice on how an unfinished run comes to its end."""
        if self.state == "running":
            return "wait for its end"
        if self.noted().get("diverged"):
            return "it diverged: train it again with a lower optimizer.lr or with trainer.gradient_clip_val=1"
        if self.last_checkpoint.exists():
            return f"go on with {setting('ckpt_path', self.last_checkpoint)}"
        return "train it again"

    @property
    def verified(self) -> bool:
        """Whether a manifest protects the files; a run from before version 0.2 has none and is read unverified."""
        return self._listed() is not None

    def has(self, path: Path) -> bool:
        """Return whether the run has the file at ``path``: it exists, or the manifest lists it."""
        return os.path.lexists(path) or self._name(path) in (self._listed() or {})

    def read(self, path: Path) -> bytes:
        """Return the content of a file of the run, verified if the run has a manifest.

        Raises:
            InputError: the file is missing, no regular file or outside the run, the manifest is missing or broken, or
                the file is not as the manifest lists it.
        """
        require_inside(self.path, path)
        data, listed = read_bytes(path), self._listed()
        if listed is not None:
            manifest.require(path, data, listed.get(self._name(path)))
        return data

    def read_json(self, path: Path) -> Any:
        """Return the content of a JSON file of the run; see ``read``."""
        return json_of(self.read(path), path)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _listed(self) -> dict[str, str] | None:
        """Return the checksums in the manifest by file name; None for a run that was made without a manifest.

        Raises:
            InputError: the manifest is broken, or is missing though ``status.json`` says that the run has one.
        """
        if not os.path.lexists(self.manifest) and PROMISED not in self.noted():
            return None
        require_inside(self.path, self.manifest)
        return manifest.listed(self.manifest)

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint that training can continue from."""
        return self.checkpoints / "last.ckpt"

    @property
    def state(self) -> str:
        """State of the run: new, running, interrupted, failed or finished.

        If ``status.json`` says ``running`` but no process holds the lock, the run was killed and counts as interrupted.
        """
        state = self.noted().get("state")
        if state not in STATES:
            return "new"
        return "interrupted" if state == "running" and not self.is_held() else str(state)

    def noted(self) -> dict[str, Any]:
        """Return the content of ``status.json``; empty if the file is missing or damaged."""
        try:
            return contents.status(read_json(self.status), self.status)
        except InputError:
            return {}

    def measured(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``.

        Raises:
            InputError: the file cannot be read, has changed or does not hold metrics.
        """
        return contents.metrics(self.read_json(self.metrics), self.metrics)

    def shown(self) -> dict[str, Any]:
        """Return the content of ``metrics.json`` with all that a report shows; see ``measured``."""
        return contents.complete(self.read_json(self.metrics), self.metrics)

    def figures(self) -> dict[str, Any] | None:
        """Return the content of ``metrics.json``; None if it holds no metrics, as after a crash of the machine."""
        try:
            metrics = self.measured()
        except InputError:
            return None
        return metrics if "auroc" in metrics else None

    def enveloped(self) -> dict[str, Any]:
        """Return the content of ``envelope.json``.

        Raises:
            InputError: the file cannot be read, has changed or does not hold an envelope.
        """
        return contents.envelope(self.read_json(self.envelope), self.envelope)

    def note(self, **entries: Any) -> None:
        """Add ``entries`` to ``status.json``."""
        write_json(self.status, {**self.noted(), **entries})

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock, so that no other process trains this run.

        Raises:
            HeldError: another process is training it.
            WriteError: the directory cannot be written to.
        """
        lock = FileLock(self.lock)
        try:
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=1)  # is_held in another process takes the lock for an instant
        except Timeout as error:
            raise HeldError(f"{self.path} is being trained by another process") from error
        self._own_lock = True
        try:
            yield
        finally:
            self._own_lock = False
            lock.release()

    def is_held(self) -> bool:
        """Return whether another living process holds the lock."""
        if self._own_lock or not self.lock.is_file() or self.lock.is_symlink():
            return False
        try:
            with FileLock(self.lock, timeout=0):
                return False
        except OSError:  # it is held, or this process may not open it
            return True

    def claim(self, **entries: Any) -> None:
        """Begin a run in a directory that must not hold one, with ``entries`` for ``status.json``.

        Raises:
            InputError: the directory already holds a run, or files named like a run's.
        """
        taken = [path.name for path in self._own() if path.exists()]
        if self.status.exists():
            raise InputError(f"{self.path} holds a run already; choose another directory with hydra.run.dir")
        if taken:
            raise InputError(f"{self.path} holds {', '.join(taken)} already; choose another directory")
        self.begin(**entries)

    def begin(self, **entries: Any) -> None:
        """Write a new ``status.json`` that says ``running``, with ``entries``."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.status, {"state": "running", "pid": os.getpid(), "started": _now(), **entries})

    def require_own(self) -> None:
        """Raise ``InputError`` if the directory holds files named like a run's that metrad did not write.

        A sweep removes the files of an earlier attempt, and must not remove those of somebody else.
        """
        taken = [path.name for path in (*self._own(), self.status) if os.path.lexists(path)]
        if taken and not self._is_metrads():
            raise InputError(
                f"{self.path} holds {', '.join(taken)}, and nothing there says that metrad wrote them; choose another "
                "folder with hydra.sweep.dir and hydra.sweep.subdir, or move them away"
            )

    def _is_metrads(self) -> bool:
        """Return whether the status, the manifest or Hydra's saved configuration is one that metrad writes."""
        noted = self.noted()
        if noted.get("state") in STATES and re.fullmatch(r"[0-9a-f]{32}", str(noted.get("identity"))):
            return True  # other programs keep a status.json too, but not with the identity of a run
        with contextlib.suppress(InputError):
            return bool(manifest.listed(self.manifest))
        return made_by_metrad(self.config.with_name("hydra.yaml"))

    def clear(self, *, keep_training: bool, keep_selection: bool = False) -> None:
        """Remove the files of an earlier attempt, links as links.

        Args:
            keep_training: keep the checkpoints, the split and the log.
            keep_selection: keep the results of the selection and the log.
        """
        kept = [self.checkpoints] * keep_training + [self.selection] * keep_selection
        kept += [self.split] * keep_training
        kept += [self.log] * (keep_training or keep_selection)
        own = (*self._own(), self.status)
        folders = [folder for folder in (self.checkpoints, self.selection) if not folder.is_symlink()]
        inside = [part for folder in folders for part in folder.glob(".*.partial*")]
        beside = [part for path in own for part in self.path.glob(f".{path.name}.*.partial*")]
        for path in (*inside, *beside, *own):
            if path not in kept:
                remove(path)

    def _own(self) -> tuple[Path, ...]:
        tables = (self.scores, self.properties, self.unusual, self.epochs, self.study, self.selection_table)
        files = (self.metrics, self.split, self.environment, self.log, self.manifest, self.envelope)
        folders = (self.config.parent, self.logs, self.checkpoints, self.model, self.embeddings, self.evaluations)
        return (*folders, self.selection, *tables, *files, *self.pictures.values())

    @contextlib.contextmanager
    def recorded(self, *, keep_refused: bool, secrets: Mapping[str, str] | None = None) -> Iterator[None]:
        """Write log records to the run's log, and the outcome of the run to its status.

        Args:
            secrets: what to write in place of secret values.
            keep_refused: keep the directory of a run whose settings were refused before training began; otherwise it
                is removed.
        """
        handler = _RunLog(self.log, encoding="utf-8", delay=True)
        formatter = Formatter("%(asctime)s %(message)s")
        formatter.secrets = secrets or {}
        handler.setFormatter(formatter)
        logger = logging.getLogger("metrad")
        logger.addHandler(handler)
        refused = False
        try:
            with writing(self.path):
                yield
                self._end("finished")
        except BaseException as error:
            stopped = told_to_stop(error)
            # The traceback goes only to the file; the terminal gets one line.
            with contextlib.suppress(OSError):  # the disk may be full
                ended = (stopped[0], (), None) if stopped else ("failed", (), sys.exc_info())
                handler.handle(logger.makeRecord("metrad", logging.ERROR, "", 0, *ended))
            refusable = isinstance(error, InputError | OSError) and not isinstance(error, WriteError)
            refused = refusable and not keep_refused and not self.checkpoints.exists()
            reason = stopped[0] if stopped else str(error) or type(error).__name__
            marks = {"diverged": True} if isinstance(error, DivergedError) else {}
            if isinstance(error, InputError) and not self.checkpoints.exists():
                marks[REFUSED] = True
            self._end("interrupted" if stopped else "failed", hide(reason, formatter.secrets), **marks)
            raise
        finally:
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # it tries once more to write what it could not
                handler.close()
            if refused:
                self._discard()

    def _end(self, state: str, error: str | None = None, **entries: Any) -> None:
        kept = {key: value for key, value in self.noted().items() if key in ("identity", "started", "tracked")}
        reason = {} if error is None else {"error": " ".join(error.split())}
        content: dict[str, Any] = {**kept, "state": state, "ended": _now(), **reason, **entries}
        if state == "finished":
            content[PROMISED] = manifest.FORMAT
            self._seal(content)
        try:
            write_json(self.status, content)
        except OSError:
            if state == "finished":
                raise
            with contextlib.suppress(OSError):  # the error that ended the run is raised
                overwrite_json(self.status, content)

    def _seal(self, status: dict[str, Any]) -> None:
        """Write the manifest of a run that is about to get its final ``status``."""
        tables = (self.scores, self.properties, self.unusual, self.epochs, self.study, self.selection_table)
        files = (self.metrics, self.split, self.environment, *self.pictures.values(), self.model / "detector.json")
        there = [path for path in (*sorted(self.config.parent.glob("*.yaml")), *tables, *files) if path.is_file()]
        manifest.write(self.manifest, there, {self.status.name: json_bytes(status)})

    def add(self, contents: Mapping[Path, Any]) -> None:
        """Write files into the directory of a finished run, and list them in its manifest if it has one.

        All of them are written before the first is put in its place, so that none is left half-written. A file of the
        same name is replaced.

        Args:
            contents: content by path, as for ``files.write_all``.

        Raises:
            InputError: the manifest is broken, or a path leads out of the run.
            WriteError: a file cannot be written.
        """
        listed = self._listed()
        with contextlib.ExitStack() as stack:
            digests = {}
            for path, content in contents.items():
                require_inside(self.path, path)
                partial = stack.enter_context(replacing(path))
                write_all({partial: content})
                digests[self._name(path)] = sha256(partial)
            if listed is not None:
                manifest.save(self.manifest, {**listed, **digests})

    def _discard(self) -> None:
        self.clear(keep_training=False)
        self.remove_if_empty()

    def remove_if_empty(self) -> None:
        """Remove the directory if it holds nothing but its lock and no other process holds the lock."""
        if self.is_held():
            return
        with contextlib.suppress(OSError):
            if not any(path != self.lock for path in self.path.glob("*")):
                self.lock.unlink(missing_ok=True)
            self.path.rmdir()

    def save_config(self, cfg: DictConfig, hydra: DictConfig) -> None:
        """Write ``cfg`` and Hydra's own configuration into ``.hydra``, as Hydra would."""
        overrides = OmegaConf.to_container(hydra.hydra.overrides.task)  # unresolved: ${oc.env:NAME} may be a secret
        self.config.parent.mkdir(parents=True, exist_ok=True)
        for name, content in (("hydra", hydra), ("overrides", OmegaConf.create(overrides)), ("config", cfg)):
            with replacing(self.config.with_name(f"{name}.yaml")) as partial:
                OmegaConf.save(content, partial)

    def save_choice(self, cfg: DictConfig) -> None:
        """Replace the saved configuration by ``cfg``, with a selection's choice, and keep the original beside it."""
        if not self.asked.exists():
            with replacing(self.asked) as partial:
                shutil.copyfile(self.config, partial)
        with replacing(self.config) as partial:
            OmegaConf.save(cfg, partial)

    def load_config(self) -> DictConfig:
        """Return the configuration that the run was made with.

        Raises:
            InputError: the configuration cannot be read.
        """
        return self._config(self.config)

    def asked_config(self) -> DictConfig:
        """Return the requested configuration, without the choice of a selection.

        Raises:
            InputError: the configuration cannot be read.
        """
        return self._config(self.asked if self.has(self.asked) else self.config)

    def _config(self, path: Path) -> DictConfig:
        return config_of(self.read(path), path)

    def saved_split(self) -> dict[str, Any]:
        """Return the content of ``split.json``.

        Raises:
            InputError: the file cannot be read or lacks an entry.
        """
        return contents.split(self.read_json(self.split), self.split)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""A crafted or torn run directory: never a hang, unbounded growth, a traceback, or another result."""

import json
import os
import random
import re
import resource
import shutil
import socket
import struct
import zipfile

import faiss
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.numpy import load_file, save_file

from metrad.errors import InputError
from metrad.runs.config.stored import inert
from metrad.runs.directory import Run
from metrad.runs.saved import config_of, read_yaml
from metrad.training.checkpoints import WholeCheckpoints, read_checkpoint
from tests.helpers.commands import demo
from tests.helpers.stored import JOBS, REFUSED, compared, edited, evaluated, limited, outcome, reported, resealed

READ = {  # the files of a run, and the jobs that read them
    ".hydra/config.yaml": ("evaluate", "report", "compare"),
    ".hydra/hydra.yaml": ("compare",),
    ".hydra/overrides.yaml": ("compare",),
    "checkpoints/last.ckpt": ("resume",),
    "embeddings/checksums.json": ("evaluate",),
    "embeddings/embeddings.safetensors": ("evaluate",),
    "embeddings/images.csv": ("evaluate",),
    "environment.json": ("report", "compare"),
    "epochs.csv": ("report",),
    "hardest.png": ("report",),
    "manifest.json": ("evaluate", "report", "compare"),
    "metrics.json": ("report", "compare"),
    "model/calibration.safetensors": ("evaluate",),
    "model/detector.json": ("evaluate",),
    "model/embedder.safetensors": ("evaluate",),
    "model/fitted.safetensors": ("evaluate",),
    "model/head.safetensors": ("evaluate",),
    "model/index.faiss": ("evaluate",),
    "model/normal.json": ("evaluate",),
    "model/scorer.json": ("evaluate",),
    "model/scorer.safetensors": ("evaluate",),
    "properties.csv": ("evaluate",),
    "scores.csv": ("report",),
    "split.json": ("evaluate",),
    "status.json": ("evaluate", "report", "compare"),
}
UNUSED = {"model/embedder.safetensors", "model/head.safetensors"}  # checked by every evaluation, loaded by few
UNREAD = {
    ".lock",
    "head.png",
    "logs/hparams.yaml",
    "logs/metrics.csv",
    "neighbours.png",
    "roc.png",
    "run.log",
    "scores.png",
}


@pytest.fixture(scope="session")
def pristine(once):
    """Return a finished run in a sweep of two, made once."""

    def make(folder):
        source = Run(once("finished", demo) / "run")
        run, other = (Run(shutil.copytree(source.path, folder / "sweep" / name)) for name in ("run", "other"))
        cfg = other.load_config()
        cfg.head = {"_target_": "metrad.models.heads.ArcFace", "margin": 0.1, "scale": 8.0}
        OmegaConf.save(cfg, other.config)
        choices = read_yaml(other.config.with_name("hydra.yaml"))
        choices.hydra.runtime.choices.head = "arcface"
        OmegaConf.save(choices, other.config.with_name("hydra.yaml"))
        resealed(other)
        assert run.verified

    return once("stored", make) / "sweep"


@pytest.fixture
def run(pristine, tmp_path):
    return Run(shutil.copytree(pristine, tmp_path / "sweep") / "run")


def test_every_file_of_a_run_is_one_that_is_read_and_checked_or_never_read(run):
    found = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    assert found == READ.keys() | UNREAD


# Instead of a file


def _link(target):
    return lambda path: path.symlink_to(target)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def _holes(path):
    with path.open("wb") as file:
        file.truncate(2**42)


INSTEAD = {
    "nothing": lambda path: None,
    "FIFO": os.mkfifo,
    "socket": _socket,
    "folder": lambda path: path.mkdir(),
    "device without end": _link("/dev/zero"),
    "file outside": _link("/etc/hostname"),
    "link to itself": lambda path: path.symlink_to(path),
    "four terabytes of holes": _holes,
}


def _long_but(names, quick):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.long) for name in names]


@pytest.mark.parametrize("instead", _long_but(INSTEAD, ["FIFO", "device without end"]))
def test_no_file_can_be_something_else(instead, run):
    for name, jobs in READ.items():
        path = run.path / name
        kept = path.rename(run.path.parent / "kept")
        INSTEAD[instead](path)
        if not (instead == "nothing" and path.suffix == ".png"):  # pictures may be deleted
            for job in jobs:
                assert outcome(JOBS[job], run) == REFUSED, (name, job)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        kept.rename(path)


@pytest.mark.parametrize("name", [".hydra", "model", "embeddings"])
def test_no_folder_of_a_run_can_lead_out_of_it(name, run):
    (run.path / name).rename(run.path.parent.parent / "elsewhere")
    (run.path / name).symlink_to(run.path.parent.parent / "elsewhere")
    assert outcome(evaluated, run) == REFUSED


# Other bytes, with checksums made anew

BYTES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "doubled": lambda data: data + data,
    "random": lambda data: random.Random(0).randbytes(300),
    "UTF-16": lambda data: data.decode("latin-1").encode("utf-16"),
    "null bytes": lambda data: bytes(len(data)),
    "deep list": lambda data: b"[" * 100_000,
    "deep and whole": lambda data: b"[" * 900 + b"]" * 900,
    "deep mapping": lambda data: b'{"a":' * 900 + b"1" + b"}" * 900,
    "long number": lambda data: b"9" * 100_000,
    "huge number": lambda data: b'{"auroc": 1e999, "epoch": 1e999}',
    "NaN": lambda data: b'{"auroc": NaN, "state": NaN}',
    "lone surrogate": lambda data: b'{"state": "\\ud800", "auroc": 0.5, "split": "\\ud800"}',
    "number": lambda data: b"1",
    "text": lambda data: b'"a"',
    "null": lambda data: b"null",
    "list": lambda data: b"[1, null, {}]",
    "mapping": lambda data: b'{"a": {"b": [1]}}',
    "columns": lambda data: b"epoch,score,role\n1\n2,3\n",
    "longer rows": lambda data: b"epoch\n1,2,3\n",
    "open quote": lambda data: b'"epoch\n1',
    "safetensors of a long header": lambda data: struct.pack("<Q", 2**62) + data,
    "safetensors of a deep header": lambda data: struct.pack("<Q", 90_000) + b"[" * 90_000,
}


@pytest.mark.parametrize("change", _long_but(BYTES, ["deep list"]))
def test_other_bytes_are_never_a_traceback_even_under_right_checksums(change, run):
    pictures = [name for name in READ if name.endswith(".png")]
    whole = {"evaluate": evaluated(run)}
    for name, jobs in READ.items():
        path, data = run.path / name, (run.path / name).read_bytes()
        manifest = run.manifest.read_bytes()
        path.write_bytes(BYTES[change](data))
        if name != "manifest.json":
            resealed(run)
        for job in jobs:
            found = outcome(JOBS[job], run)
            may_pass = name in (
                *pictures,
                ".hydra/overrides.yaml",
                ".hydra/hydra.yaml",
                ".hydra/config.yaml",
                "environment.json",
            )
            assert found == REFUSED or may_pass or (name in UNUSED and found == whole[job]), (name, job)
        path.write_bytes(data)
        run.manifest.write_bytes(manifest)
        resealed(run)


# YAML that stands for far more than it holds

BOMBS = {
    "aliases": "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(9)),
    "a circle of aliases": "a: &a [*a]\n",
    "texts that double": "a0: xxxxxxxxxx\n" + "".join(f"a{i}: '${{a{i - 1}}}${{a{i - 1}}}'\n" for i in range(1, 60)),
    "mappings that double": "a0: {x: 1}\n"
    + "".join(f"a{i}: {{x: '${{a{i - 1}}}', y: '${{a{i - 1}}}'}}\n" for i in range(1, 60)),
    "relative names that double": "n:\n  a0: x\n"
    + "".join(f"  a{i}: '${{.a{i - 1}}}${{.a{i - 1}}}'\n" for i in range(1, 60)),
    "a circle": "a: ${b}\nb: ${a}\n",
    "its own parent": "a: {x: '${a}'}\n",
    "a deep mapping": "".join(f"{' ' * i}a:\n" for i in range(500)),
    "a million values": "a: [" + "1," * 1_000_000 + "]",
    "a tag of Python": "a: !!python/object/apply:os.system ['true']\n",
    "a long interpolation": "a: '" + "${" * 50_000 + "'",
    "two documents": "a: 1\n---\na: 2\n",
    "an open quote": "a: 'b",
    "a number in base 60": "seed: 1:30\n",
    "a key in base 60": "1:30: a\n",
    "a number as name of a setting": "seed: 1\n90: a\n",
    "a number as name of an argument": "scorer: {_target_: metrad.scorers.KNN, 90: a}\n",
    "a truth value as name of an argument": "dataset: {source: {true: a}}\n",
    "a duplicate": "a: 1\na: 2\n",
    "a number of a million digits": "a: " + "9" * 900_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_yaml_stands_for_no_more_than_it_should(bomb, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(BOMBS[bomb])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with limited(20), pytest.raises(InputError, match=r"config\.yaml"):
        config_of(path.read_bytes(), path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_interpolations_other_than_plain_references_stay_text_and_double_nothing(tmp_path):
    doubled = "".join(f"a{i}: '${{oc.select:a{i - 1}}}${{oc.select:a{i - 1}}}'\n" for i in range(1, 60))
    text = f"a0: xx\nc: x\nb: ${{a0.${{c}}}}\n{doubled}"
    with limited(20):
        found = OmegaConf.to_container(inert(config_of(text.encode(), tmp_path / "config.yaml")), resolve=True)
    assert found["b"] == "${a0.${c}}"
    assert found["a59"] == "${oc.select:a58}${oc.select:a58}"


def test_a_configuration_as_metrad_saves_it_is_read_unchanged(run):
    assert run.load_config() == OmegaConf.load(run.config)
    assert OmegaConf.to_yaml(run.load_config()) == run.config.read_text()


# Wrong values under right checksums


def _set(*keys, to):
    def change(content):
        node = content
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = to

    return change


WRONG = {
    "a text as metric": ("metrics.json", _set("auroc", to="0.9"), reported),
    "a metric above 1": ("metrics.json", _set("auroc", to=1e308), reported),
    "another metric": ("metrics.json", _set("auroc", to=0.123), reported),
    "a boolean metric": ("metrics.json", _set("auroc", to=True), compared),
    "thresholds that are no list": ("metrics.json", _set("thresholds", to={"a": 1}), reported),
    "an interval of three": ("metrics.json", _set("intervals", "auroc_delong", to=[0, 1, 2]), reported),
    "an interval upside down": ("metrics.json", _set("intervals", "auroc_delong", to=[1.0, 0.0]), reported),
    "an interval beyond 1": ("metrics.json", _set("intervals", "bootstrap", "auroc", to=[0.5, 2.0]), reported),
    "an interval without the AUROC": ("metrics.json", _set("intervals", "auroc_delong", to=[0.0, 0.001]), reported),
    "an interval upside down in a comparison": ("metrics.json", _set("intervals", "auroc_delong", to=[1, 0]), compared),
    "a level of 0": ("metrics.json", _set("intervals", "level", to=0), reported),
    "a level of 1": ("metrics.json", _set("intervals", "level", to=1), reported),
    "a false-alarm rate of 0": ("metrics.json", _set("thresholds", 0, "false_alarm_rate", to=0.0), reported),
    "no thresholds": ("metrics.json", lambda content: content.pop("thresholds") and None, reported),
    "no intervals": ("metrics.json", lambda content: content.pop("intervals") and None, reported),
    "classes as list": ("metrics.json", _set("per_class", to=[1]), reported),
    "a class without images": ("metrics.json", _set("per_class", to={"a": {"auroc": 0.5}}), reported),
    "a class of half an image": ("metrics.json", _set("per_class", to={"a": {"images": 0.5}}), reported),
    "a metric of a class as text": ("metrics.json", _set("per_class", to={"a": {"images": 1, "auroc": "1"}}), compared),
    "a worst kind that is none": (
        "metrics.json",
        _set("thresholds", 0, "by_kind", to={"a": {"images": 1, "rate": 0.5, "interval": [0, 1]}}),
        reported,
    ),
    "a kind without an interval": (
        "metrics.json",
        _set("thresholds", 0, "by_kind", to={"a": {"images": 1, "rate": 0.5}}),
        compared,
    ),
    "copies below 0": ("metrics.json", _set("copies_left_out", to=-1), compared),
    "seconds as text": ("metrics.json", _set("seconds", "total", to="long"), compared),
    "seconds below 0": ("metrics.json", _set("seconds", "total", to=-1), compared),
    "no seconds": ("metrics.json", _set("seconds", to=None), reported),
    "sizes as list": ("metrics.json", _set("sizes", to=[1]), compared),
    "a state that is a list": ("status.json", _set("state", to=["finished"]), compared),
    "an error that is a mapping": ("status.json", _set("error", to={}), compared),
    "images as mapping": ("split.json", _set("images", "normal", to={}), evaluated),
    "a role too many": ("split.json", _set("images", "more", to=[]), evaluated),
    "other images": ("split.json", _set("images", "normal", to=["a"]), evaluated),
    "head classes as text": ("split.json", _set("head_classes", to="abc"), evaluated),
    "normal images as mapping": ("model/normal.json", lambda content: {"a": 1}, evaluated),
    "a file outside the model": ("model/detector.json", _set("files", "../../../secret", to="0"), evaluated),
    "an absolute file": ("model/detector.json", _set("files", "/dev/zero", to="0"), evaluated),
    "no format": ("model/detector.json", _set("format", to=None), evaluated),
    "a backbone as text": ("model/detector.json", _set("backbone", to="resnet"), evaluated),
    "about as list": ("model/detector.json", _set("about", to=[]), evaluated),
    "a precision as number": ("model/detector.json", _set("precision", to=32), evaluated),
    "an unknown precision": ("model/detector.json", _set("precision", to="8-tiny"), evaluated),
    "a switch as text": ("model/detector.json", _set("embedder", "test_time_flip", to="no"), evaluated),
    "a scorer of another width": ("model/scorer.json", _set("width", to=9), evaluated),
    "a scorer of no width": ("model/scorer.json", _set("width", to="16"), evaluated),
    "another scorer": ("model/scorer.json", _set("scorer", to="LOF"), evaluated),
    "scorer settings as list": ("model/scorer.json", _set("settings", to=[]), evaluated),
    "no embedder": ("embeddings/checksums.json", _set("files", to=[]), evaluated),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_value_of_a_wrong_type_or_range_is_refused(case, run):
    name, change, job = WRONG[case]
    edited(run.path / name, change)
    if "files" not in str(change.__closure__ and [cell.cell_contents for cell in change.__closure__]):
        resealed(run)
    assert outcome(job, run) == REFUSED


@pytest.mark.parametrize(
    "settings", [{"channels": [2**28, 2**28]}, {"channels": [10**400]}, {"channels": ["a"]}], ids=str
)
def test_a_backbone_that_asks_for_any_memory_is_refused(settings, run):
    edited(run.model / "detector.json", lambda content: content["backbone"].update(settings))
    resealed(run)
    shutil.rmtree(run.embeddings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert outcome(evaluated, run) == REFUSED
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def _moved(line, position):
    return f"{line.rpartition(',')[0]},{position}"


def _with_p_value(line, value):
    cells = line.split(",")
    cells[4] = value
    return ",".join(cells)


TABLES = {
    "a row too few": ("embeddings/images.csv", lambda lines: lines[:-1], evaluated),
    "a row too many": ("embeddings/images.csv", lambda lines: [*lines, lines[-1]], evaluated),
    "rows in another order": ("embeddings/images.csv", lambda lines: [lines[0], *lines[:0:-1]], evaluated),
    "another column": ("embeddings/images.csv", lambda lines: ["role,image,class,position", *lines[1:]], evaluated),
    "a position in words": ("embeddings/images.csv", lambda lines: [lines[0], "normal,a,b,c", *lines[2:]], evaluated),
    "a position below 0": (
        "embeddings/images.csv",
        lambda lines: [lines[0], _moved(lines[1], -1), *lines[2:]],
        evaluated,
    ),
    "a position of no dataset": (
        "embeddings/images.csv",
        lambda lines: [lines[0], _moved(lines[1], 10**30), *lines[2:]],
        evaluated,
    ),
    "two images at one position": (
        "embeddings/images.csv",
        lambda lines: [lines[0], _moved(lines[1], lines[2].split(",")[-1]), *lines[2:]],
        evaluated,
    ),
    "a class of another role": (
        "embeddings/images.csv",
        lambda lines: [lines[0], re.sub(",[^,]*,(?=[^,]*$)", ",zebra,", lines[1]), *lines[2:]],
        evaluated,
    ),
    "scores cut off": ("scores.csv", lambda lines: lines[: len(lines) // 2], reported),
    "a score left out": ("scores.csv", lambda lines: [lines[0], *lines[9:]], reported),
    "a score without end": ("scores.csv", lambda lines: [*lines, "a,b,test_normal,inf,,c,0"], reported),
    "a p-value above 1": ("scores.csv", lambda lines: [lines[0], _with_p_value(lines[1], "1.5"), *lines[2:]], reported),
    "a p-value in words": ("scores.csv", lambda lines: [lines[0], _with_p_value(lines[1], "x"), *lines[2:]], reported),
    "no column of scores": ("scores.csv", lambda lines: [lines[0].replace("score", "sc"), *lines[1:]], reported),
    "another role": ("scores.csv", lambda lines: [*lines, "a,b,unknown,1.0,,c,0"], reported),
    "properties cut off": ("properties.csv", lambda lines: lines[: len(lines) // 2], evaluated),
    "properties in words": ("properties.csv", lambda lines: [lines[0], *(f"{line}x" for line in lines[1:])], evaluated),
    "a property without end": ("properties.csv", lambda lines: [lines[0], f"{lines[1]}inf", *lines[2:]], evaluated),
    "a property too many": ("properties.csv", lambda lines: [f"{line}," for line in lines], evaluated),
    "epochs without rows": ("epochs.csv", lambda lines: lines[:1], reported),
    "epochs in words": ("epochs.csv", lambda lines: [lines[0], lines[1].replace("1", "one")], reported),
    "an epoch too large": ("epochs.csv", lambda lines: [lines[0], "1e308" + lines[1][1:]], reported),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_is_short_or_has_other_columns_is_refused(case, run):
    name, change, job = TABLES[case]
    lines = (run.path / name).read_text().splitlines()
    (run.path / name).write_text("\n".join(change(lines)) + "\n")
    resealed(run)
    assert outcome(job, run) == REFUSED


def _without_first(arrays):
    del arrays[next(iter(arrays))]


ARRAYS = {
    "no array": _without_first,
    "a row too few": lambda arrays: arrays.update({key: value[:-1] for key, value in arrays.items()}),
    "another width": lambda arrays: arrays.update({key: value[..., :-1] for key, value in arrays.items()}),
    "one dimension too many": lambda arrays: arrays.update({key: value[None] for key, value in arrays.items()}),
    "whole numbers": lambda arrays: arrays.update({key: value.astype(np.int64) for key, value in arrays.items()}),
    "NaN": lambda arrays: arrays.update({key: np.full_like(value, np.nan) for key, value in arrays.items()}),
}


@pytest.mark.parametrize("name", ["embeddings/embeddings.safetensors", "model/calibration.safetensors"])
@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_of_another_shape_or_type_are_refused(case, name, run):
    arrays = {key: value.copy() for key, value in load_file(run.path / name).items()}
    ARRAYS[case](arrays)
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, run.path / name)
    resealed(run)
    if (case, name) != ("another width", "model/calibration.safetensors"):  # the same as a row too few
        assert outcome(evaluated, run) == REFUSED


def _index(run, width=16, count=None, description="Flat", metric=faiss.METRIC_INNER_PRODUCT):
    count = count or faiss.read_index(str(run.model / "index.faiss")).ntotal
    made = faiss.index_factory(width, description, metric)
    vectors = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    made.train(vectors)
    made.add(vectors)
    faiss.write_index(made, str(run.model / "index.faiss"))


def _claims(run, size):
    data = bytearray((run.model / "index.faiss").read_bytes())
    count = struct.unpack("<q", data[8:16])[0]
    place = bytes(data).index(struct.pack("<Q", count * 16), 16)
    data[place : place + 8] = struct.pack("<Q", size)
    (run.model / "index.faiss").write_bytes(data)


INDEXES = {
    "another kind": lambda run: _index(run, description="SQ8"),
    "a graph": lambda run: _index(run, description="HNSW4"),
    "an index in an index": lambda run: _index(run, description="PCAR8,Flat"),
    "another width": lambda run: _index(run, width=8),
    "another metric": lambda run: _index(run, metric=faiss.METRIC_L2),
    "fewer vectors": lambda run: _index(run, count=3),
    "more vectors": lambda run: _index(run, count=5000),
    "a terabyte": lambda run: _claims(run, 2**38),
    "no vectors": lambda run: _claims(run, 0),
    "binary": lambda run: faiss.write_index_binary(faiss.IndexBinaryFlat(16), str(run.model / "index.faiss")),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_of_another_kind_or_size_is_refused(case, run):
    INDEXES[case](run)
    resealed(run)
    assert outcome(evaluated, run) == REFUSED


# Checkpoints


def _saved(change):
    def make(path):
        checkpoint = torch.load(path, weights_only=True)
        change(checkpoint)
        WholeCheckpoints().save_checkpoint(checkpoint, path)

    return make


def _deflated(path):
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data + bytes(2**26) if name.endswith("data/0") else data)


CHECKPOINTS = {
    "a zip bomb": _deflated,
    "a number": lambda path: torch.save(1, path),
    "a legacy archive": lambda path: torch.save({"epoch": 0}, path, _use_new_zipfile_serialization=False),
    "code": lambda path: torch.save({"epoch": os.system}, path),
    "an epoch in words": _saved(lambda content: content.update(epoch="one")),
    "an epoch of NaN": _saved(lambda content: content.update(epoch=float("nan"))),
    "an epoch that the loops deny": _saved(lambda content: content.update(epoch=7)),
    "weights in words": _saved(lambda content: content["state_dict"].update(a="b")),
    "weights of NaN": _saved(lambda content: content["state_dict"].update(a=torch.tensor(float("nan")))),
    "no optimiser": _saved(lambda content: content.update(optimizer_states=[])),
    "an optimiser in words": _saved(lambda content: content.update(optimizer_states=["adam"])),
    "callbacks as list": _saved(lambda content: content.update(callbacks=[])),
    "a history in words": _saved(lambda content: content["callbacks"]["EpochLog"].update(history="long")),
    "loops as list": _saved(lambda content: content.update(loops=[])),
    "bytes after the end": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "without the last byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_crafted_or_torn_checkpoint_is_refused(case, run):
    CHECKPOINTS[case](run.last_checkpoint)
    with limited(20), pytest.raises(InputError, match=r"last\.ckpt"):
        read_checkpoint(run.last_checkpoint)


def test_a_checkpoint_from_before_is_read_but_not_a_changed_one(run, tmp_path):
    content = torch.load(run.last_checkpoint, weights_only=True)
    torch.save(content, tmp_path / "before.ckpt")
    assert read_checkpoint(tmp_path / "before.ckpt").keys() == read_checkpoint(run.last_checkpoint).keys()


def test_no_control_character_of_a_run_reaches_a_table_or_a_page(run):
    path = run.config.with_name("hydra.yaml")
    choices = read_yaml(path)
    choices.hydra.runtime.choices.update({"head": "\x1b[31mred", "backbone": "\x1b[2Jgone"})
    OmegaConf.save(choices, path)
    edited(run.status, lambda content: content.update(error="\x1b]0;title\x07"))
    resealed(run)
    said = [*map(str, compared(run)), reported(run)]
    assert [text for text in said if "\x1b" in text or "\x07" in text] == []
    assert r"\x1b[31mred" in said[0]
    assert r"\x1b[2Jgone" in said[2]


# Flips


def _flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def _flipped(run, count, seed):
    """Flip single bits, one at a time, in files drawn at random; return how the jobs that read the file end."""
    generator, names = random.Random(seed), sorted(READ.keys() | {"neighbours.png", "run.log", "logs/metrics.csv"})
    whole = {name: outcome(job, run) for name, job in JOBS.items()}
    assert REFUSED not in whole.values()
    ended = {"refused": 0, "same": 0, "other": []}
    for _ in range(count):
        name = generator.choice(names)
        path = run.path / name
        bit = generator.randrange(8 * path.stat().st_size)
        _flip(path, bit)
        for job in READ.get(name, JOBS):
            found = outcome(JOBS[job], run)
            kind = "refused" if found == REFUSED else "same" if found == whole[job] else "other"
            if kind == "other":
                ended["other"].append((name, bit, job))
            else:
                ended[kind] += 1
        _flip(path, bit)
    return ended


def test_a_flipped_bit_is_refused_or_changes_nothing(run):
    ended = _flipped(run, 10, seed=1)
    assert ended["other"] == []
    assert ended["refused"] >= 5


@pytest.mark.long
def test_two_hundred_flipped_bits_are_refused_or_change_nothing(run):
    ended = _flipped(run, 200, seed=2)
    assert ended["other"] == []
    assert ended["refused"] >= 150


# The manifest


def test_a_run_that_lacks_its_manifest_is_refused_and_one_from_before_is_unverified(run):
    run.manifest.unlink()
    for job in ("evaluate", "report", "compare"):
        assert outcome(JOBS[job], run) == REFUSED
    edited(run.status, lambda content: content.pop("manifest") and content)
    assert not run.verified
    assert "unverified" in reported(run)
    assert any("unverified" in note for note in compared(run)[1])


def test_a_file_added_to_a_finished_run_is_refused(run):
    (run.config.with_name("asked.yaml")).write_text("seed: 1\n")
    assert outcome(compared, run) == REFUSED


def test_evaluations_and_reports_keep_the_manifest_true(run):
    evaluated(run)
    reported(run)
    assert outcome(evaluated, run) != REFUSED
    assert json.loads(run.manifest.read_text())["files"].keys() >= {"metrics.json", "scores.csv", "status.json"}

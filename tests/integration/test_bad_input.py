"""Every bad input of the command line: exit code 2, one line that names the key or file, nothing half-written."""

import importlib.util
import json
import os
import shlex
import shutil
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from metrad.app import cli
from metrad.app.evaluate import evaluate_run
from metrad.files import read_json
from metrad.runs.config.home import expand_home
from metrad.runs.directory import Run
from tests.helpers.stored import without_manifest


def folder(name, *more):
    return (
        "dataset=image_folder",
        f"dataset.source.root=FILES/{name}",
        "dataset.normal=[a]",
        "dataset.anomalous=[b]",
        *more,
    )


def case(name, *overrides, says):
    return pytest.param(overrides, tuple(says), id=name)


CONFIGURATION = [
    case("unknown key", "sed=1", says=["sed", "did you mean seed?"]),
    case("unknown key added", "+sed=1", says=["sed", "did you mean seed?"]),
    case("unknown key forced", "++dataset.sorce=1", says=["dataset.sorce", "source"]),
    case("unknown nested key", "dataset.sizes.nomal=3", says=["dataset.sizes.nomal", "did you mean normal?"]),
    case("unknown folder of keys", "dataset.sizs.normal=3", says=["dataset.sizs.normal", "sizes"]),
    case("key below a value", "seed.x=1", says=["seed"]),
    case("unknown key of a part", "trainer.max_epoch=3", says=["trainer.max_epoch", "did you mean max_epochs?"]),
    case("unknown key of the chosen head", "head=arcface", "head.margn=1", says=["head.margn", "did you mean margin?"]),
    case("unknown key of the backbone", "backbone.chanels=[8]", says=["backbone.chanels", "did you mean channels?"]),
    case("unknown key added to a part", "+trainer.max_epoch=3", says=["trainer.max_epoch", "did you mean max_epochs?"]),
    case("unknown key added to the head", "+head.margn=3", says=["unknown configuration key head.margn"]),
    case("unknown key added to the scorer", "+scorer.n=3", says=["scorer.n", "k, metric, min_recall"]),
    case("unknown key of the source", "+dataset.source.root=x", says=["dataset.source.root"]),
    case("unknown key of the run directory", "hydra.run.dr=x", says=["hydra.run.dr"]),
    case("argument that metrad sets itself", "+trainer.default_root_dir=x", says=["trainer.default_root_dir"]),
    case("unknown group", "hed=arcface", says=["hed", "did you mean head?"]),
    case("unknown head", "head=arcfac", says=["head=arcfac", "did you mean arcface?", "adacos"]),
    case("unknown dataset", "dataset=digit", says=["dataset=digit", "did you mean digits?"]),
    case("unknown experiment", "experiment=dmo", says=["experiment=dmo", "did you mean demo?"]),
    case("no head", "head=null", says=["head"]),
    case("head removed", "~head", says=["head"]),
    case("seed no number", "seed=abc", says=["seed", "abc", "Integer"]),
    case("seed a fraction", "seed=1.5", says=["seed", "1.5"]),
    case("seed null", "seed=null", says=["seed"]),
    case("seed negative", "seed=-1", says=["seed must be between 0 and 4294967295", "-1"]),
    case("seed a list", "seed=1,2", says=["seed=1,2", "--multirun"]),
    case("seed above what numpy takes", "seed=4294967296", says=["seed must be between 0 and 4294967295"]),
    case(
        "image_size",
        "image_size=0",
        says=["image_size must be between 1 and 4096", "write, for example, image_size=96"],
    ),
    case("image too small", "image_size=1", says=["image_size=1 does not suit the backbone", "set image_size="]),
    case("image too large", "image_size=20000", says=["image_size must be between 1 and 4096, or null, got 20000"]),
    case(
        "too many rates",
        f"evaluation.false_alarm_rates=[{','.join(str(i / 1000) for i in range(1, 102))}]",
        says=["evaluation.false_alarm_rates must be a list of different rates", "at most 100"],
    ),
    case(
        "too many layers",
        f"backbone.channels=[{','.join(['4'] * 501)}]",
        says=["a list of numbers, 500 or fewer, each"],
    ),
    case("batch_size", "batch_size=1", says=["batch_size", "at least 2"]),
    case("epochs no number", "trainer.max_epochs=ten", says=["trainer.max_epochs=ten", "integer"]),
    case("epochs negative", "trainer.max_epochs=-2", says=["trainer", "max_epochs", "-2"]),
    case("progress bar", "trainer.enable_progress_bar=maybe", says=["trainer.enable_progress_bar", "maybe"]),
    case("gradient accumulation", "trainer.accumulate_grad_batches=0", says=["accumulate_grad_batches"]),
    case("precision", "trainer.precision=99", says=["trainer", "recision", "99"]),
    case("accelerator", "trainer.accelerator=npu", says=["trainer", "npu"]),
    case("devices", "trainer.devices=0", says=["trainer.devices=0", "at least 1"]),
    case("more ranks than images", "trainer.devices=3", "batch_size=2", says=["batch_size=2", "3 ranks"]),
    case("strategy", "trainer.devices=2", "trainer.strategy=fsdp", says=["trainer.strategy=fsdp", "ddp"]),
    case("machines", "trainer.num_nodes=2", says=["trainer.num_nodes=2", "torchrun"]),
    case("learning rate no number", "optimizer.lr=fast", says=["optimizer.lr=fast", "number"]),
    case("learning rate null", "optimizer.lr=null", says=["optimizer.lr"]),
    case("learning rate negative", "optimizer.lr=-1", says=["optimizer", "-1"]),
    case("setting of no augmentation", "augmentation.flip=0.5", says=["augmentation.flip"]),
    case("unknown augmentation", "augmentation=flop", says=["augmentation=flop", "did you mean flip?", "rand_augment"]),
    case("augmentation without a class", "+augmentation.flip=0.5", says=["augmentation._target_ must name the class"]),
    case(
        "flip",
        "augmentation=flip",
        "augmentation.flip=1.5",
        says=["augmentation.flip must be between 0 and 1, got 1.5"],
    ),
    case("flip no number", "augmentation=flip", "augmentation.flip=x", says=["augmentation.flip=x", "number"]),
    case("operations", "augmentation=rand_augment", "augmentation.rand_augment=1.5", says=["rand_augment=1.5"]),
    case(
        "augmentation no module",
        "+augmentation={_target_: sklearn.preprocessing.StandardScaler}",
        says=["augmentation._target_=sklearn.preprocessing.StandardScaler is not allowed", "torch.nn.Module"],
    ),
    case("step size", "scheduler=step", "scheduler.step_size=x", says=["scheduler.step_size=x", "integer"]),
    case("k no number", "scorer.k=one", says=["scorer.k=one", "integer"]),
    case("k a truth value", "scorer.k=true", says=["scorer.k"]),
    case("k zero", "scorer.k=0", says=["scorer.k", "at least 1"]),
    case("k above the index", "scorer.k=500", says=["scorer.k=500", "86 normal images"]),
    case("metric", "scorer.metric=cosin", says=["scorer.metric=cosin", "'cosine' or 'l2'"]),
    case("channels no list", "backbone.channels=8", says=["backbone.channels=8", "list"]),
    case("channels none", "backbone.channels=[]", says=["backbone.channels"]),
    case("study", "study.epoch=true", says=["study.epoch", "did you mean epochs?"]),
    case("study no truth value", "study.epochs=some", says=["study.epochs must be true or false, got some"]),
    case("rotations", "dataset.rotations=some", says=["dataset.rotations must be true or false, got some"]),
    case("a number for a truth value", "channels_last=2", says=["channels_last must be true or false, got 2"]),
    case("a count for a truth value", "study.epochs=5", says=["study.epochs must be true or false, got 5"]),
    case("not partial", "optimizer._partial_=false", says=["optimizer._partial_ must be true", "leave it out"]),
    case("allow_targets", "allow_targets=os", says=["allow_targets"]),
    case("target not allowed", "head._target_=os.system", says=["head._target_=os.system", "metrad", "allow_targets"]),
    case("target by a detour", "head._target_=torch.nn.modules.os.system", says=["head._target_"]),
    case(
        "target by a detour to the same package",
        "+head={_target_: torch.nn.modules.module.torch.hub.load, repo_or_dir: FILES, model: m, source: local}",
        says=["head._target_=torch.nn.modules.module.torch.hub.load"],
    ),
    case("target unknown", "head._target_=metrad.models.heads.Nope", says=["head._target_=metrad.models.heads.Nope"]),
    case("target a module", "head._target_=metrad.models.heads", says=["head._target_=metrad.models.heads"]),
    case("target null", "head._target_=null", says=["head._target_"]),
    case("no target", "~head._target_", says=["head._target_"]),
    case("epochs removed", "~trainer.max_epochs", says=["trainer.max_epochs must be set", "trainer.max_epochs=10"]),
    case("precision removed", "~trainer.precision", says=["trainer.precision must be set", "trainer.precision=auto"]),
    case("nothing removed", "~trainer.nope", says=["~trainer.nope removes what is not there", "leave it out"]),
    case("unclosed bracket", "dataset.normal=[7", says=["[7"]),
    case("unclosed quote", "seed='1", says=["seed='1"]),
    case("unknown interpolation", "dataset.normal=${nope}", says=["nope"]),
    case("no equals sign", "seed", says=["seed"]),
    case("no key", "=3", says=["=3"]),
    case(
        "epochs null",
        "trainer.max_epochs=null",
        says=["trainer.max_epochs must be a whole number between 0 and 100000"],
    ),
    case("epochs without end", "trainer.max_epochs=-1", says=["trainer.max_epochs must be", "-1"]),
    case("epochs beyond a lifetime", "trainer.max_epochs=1000000000", says=["trainer.max_epochs", "100000"]),
    case("a trial of a few batches", "+trainer.fast_dev_run=true", says=["trainer.fast_dev_run must be false"]),
    case("no training batches", "trainer.limit_train_batches=0", says=["trainer.limit_train_batches must be a count"]),
    case("no training steps", "trainer.max_steps=0", says=["trainer.max_steps must be", "trainer.max_epochs=0"]),
    case("no training time", "trainer.max_time='00:00:00:00'", says=["trainer.max_time must be a time above 0"]),
    case("learning rate zero", "optimizer.lr=0", says=["optimizer.lr must be above 0, got 0"]),
    case("learning rate NaN", "optimizer.lr=nan", says=["optimizer.lr must be above 0, got nan"]),
    case("learning rate infinite", "optimizer.lr=inf", says=["optimizer.lr must be above 0, got inf"]),
    case(
        "a rate zero among candidates",
        "selection=pseudo_anomaly",
        "selection.candidates=[{optimizer.lr: 0}]",
        says=["optimizer.lr"],
    ),
    case("betas", "+optimizer.betas=[0.9,nan]", says=["optimizer.betas must be a list of 2 numbers, each at least 0"]),
    case("a schedule of no epochs", "scheduler=cosine", "scheduler.T_max=0", says=["scheduler.T_max must be", "got 0"]),
    case("gamma", "scheduler=step", "scheduler.gamma=-1", says=["scheduler.gamma must be above 0"]),
    case("a fraction for a count", "scorer.k=2.0", says=["scorer.k=2.0 has a wrong type: write scorer.k=2"]),
    case("a text for a count", "scorer.k='2'", says=["scorer.k=2 has a wrong type", "int"]),
    case("scale infinite", "head=arcface", "head.scale=inf", says=["head.scale must be above 0, got inf"]),
    case("centres without number", "head.sub_centers=1000000000", says=["head.sub_centers", "100000"]),
    case("weights of terabytes", "backbone.channels=[65536,65536,65536,65536,65536]", says=["backbone.channels", "GB"]),
    case("processes without number", "dataset.workers=1000000", says=["dataset.workers=1000000", "CPU cores"]),
    case("ranks without number", "trainer.devices=1000000", says=["trainer.devices=1000000", "CPU cores"]),
    case("resamples without number", "evaluation.resamples=1000000000000", says=["evaluation.resamples", "1000000"]),
    case(
        "a limit of memory without end",
        "dataset.memory_limit_gib=inf",
        says=["dataset.memory_limit_gib must be finite"],
    ),
    case("a part by a number", "head=3", says=["head=3 is no choice", "arcface"]),
]
DATA = [
    case("class missing", "dataset.normal=[seven]", says=["dataset.normal", "'seven'", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"]),
    case("class number missing", "dataset.anomalous=[12]", says=["dataset.anomalous", "12", "8, 9"]),
    case("two roles left open", "dataset.normal=null", says=["dataset.normal and dataset.reference", "can be null"]),
    case(
        "all roles left open",
        *("dataset.normal=null", "dataset.anomalous=null"),
        says=["dataset.normal and dataset.anomalous and dataset.reference", "the others"],
    ),
    case(
        "no class left for a role",
        *("dataset.normal=[0,1,2,3,4,5,6,7,8,9]", "dataset.anomalous=null", "dataset.reference=[]"),
        says=["dataset.anomalous names no class"],
    ),
    case("no class", "dataset.normal=[]", says=["dataset.normal", "8, 9"]),
    case("class in two roles", "dataset.normal=[9]", says=["9 plays two roles"]),
    case("class in two roles by number and name", 'dataset.reference=[7,"1"]', says=["7 plays two roles"]),
    case("class twice in a role", "dataset.normal=[7,7]", says=["dataset", "7"]),
    case("class a fraction", "dataset.normal=[1.5]", says=["dataset.normal", "1.5"]),
    case("too few images", "dataset.sizes.normal=5000", says=["dataset.sizes.normal=5000", "there are 107"]),
    case("too few test images", "dataset.sizes.test_normal=99", says=["dataset.sizes.test_normal=99", "there are 72"]),
    case("no normal images", "dataset.sizes.normal=0", says=["dataset.sizes.normal=0"]),
    case(
        "a count as a fraction",
        "dataset.sizes.normal=1.5",
        says=["dataset.sizes.normal must be a count of at least 0, a share", "got 1.5"],
    ),
    case(
        "a negative count",
        "dataset.sizes.normal=-1",
        says=["dataset.sizes.normal must be a count of at least 0, a share", "got -1"],
    ),
    case("a count no number", "dataset.sizes.normal=many", says=["dataset.sizes.normal", "many"]),
    case("two open sizes", "dataset.sizes.calibration=null", says=["dataset.sizes.calibration", "null"]),
    case("test share", "dataset.test_share=1.5", says=["dataset.test_share", "above 0 and below 1"]),
    case("on_corrupt", "dataset.on_corrupt=ignore", says=["dataset.on_corrupt", "error or skip", "ignore"]),
    case(
        "AdaCos with two classes",
        "dataset.reference=[0]",
        says=["AdaCos", "at least 3 classes", "ln(C - 1)", "head=arcface"],
    ),
    case(
        "AdaCos without reference",
        "dataset.reference=[]",
        says=["AdaCos", "at least 3 classes", "got 1", "experiment=frozen"],
    ),
    case(
        "one class",
        *("dataset.reference=[]", "head=softmax"),
        says=["Softmax", "2 classes", "nothing to tell apart", "experiment=frozen"],
    ),
    case(
        "the head as scorer without reference",
        *("dataset.reference=[]", "dataset.normal=[0,1,2]", "scorer=head"),
        says=["scorer=head", "dataset.reference names none"],
    ),
    case(
        "reference images as part of the score without any",
        *("dataset.reference=[]", "dataset.normal=[0,1,2]", "scorer=contrast"),
        says=["scorer Contrast compares with reference images", "dataset.reference"],
    ),
    case("no folder given", "dataset=image_folder", says=["dataset.source.root", "must be set"]),
    case("folder not there", *folder("nowhere"), says=["dataset.source.root", "FILES/nowhere", "METRAD_DATA"]),
    case("folder a file", *folder("one.pth"), says=["dataset.source.root", "FILES/one.pth"]),
    case("folder of a dataset not there", "dataset=magnetic_tile", says=["data/magnetic_tile", "METRAD_DATA"]),
    case("no image matches", *folder("good", "dataset.source.pattern='*.jpg'"), says=["*.jpg", "FILES/good"]),
    case("size of images zero", *folder("good", "dataset.source.size=0"), says=["dataset.source.size"]),
    case("size of images negative", *folder("good", "dataset.source.size=-1"), says=["dataset.source.size"]),
    case("class of a folder missing", *folder("good", "dataset.normal=[z]"), says=["'z'", "there are a, b, c, d"]),
    case("truncated image", *folder("truncated"), says=["FILES/truncated/c/3.png", "truncated", "on_corrupt=skip"]),
    case("empty image", *folder("empty"), says=["FILES/empty/c/3.png", "on_corrupt=skip"]),
    case("text for an image", *folder("text"), says=["FILES/text/c/3.png", "not an image", "on_corrupt=skip"]),
    case("link to nowhere", *folder("link"), says=["FILES/link/c/3.png"]),
    case(
        "truncated image, cached on disk",
        *folder("truncated", "dataset.memory_limit_gib=0"),
        says=["FILES/truncated/c/3.png"],
    ),
    case(
        "truncated image, streamed",
        *folder("truncated", "dataset.memory_limit_gib=0", "dataset.disk_limit_gib=0"),
        says=["FILES/truncated/c/3.png"],
    ),
    case(
        "cache in a file",
        *folder("good", "dataset.memory_limit_gib=0", "paths.data=FILES/one.pth"),
        says=["FILES/one.pth"],
    ),
    case(
        "not a dataset",
        "dataset.source._target_=sklearn.datasets.load_digits",
        says=["dataset.source._target_", "metrad.data.sources.Source"],
    ),
]
FILES = [
    case("weights missing", "backbone.weights=FILES/no.pth", says=["backbone.weights=FILES/no.pth", "no such file"]),
    case("weights of another model", "backbone.weights=FILES/one.pth", says=["one.pth", "does not fit", "0.weight"]),
    case("weights of another shape", "backbone.weights=FILES/shape.pth", says=["FILES/shape.pth", "(8, 3, 3, 3)"]),
    case("weights a list", "backbone.weights=FILES/list.pth", says=["FILES/list.pth", "list"]),
    case("weights a text", "backbone.weights=FILES/text.pth", says=["FILES/text.pth", "cannot be read"]),
    case("weights an empty file", "backbone.weights=FILES/empty.pth", says=["FILES/empty.pth", "cannot be read"]),
    case("weights a text, safetensors", "backbone.weights=FILES/text.safetensors", says=["FILES/text.safetensors"]),
    case("weights code", "backbone.weights=FILES/code.pth", says=["FILES/code.pth", "cannot be read"]),
    case("weights a folder", "backbone.weights=FILES/good", says=["FILES/good"]),
    case("weights odd name", 'backbone.weights="FILES/a b=ü,[c].pth"', says=["FILES/a b=ü,[c].pth", "no such file"]),
    case("weights a number", "backbone.weights=3", says=["backbone.weights=3", "string"]),
    case("checkpoint missing", "ckpt_path=FILES/no.ckpt", says=["ckpt_path=FILES/no.ckpt", "no such file"]),
    case("checkpoint a text", "ckpt_path=FILES/text.pth", says=["ckpt_path=FILES/text.pth", "cannot be read"]),
    case("checkpoint an empty file", "ckpt_path=FILES/empty.pth", says=["ckpt_path=FILES/empty.pth", "cannot be read"]),
    case("checkpoint truncated", "ckpt_path=FILES/cut.ckpt", says=["ckpt_path=FILES/cut.ckpt", "cannot be read"]),
    case("checkpoint foreign", "ckpt_path=FILES/one.pth", says=["ckpt_path=FILES/one.pth", "cannot be read"]),
    case("checkpoint code", "ckpt_path=FILES/code.pth", says=["ckpt_path=FILES/code.pth", "cannot be read"]),
    case(
        "checkpoint of another head",
        "ckpt_path=FILES/a.ckpt",
        "head=softmax",
        says=["a.ckpt", "head was adacos and is softmax now"],
    ),
    case(
        "checkpoint of another width",
        "ckpt_path=FILES/a.ckpt",
        "backbone.channels=[8]",
        says=["FILES/a.ckpt", "backbone.channels was [8, 16] and is [8] now"],
    ),
    case(
        "checkpoint of another optimiser",
        "ckpt_path=FILES/a.ckpt",
        "trainer.max_epochs=2",
        "optimizer=sgd",
        says=["FILES/a.ckpt", "optimizer was adam and is sgd now"],
    ),
    case("checkpoint of weights alone", "ckpt_path=FILES/weights.ckpt", "trainer.max_epochs=2", says=["weights.ckpt"]),
    case("checkpoint past the end", "ckpt_path=FILES/a.ckpt", "trainer.max_epochs=0", says=["a.ckpt", "max_epochs=0"]),
    case(
        "checkpoint past the steps",
        "ckpt_path=FILES/a.ckpt",
        "trainer.max_steps=1",
        says=["a.ckpt has trained", "steps and trainer.max_steps=1; set at least"],
    ),
]
# One of each kind of error, by who finds it, and those of Hydra's own settings.
COMMANDS = [
    case("run directory taken", "hydra.run.dir=FILES/run", says=["FILES/run", "holds a run already", "hydra.run.dir"]),
    case(
        "run directory below a file",
        "hydra.run.dir=FILES/one.pth/run",
        says=["FILES/one.pth", "Not a directory; a part of its"],
    ),
    case("run directory a file", "hydra.run.dir=FILES/one.pth", says=["FILES/one.pth", "something else lies there"]),
    case("run directory null", "hydra.run.dir=null", says=["hydra.run.dir"]),
    case("unknown key of Hydra", "hydra.run.dr=x", says=["hydra.run.dr"]),
    case("unknown key", "sed=1", says=["sed", "did you mean seed?"]),
    case("unknown choice", "head=arcfac", says=["head=arcfac", "did you mean arcface?", "adacos"]),
    case("a list for a value", "seed=1,2", says=["seed=1,2", "--multirun"]),
    case("unclosed bracket", "dataset.normal=[7", says=["[7"]),
    case("a wrong type", "seed=abc", says=["seed", "abc", "Integer"]),
    case("out of range", "seed=-1", says=["seed must be between 0 and 4294967295", "-1"]),
    case("target not allowed", "head._target_=os.system", says=["head._target_=os.system", "metrad", "allow_targets"]),
    case("a setting of a null part", "augmentation.flip=0.5", says=["augmentation.flip"]),
    case("Lightning's refusal", "trainer.precision=99", says=["trainer", "recision", "99"]),
    case("class missing", "dataset.normal=[seven]", says=["dataset.normal", "'seven'"]),
    case("truncated image", *folder("truncated"), says=["FILES/truncated/c/3.png", "truncated", "on_corrupt=skip"]),
    case("weights missing", "backbone.weights=FILES/no.pth", says=["backbone.weights=FILES/no.pth", "no such file"]),
    case(
        "checkpoint of another head",
        "ckpt_path=FILES/a.ckpt",
        "head=softmax",
        says=["a.ckpt", "head was adacos and is softmax now"],
    ),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory, finished_run, image_folders):
    """A folder of good and bad files, only read by the tests."""
    root = tmp_path_factory.mktemp("files")
    for name in ("good", "truncated", "empty", "text", "link"):
        image_folders(root / name)
    truncated = root / "truncated/c/3.png"
    truncated.write_bytes(truncated.read_bytes()[:200])
    (root / "empty/c/3.png").write_bytes(b"")
    (root / "text/c/3.png").write_text("hello")
    (root / "link/c/3.png").unlink()
    (root / "link/c/3.png").symlink_to(root / "nothing.png")
    weights = load_file(finished_run.embedder)
    fitting = {key.removeprefix("backbone."): value for key, value in weights.items() if key.startswith("backbone.")}
    torch.save({"a": torch.zeros(2)}, root / "one.pth")
    torch.save(fitting | {"0.weight": torch.zeros(3)}, root / "shape.pth")
    torch.save([1, 2], root / "list.pth")
    torch.save(os.system, root / "code.pth")
    for name in ("text.pth", "text.safetensors"):
        (root / name).write_text("hello")
    (root / "empty.pth").write_bytes(b"")
    checkpoint = torch.load(finished_run.last_checkpoint, weights_only=True)
    torch.save(checkpoint, root / "a.ckpt")
    (root / "cut.ckpt").write_bytes((root / "a.ckpt").read_bytes()[:3000])
    torch.save({key: checkpoint[key] for key in ("state_dict", "epoch")}, root / "weights.ckpt")
    shutil.copytree(finished_run.path, root / "run")
    (root / "hubconf.py").write_text("raise SystemExit('this code was run')\n")
    return root


@pytest.fixture
def filled(files, digits, small):
    """Return a case's overrides behind those of a small run, and its words, with the folder of files in both."""

    def call(overrides, words):
        base = small if any("=image_folder" in item for item in overrides) else digits
        return [[item.replace("FILES", str(files)) for item in items] for items in ([*base, *overrides], words)]

    return call


@pytest.mark.parametrize(("overrides", "words"), CONFIGURATION + DATA + FILES)
def test_bad_input_is_refused_in_one_line(overrides, words, turned_down, filled):
    overrides, words = filled(overrides, words)
    turned_down(*overrides, words=words)


@pytest.mark.parametrize(("overrides", "words"), COMMANDS)
def test_the_command_ends_with_code_two_and_that_line(overrides, words, refused, filled):
    overrides, words = filled(overrides, words)
    refused("train", *overrides, words=words)


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_logger_that_is_not_installed_names_the_extra(package, turned_down, digits):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    turned_down(*digits, f"logger={package}", words=("logger", f"pip install 'metrad[{package}]'"))


def test_a_second_bad_input_in_one_process_is_refused_like_the_first(digits):
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            cli.train([*digits, "seed=abc"])
        assert ended.value.code == 2
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ("fmnist", ("train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "place/FashionMNIST/raw")),
        ("mnist", ("train-images-idx3-ubyte.gz", "place/MNIST/raw")),
        ("cifar10", ("cifar-10-python.tar.gz", "place")),
        ("cifar100", ("cifar-100-python.tar.gz", "place")),
    ],
)
def test_a_download_without_network_names_files_and_folder(dataset, says, turned_down, small, unreachable):
    turned_down(*small, f"dataset={dataset}", "paths.data=place", words=says)


def test_weights_without_network_name_file_and_folder(turned_down, digits, unreachable, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    overrides = [item for item in digits if "backbone" not in item]
    line = turned_down(*overrides, "backbone=mobilenet_v2", words=("mobilenet_v2-7ebf99e0.pth",))
    assert str(tmp_path / "torch/hub/checkpoints") in line
    assert "backbone.weights=FILE" in line


@pytest.fixture
def unreachable(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize("broken", ["truncated", "empty", "text"])
def test_corrupt_files_can_be_skipped_counted_and_listed(broken, train, small, files):
    overrides = [item.replace("FILES", str(files)) for item in folder(broken, "dataset.on_corrupt=skip")]
    run = train(*small, *overrides)
    split = read_json(run.split)
    assert "c/3.png" in run.log.read_text()
    assert read_json(run.metrics)["corrupt_left_out"] == 1
    assert split["corrupt_left_out"] == ["c/3.png"]
    assert "c/3.png" not in [name for names in split["images"].values() for name in names]
    assert len(split["images"]["reference"]) == 2 * 12 - 1


def test_an_image_that_breaks_while_it_is_streamed_is_named(turned_down, small, image_folders, tmp_path, monkeypatch):
    root = image_folders(tmp_path / "images")

    def break_one(*args):
        (root / "c/3.png").write_text("hello")
        return 0  # epochs behind

    monkeypatch.setattr("metrad.app.fit.epochs_behind", break_one)
    overrides = [item.replace("FILES", str(tmp_path)) for item in folder("images")]
    limits = ("dataset.memory_limit_gib=0", "dataset.disk_limit_gib=0")
    turned_down(*small, *overrides, *limits, words=("images/c/3.png", "not an image"))


def test_nan_loss_stops_and_names_the_step(metrad, digits, tmp_path):
    result = metrad("train", *digits, "optimizer.lr=1e30", "trainer.max_epochs=5", "hydra.run.dir=run")
    run = Run(tmp_path / "run")
    status = read_json(run.status)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "became NaN or infinite at step 1" in result.err
    assert status["state"] == "failed"
    assert "step 1" in status["error"]
    assert not run.metrics.exists()
    assert not run.scores.exists()
    assert not run.model.exists()


def test_a_refused_run_leaves_the_files_of_others_alone(refused, digits, tmp_path):
    mine = tmp_path / "mine"
    (mine / ".hydra").mkdir(parents=True)
    for name in (".hydra/own.yaml", "split.json", "environment.json", "run.log", "notes.txt"):
        (mine / name).write_text("mine")
    refused("train", *digits, "hydra.run.dir=mine", "dataset.normal=[seven]", words=())
    found = {path.relative_to(mine).as_posix() for path in mine.rglob("*") if path.is_file()}
    assert {".hydra/own.yaml", "split.json", "environment.json", "run.log", "notes.txt"} <= found


def test_a_taken_run_directory_is_not_touched(refused, digits, finished_run, tmp_path):
    taken = shutil.copytree(finished_run.path, tmp_path / "taken")
    before = {path: path.read_bytes() for path in taken.rglob("*") if path.is_file()}
    refused("train", *digits, "hydra.run.dir=taken", words=("taken",))
    assert {path: path.read_bytes() for path in taken.rglob("*") if path.is_file()} == before


WORDS = [
    (
        ["trian", "seed=1"],
        "trian is no command of metrad; did you mean train? allowed: audit, compare, envelope,",
    ),
    (["seed=1", "größe=2"], "seed=1 is no command; settings follow one: metrad train seed=1 'größe=2'"),
    (["-m", "seed=1,2"], "-m is no command; settings follow one: metrad train -m seed=1,2"),
    (["-m", "train", "seed=1,2"], "settings follow one: metrad train -m seed=1,2"),
    (["", "seed=1"], "'' is no command of metrad; allowed: audit, compare,"),
    (["train", "--cfg", "nonsense", "seed=1"], "argument --cfg/-c: invalid choice: 'nonsense' (choose from"),
    (["train", f"seed={'9' * 5000}"], f"seed: Value '{'9' * 200}…' of type 'str' could not be converted to Integer"),
    (["train", "experiment=[[demo]]"], "'experiment=[[demo]]' must name experiments, as in experiment=[demo,frozen]"),
    (["train", "-m", "experiment=demo", "sweep.fail_fast=2"], "sweep.fail_fast must be true or false, got 2"),
    (["train", "-m", "experiment=demo", "head=glob(zzz*)"], "the values of this sweep stand for no run"),
    (["train", "-m", "hydra/sweeper=grids", 'hydra.sweeper.grids=[{head: "glob(zzz*)"}]'], "stand for no run"),
    (["train", "experiment=[demo,all_pairs]", "hydra.sweeper.pairs=[7,7]"], "hydra.sweeper.pairs lists 7 twice"),
    (["compare", "--csv", "figures.csv", "--baseline", ""], "an argument of metrad compare is empty"),
    (
        ["evaluate"],
        "metrad evaluate needs RUN: Directory of a finished run, or of a sweep, as in: metrad evaluate outp",
    ),
    (["report"], "metrad report needs RUN: Directory of a finished run, as in: metrad report outputs/NAME"),
    (
        ["train", "-m", "--cfg", "job"],
        "--multirun and --cfg exclude each other; leave out --multirun; it shows the conf",
    ),
    (["train", "--info", "--cfg", "job"], "--cfg and --info exclude each other"),
    (["train", "--resolve"], "write --cfg job --resolve"),
    (["train", "experiment=demo", "hydra.job.chdir=true"], "hydra.job.chdir=true is not supported"),
    (["evaluate", "RUN", "--\x1b[31mname", "x"], "No such option: --\\x1b[31mname"),
    (["predict", "RUN", "x", "--rte", "1"], "). metrad predict --help lists what it takes"),
    (["train", "trainer.max_epochs=python"], "between 0 and 100000; write, for example, trainer.max_epochs=10"),
    (["train", "+optimizer.betas=[0.9]"], "it must be a list of 2 numbers, each at least 0 and below 1"),
    (["train", "experiment=demo", f"hydra.run.dir={'x' * 300}"], "File name too long; choose a shorter name"),
    (["evaluate", "RUN", "--nmae", "x"], "metrad evaluate --help lists what it takes"),
    (["compare", "RUN", "--metric"], "metrad compare --help lists what it takes"),
    (["train", "--seed", "3"], "--seed is no option: settings have no dashes; write seed=VALUE"),
    (["train", "seed=0,1", "--mutlirun"], "did you mean --multirun?"),
]


@pytest.mark.parametrize(("arguments", "says"), WORDS)
def test_a_wrong_command_or_option_ends_in_one_line_that_says_what_to_do(arguments, says, refused):
    refused(*arguments, words=(says,))


def test_a_mistyped_key_of_the_users_own_yaml_names_its_file(refused, digits, tmp_path):
    (tmp_path / "own/experiment").mkdir(parents=True)
    (tmp_path / "own/experiment/mine.yaml").write_text("# @package _global_\nsed: 3\n")
    overrides = [*digits[1:], "experiment=mine", "--config-dir", "own"]
    line = refused("train", *overrides, words=("unknown configuration key sed; did you mean seed?",))
    assert line.startswith("error: experiment/mine.yaml: ")


def test_home_is_found_in_the_users_own_yaml(image_folders, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cfg = OmegaConf.create(
        {"paths": {"data": "~/data"}, "dataset": {"source": {"root": "${paths.data}/x"}}, "a": "a~/b"}
    )
    assert OmegaConf.to_container(expand_home(cfg), resolve=True) == {
        "paths": {"data": f"{tmp_path}/data"},
        "dataset": {"source": {"root": f"{tmp_path}/data/x"}},
        "a": "a~/b",
    }
    assert cfg.paths.data == "~/data"


LAYOUTS = [
    ({"good": 2, "bad": 3}, "dataset.test_share=0.2 takes none from so few; raise it, or add images (3 suffice)"),
    ({"good": 1, "bad": 3}, "leaves none of 1 images for this role"),
    ({"train": 3, "test": 3}, "train and test of"),
    ({"train/good": 3, "test": 3}, "the class folders of test have no images that match"),
]


@pytest.mark.parametrize(("counts", "says"), LAYOUTS)
def test_a_layout_that_cannot_be_split_is_refused_with_cause_and_way_out(counts, says, turned_down, small, tmp_path):
    for name, count in counts.items():
        (tmp_path / "parts" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (16, 16), (i, len(name), 0)).save(tmp_path / "parts" / name / f"{i}.png")
    overrides = ["experiment=frozen", "dataset=image_folder", "dataset.source.root=parts"]
    line = turned_down(*small, *overrides, "dataset.normal=[good]", "dataset.anomalous=[bad]", words=(says,))
    assert "None" not in line


EVALUATE = [
    pytest.param(["nowhere"], ("nowhere", "not a run directory"), id="no folder"),
    pytest.param(["RUN/model"], ("not a run directory", "status.json"), id="another folder"),
    pytest.param(["RUN/status.json"], ("status.json", "not a run directory"), id="a file"),
    pytest.param(["RUN", "head=arcface"], ("head cannot change", "scorer"), id="head"),
    pytest.param(["RUN", "seed=3"], ("seed cannot change",), id="seed"),
    pytest.param(["RUN", "scorer.q=3"], ("scorer.q", "k, metric, min_recall"), id="unknown key"),
    pytest.param(["RUN", "scorer=nn"], ("scorer=nn", "did you mean knn?"), id="unknown scorer"),
    pytest.param(["RUN", "scorer=knn,nn"], ("scorer=nn", "did you mean knn?"), id="one unknown scorer of two"),
    pytest.param(["RUN", "scorer"], ("scorer", "key=value"), id="no value"),
    pytest.param(["RUN", "=3"], ("=3 is no override", "key=value"), id="no key"),
    pytest.param(["RUN", "scorer=glob(nn*)"], ("scorer=glob(nn*) stands for no value",), id="a pattern of nothing"),
    pytest.param(["RUN", "scorer.k=range(3,3)"], ("scorer.k=range(3,3) stands for no value",), id="an empty range"),
    pytest.param(["RUN", "scorer.k=999"], ("scorer.k=999", "86 normal images"), id="k above the index"),
    pytest.param(["RUN", "scorer.k=x"], ("scorer.k=x", "integer"), id="k no number"),
    pytest.param(["RUN", "scorer.k=[1"], ("scorer.k",), id="unclosed bracket"),
    pytest.param(["RUN", "scorer.k=${x}"], ("scorer.k", "'x'"), id="unknown interpolation"),
    pytest.param(["RUN", "scorer._target_=os.system"], ("os.system", "not allowed"), id="target"),
    pytest.param(["RUN", "scorer=gmm", "scorer.k=2"], ("scorer.k", "components"), id="setting of another scorer"),
    pytest.param(["RUN", "scorer.index=ivf", "scorer.nprobe=99"], ("scorer.nprobe", "99"), id="more lists than set"),
    pytest.param(["RUN", "evaluation.false_alarm_rates=[0.001]"], ("0.001", "999", "got 21"), id="few to calibrate"),
    pytest.param(["RUN", "evaluation.false_alarm_rates=[2]"], ("evaluation.false_alarm_rates", "below 1"), id="rate"),
    pytest.param(["RUN", "evaluation.level=1"], ("evaluation.level", "above 0 and below 1"), id="level"),
    pytest.param(
        ["RUN", "evaluation.resamples=3"], ("evaluation.resamples", "between 100 and 1000000"), id="resamples"
    ),
    pytest.param(["RUN", "scorer.k=1,2", "--name", "x"], ("--name", "there are 2"), id="one name for two"),
    pytest.param(["RUN", "evaluation=null"], ("evaluation is a group",), id="evaluation no group"),
    pytest.param(["RUN", "RUN"], ("second folder", "one run or one sweep"), id="two runs"),
    pytest.param(["RUN", "scorer=knn", "scorer=lof"], ("scorer is given twice", "scorer=A,B"), id="scorer twice"),
    pytest.param(["RUN", "evaluation.false_alarm_rates=[0.1,0.1]"], ("different rates",), id="a rate twice"),
    pytest.param(["RUN", "scorer.k=1:30"], ("scorer.k=1:30", "without colons"), id="a number in base 60"),
    pytest.param(["RUN", "--name", "\x1b[31mred"], ("--name", "control characters"), id="a name that colours"),
    pytest.param(["RUN", "paths=3"], ("paths",), id="paths no folder"),
    pytest.param(["RUN", "dataset.workers=x"], ("dataset.workers", "x"), id="workers"),
    pytest.param(["RUN", "dataset.memory_limit_gib=-1"], ("dataset.memory_limit_gib", "at least 0"), id="limit"),
    pytest.param(["RUN", "--name", "../../outside"], ("outside",), id="name outside the run"),
    pytest.param(["RUN", "--name", "."], ("--name",), id="name of the folder itself"),
    pytest.param(["RUN", "--name", ".."], ("--name",), id="name of the run itself"),
]


@pytest.mark.parametrize(("arguments", "words"), EVALUATE)
def test_evaluate_refuses_in_one_line(arguments, words, refused, finished_run, tmp_path):
    run = shutil.copytree(finished_run.path, tmp_path / "a run")
    before = sorted(tmp_path.rglob("*"))
    refused("evaluate", *[item.replace("RUN", str(run)) for item in arguments], words=words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["dataset.reference=[1]"], "head AdaCos needs at least 3 classes"),
        (["selection=pseudo_anomaly", "selection.classes=9"], "there are 8 reference classes"),
        (["trainer.accelerator=quantum"], "quantum"),
    ],
)
def test_a_refusal_after_images_are_read_is_one_line_alone(settings, says, metrad, digits):
    result = metrad("train", *digits, *settings)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert says in result.err


@pytest.mark.parametrize("state", ["running", "failed", "interrupted"])
def test_evaluate_refuses_an_unfinished_run(state, refused, finished_run, tmp_path):
    run = Run(shutil.copytree(finished_run.path, tmp_path / "run"))
    run.status.write_text(json.dumps({"state": state}))
    state = state.replace("running", "interrupted")  # nobody holds it, so it was killed
    refused("evaluate", run.path, words=(state, "not finished", "checkpoints/last.ckpt"))
    run.last_checkpoint.unlink()
    refused("evaluate", run.path, words=(state, "not finished", "train it again"))


def test_a_scorer_that_cannot_be_fitted_says_how_to_keep_the_training(metrad, train, digits):
    result = metrad("train", *digits, "scorer.index=sq8", "scorer.min_recall=1", "hydra.run.dir=one")
    assert (result.code, result.err.count("\n")) == (2, 1)
    checkpoint = result.err.split("repeat with ")[1].strip()
    assert "scorer.min_recall" in result.err
    run = train(*digits, checkpoint, name="two")
    assert read_json(run.metrics)["training"]["epoch"] == 1


def test_the_advice_for_parts_and_defects_alone_leads_on(train, small, image_folders, tmp_path):
    root = image_folders(tmp_path / "parts", "ab", 12)
    epochs = [item for item in small if "max_epochs" not in item]
    run = train(*epochs, "experiment=frozen", *(item.replace("FILES/good", str(root)) for item in folder("good")))
    assert read_json(run.metrics)["auroc"] >= 0


def test_a_diverged_run_is_not_to_be_gone_on_with(metrad, refused, digits, tmp_path):
    overrides = (*digits, "optimizer.lr=1e30", "trainer.max_epochs=5", "hydra.run.dir=run")
    assert metrad("train", *overrides).code == 2
    run = Run(tmp_path / "run")
    run.checkpoints.mkdir(exist_ok=True)
    run.last_checkpoint.touch()
    line = refused("evaluate", run.path, words=("failed, not finished", "it diverged", "a lower optimizer.lr"))
    assert "ckpt_path" not in line


def test_a_run_evaluated_from_another_folder_names_the_folder_of_its_images(
    refused, train, small, image_folders, tmp_path, monkeypatch
):
    image_folders(tmp_path / "größe=1")
    run = train(*small, *(item.replace("FILES/good", "'größe=1'") for item in folder("good")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    advised = f"""add 'dataset.source.root="{tmp_path}/größe=1"'"""
    line = refused("evaluate", run.path, "scorer=contrast", "scorer.k=2", words=("no such folder below", advised))
    (setting,) = shlex.split(line.partition(": add ")[2])
    assert runs_again(run, setting, "scorer=contrast", "scorer.k=2")


def runs_again(run, *overrides):
    return evaluate_run(run.path, list(overrides))[1]["auroc"] >= 0


def test_a_fault_of_metrad_s_own_has_a_text_and_an_exit_code_of_its_own(metrad, digits, monkeypatch):
    def fault(*args):
        raise KeyError("indices")

    monkeypatch.setattr("metrad.app.fit.log_counts", lambda data: fault.__globals__["Run"].nothing)
    result = metrad("train", *digits)
    assert result.code == 2  # the replaced function lies outside metrad, as a part of the user's own
    assert "AttributeError in test_bad_input.py" in result.err
    monkeypatch.undo()
    monkeypatch.setattr("metrad.app.fit.choose_pace", None)  # metrad's own code calls it
    result = metrad("train", *digits)
    assert (result.code, result.err.count("\n")) == (70, 1)
    assert result.err.startswith("internal error: TypeError: 'NoneType' object is not callable (metrad/app/fit.py:")
    assert "a fault of metrad" in result.err
    assert "error: " not in result.err.replace("internal error: ", "", 1).replace("TypeError: ", "")


def test_a_loss_that_takes_no_labels_is_refused_in_one_line(metrad, digits):
    result = metrad("train", *digits, "head=pml", "head.loss=VICRegLoss")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "head.loss=VICRegLoss cannot train from labels" in result.err


def change_split(run, change):
    split = read_json(run.split)
    change(split)
    run.split.write_text(json.dumps(split))


def drop(part):
    def tamper(run):
        cfg = OmegaConf.load(run.config)
        del cfg[part]
        OmegaConf.save(cfg, run.config)
        without_manifest(run)

    return tamper


def instead(name, put):
    """Return what puts something else in place of the file ``name`` of a run."""

    def tamper(run):
        path = run.path / name
        path.unlink(missing_ok=True)
        put(path)

    return tamper


TAMPERED = {
    "status a FIFO": (
        "status.json cannot be read: it is a FIFO, not a file; copy or create it again",
        instead("status.json", os.mkfifo),
    ),
    "status no JSON": ("status.json", lambda run: run.status.write_text("{")),
    "status a list": ("not finished", lambda run: run.status.write_text("[]")),
    "configuration no YAML": ("config.yaml", lambda run: run.config.write_text("a: [")),
    "configuration empty": ("config.yaml", lambda run: run.config.write_text("")),
    "configuration of something else": ("config.yaml", lambda run: run.config.write_text("a: 1\n")),
    **{
        f"configuration without {part}": (f"config.yaml holds no configuration of a run: it lacks {part}", drop(part))
        for part in ("trainer", "scorer", "backbone", "evaluation")
    },
    "split missing": ("split.json", lambda run: run.split.unlink()),
    "split empty": ("split.json", lambda run: run.split.write_text("{}")),
    "split without a role": ("", lambda run: change_split(run, lambda split: split["images"].pop("normal"))),
    "split changed": ("split.json", lambda run: change_split(run, lambda split: split["images"]["normal"].pop())),
    "model without its record": ("model/detector.json", lambda run: (run.model / "detector.json").unlink()),
    "record of the model changed": ("detector.json", lambda run: change_byte(run.model / "detector.json")),
    "index missing": ("index.faiss", lambda run: (run.model / "index.faiss").unlink()),
    "index changed": ("index.faiss", lambda run: change_byte(run.model / "index.faiss")),
    "calibration changed": ("calibration.safetensors", lambda run: change_byte(run.calibration)),
    "scorer changed": ("scorer.json", lambda run: change_byte(run.model / "scorer.json")),
    "embeddings missing": ("embeddings.safetensors", lambda run: (run.embeddings / "embeddings.safetensors").unlink()),
    "embeddings changed": (
        "embeddings.safetensors",
        lambda run: change_byte(run.embeddings / "embeddings.safetensors"),
    ),
    "images changed": ("images.csv", lambda run: change_byte(run.embeddings / "images.csv")),
    "weights missing": ("embedder.safetensors", lambda run: (shutil.rmtree(run.embeddings), run.embedder.unlink())),
    "weights truncated": (
        "embedder.safetensors",
        lambda run: (shutil.rmtree(run.embeddings), run.embedder.write_bytes(run.embedder.read_bytes()[:900])),
    ),
}


def change_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", TAMPERED)
def test_evaluate_refuses_a_broken_run(name, refused, finished_run, tmp_path):
    run = Run(shutil.copytree(finished_run.path, tmp_path / "run"))
    word, tamper = TAMPERED[name]
    tamper(run)
    refused("evaluate", run.path, words=(word,))
    assert not run.evaluations.exists()


@pytest.mark.parametrize("put", [os.mkfifo, Path.touch], ids=["FIFO", "file"])
def test_what_lies_in_place_of_the_folder_of_evaluations_is_named(put, refused, finished_run, tmp_path):
    run = Run(shutil.copytree(finished_run.path, tmp_path / "run"))
    put(run.evaluations)
    line = refused("evaluate", run.path, words=(f"{run.evaluations} is no folder", "remove it"))
    assert "partial" not in line


def test_parts_of_another_run_are_refused(refused, train, digits, finished_run, tmp_path):
    run = Run(shutil.copytree(finished_run.path, tmp_path / "one"))
    other = train(*digits, "seed=1", name="other")
    for name in ("index.faiss", "scorer.json", "scorer.safetensors"):
        shutil.copy(other.model / name, run.model / name)
    refused("evaluate", run.path, words=("index.faiss", "checksum"))
    shutil.rmtree(run.model)
    shutil.copytree(finished_run.model, run.model)
    shutil.rmtree(run.embeddings)
    shutil.copytree(other.embeddings, run.embeddings)
    refused("evaluate", run.path, "scorer=lof", words=("embeddings", "not of this run"))


@pytest.mark.parametrize(
    "scorer",
    [
        "{_target_: shutil.copyfile, src: RUN/hubconf.py, dst: HERE}",
        "{_target_: torch.nn.modules.module.torch.hub.load, repo_or_dir: RUN, model: m, source: local}",
        "{_target_: metrad.app.cli.train, argv: ['--help']}",
    ],
    ids=["allowed by the run itself", "by a detour", "the command line"],
)
def test_a_run_directory_from_elsewhere_is_input_and_not_code(scorer, refused, finished_run, tmp_path):
    run = Run(shutil.copytree(finished_run.path, tmp_path / "run"))
    trace = tmp_path / "code was run"
    (run.path / "hubconf.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    lines = [line for line in run.config.read_text().splitlines() if not line.startswith("allow_targets")]
    text = "\n".join(lines).replace("\nscorer:", "\nallow_targets: [shutil, torch.hub]\nold:")
    filled = scorer.replace("HERE", f"'{trace}'").replace("RUN", str(run.path))
    run.config.write_text(f"{text.split('old:')[0]}scorer: {filled}\n{after(text)}\n")
    without_manifest(run)
    refused("evaluate", run.path, words=("scorer",))
    assert not trace.exists()


def after(text: str) -> str:
    """Return what follows the old scorer's settings."""
    lines = text.split("\nold:", 1)[1].splitlines()[1:]
    start = next((i for i, line in enumerate(lines) if not line.startswith(" ")), len(lines))
    return "\n".join(lines[start:])


def test_a_folder_with_an_odd_name_works(metrad, small, image_folders, tmp_path):
    root = image_folders(tmp_path / "we ird=ü, [x] 'q'")
    overrides = [*folder("")[:1], f'dataset.source.root="{root}"', *folder("")[2:]]
    result = metrad("train", *small, *overrides, "hydra.run.dir='out put=ö'")
    run = Run.finished(tmp_path / "out put=ö")
    assert result.code == 0
    assert Path(read_json(run.split)["images"]["normal"][0]).parent.name == "a"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("dataset.sizes.test_normal=39", "other images"),
        ("seed=5", "seed was 0 and is 5 now"),
        ("head=normface", "other settings: head was adacos and is normface now; set them"),
        ("head.sub_centers=2", "head.sub_centers was 1 and is 2 now"),
        ("optimizer.lr=0.5", "optimizer.lr was 0.001 and is 0.5 now"),
        ("optimizer.weight_decay=0.5", "optimizer.weight_decay was 0.0 and is 0.5 now"),
        ("scheduler=step", "other settings: scheduler was none and is step now; set them"),
        ("batch_size=32", "batch_size was 64 and is 32 now"),
        ("channels_last=false", "channels_last was True and is False now"),
        ("augmentation=flip", "other settings: augmentation was none and is flip now; set them"),
        ("finetuning.distillation=1", "finetuning.distillation was not set and is 1.0 now"),
        ("finetuning.layer_decay=0.5", "finetuning.layer_decay was not set and is 0.5 now"),
        ("trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches was 1 and is 2 now"),
        ("trainer.gradient_clip_val=1", "trainer.gradient_clip_val was None and is 1 now"),
        ("trainer.precision=bf16-mixed", "trainer.precision was 32-true and is bf16-mixed now"),
    ],
)
def test_a_checkpoint_that_training_cannot_go_on_from_as_asked_is_refused(
    change, word, turned_down, digits, finished_run
):
    checkpoint = finished_run.last_checkpoint
    turned_down(*digits, change, f"ckpt_path={checkpoint}", "trainer.max_epochs=3", words=("ckpt_path", word))


def test_a_cosine_schedule_does_not_rise_again_where_more_epochs_are_trained(turned_down, train, digits):
    """After two epochs of two, the rate is 0; the schedule of four epochs has another rate in every epoch."""
    cosine = [*digits, "scheduler=cosine"]
    checkpoint = train(*cosine, "trainer.max_epochs=2").last_checkpoint
    more = [*cosine, f"ckpt_path={checkpoint}", "trainer.max_epochs=4"]
    turned_down(*more, words=("scheduler.T_max was 2 and is 4 now",))
    saved = torch.load(checkpoint, weights_only=True)
    torch.save({key: value for key, value in saved.items() if key != "settings"}, "before.ckpt")
    words = ("was made with scheduler.T_max=2, but scheduler.T_max=4 now",)
    turned_down(*cosine, "ckpt_path=before.ckpt", "trainer.max_epochs=4", words=words)


def test_a_schedule_is_not_added_to_a_checkpoint_that_lacks_its_settings(turned_down, digits, finished_run):
    saved = torch.load(finished_run.last_checkpoint, weights_only=True)
    torch.save({key: value for key, value in saved.items() if key not in ("settings", "precision")}, "before.ckpt")
    words = ("before.ckpt was made without a scheduler",)
    turned_down(*digits, "scheduler=cosine", "ckpt_path=before.ckpt", "trainer.max_epochs=3", words=words)


def test_training_goes_on_in_the_precision_that_auto_chose(train, digits, finished_run):
    saved = torch.load(finished_run.last_checkpoint, weights_only=True)
    torch.save({**saved, "precision": "bf16-mixed"}, "half.ckpt")
    run = train(*digits, "trainer.precision=auto", "ckpt_path=half.ckpt", "trainer.max_epochs=2")
    speed = read_json(run.environment)["speed"]
    assert (speed["precision"], speed["precision_reason"]) == ("bf16-mixed", "that of the checkpoint")

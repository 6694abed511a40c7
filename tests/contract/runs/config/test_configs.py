"""Every YAML composes, passes the checks and builds."""

import functools

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from metrad.app.build import build_augmentation
from metrad.app.train import expected_warnings
from metrad.models.base import Backbone
from metrad.runs.config import catalogue, checks
from metrad.runs.config.build import factory, instantiate

ALL = [(group, name) for group, names in catalogue.choices().items() for name in names]
MANDATORY = {
    ("backbone", "torchvision"): ["backbone.name=mobilenet_v3_small"],
    ("dataset", "image_folder"): ["dataset.source.root=here", "dataset.normal=[a]", "dataset.anomalous=[b]"],
    ("dataset", "manifest"): ["dataset.source.path=here.csv", "dataset.normal=[a]", "dataset.anomalous=[b]"],
    ("dataset", "good_folder"): ["dataset.source.root=here", "dataset.normal=[here]"],
    ("experiment", "inspect"): ["dataset.source.root=here", "dataset.normal=[here]"],
}
OPTIONAL_PACKAGES = {("logger", "wandb"): "wandb", ("logger", "mlflow"): "mlflow"}
NEEDS_A_GPU = {("trainer", "gpu")}


def composed(*overrides: str):
    checks.register()
    with initialize_config_dir(str(catalogue.folder()), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.mark.parametrize(("group", "name"), ALL)
def test_every_choice_composes_and_passes_the_checks(group, name):
    if (group, name) in OPTIONAL_PACKAGES:
        pytest.importorskip(OPTIONAL_PACKAGES[group, name], reason="an optional extra")
    cfg = composed(f"{group}={name}", *MANDATORY.get((group, name), []))
    checks.check(cfg)
    assert OmegaConf.missing_keys(cfg) == set()


@pytest.mark.parametrize(("group", "name"), ALL)
def test_every_choice_says_what_it_is(group, name):
    assert len(catalogue.choices()[group][name]) > 10


@pytest.mark.parametrize("name", sorted(catalogue.choices()["backbone"]))
@pytest.mark.parametrize("size", [32, 96])
def test_every_backbone_builds_and_its_width_is_measured(name, size):
    cfg = composed(f"backbone={name}", *MANDATORY.get(("backbone", name), []), "backbone.weights=null")
    backbone = instantiate(cfg, "backbone")
    assert isinstance(backbone, Backbone)
    features = backbone.module.eval()(torch.zeros(2, 3, size, size))
    assert features.shape[1] == backbone.out_features


@pytest.mark.parametrize("name", sorted(catalogue.choices()["optimizer"]))
@pytest.mark.parametrize("schedule", sorted(catalogue.choices()["scheduler"]))
def test_every_optimiser_and_scheduler_steps(name, schedule):
    cfg = composed(f"optimizer={name}", f"scheduler={schedule}")
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = factory(cfg, "optimizer")([weight])
    rates = [optimizer.param_groups[0]["lr"]]
    scheduler = factory(cfg, "scheduler")(optimizer) if cfg.scheduler else None
    for _ in range(10):
        weight.sum().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert (weight < 1).all()
    assert rates[0] == cfg.optimizer.lr
    assert (rates[-1] < rates[0]) == (scheduler is not None)


@pytest.mark.parametrize("name", sorted(catalogue.choices()["augmentation"]))
@pytest.mark.parametrize("shape", [(16, 28, 28, 1), (16, 24, 32, 3)], ids=["grey", "colour"])
def test_every_augmentation_builds_and_changes_images_each_in_its_own_way(name, shape):
    augmentation = build_augmentation(composed(f"augmentation={name}"))
    assert (augmentation is None) == (name == "none")
    if augmentation is None:
        return
    image = torch.randint(0, 256, (1, *shape[1:]), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = image.expand(shape)
    torch.manual_seed(0)
    first = augmentation(images)
    torch.manual_seed(0)
    assert torch.equal(augmentation(images), first)
    assert (first.shape, first.dtype) == (images.shape, torch.uint8)
    assert len(first.unique(dim=0)) > 1
    assert not torch.equal(augmentation(images), first)
    assert list(augmentation.parameters()) == []


def test_augmentation_is_off_unless_chosen():
    assert composed().augmentation == {}
    assert build_augmentation(composed()) is None


@pytest.mark.parametrize("name", sorted(catalogue.choices()["dataset"]))
def test_every_dataset_names_a_source_that_can_be_called(name):
    cfg = composed(f"dataset={name}", *MANDATORY.get(("dataset", name), []))
    source = factory(cfg, "dataset.source")
    assert isinstance(source, functools.partial)


@pytest.mark.parametrize("name", sorted(catalogue.choices()["logger"]))
def test_every_logger_builds(name, tmp_path):
    if ("logger", name) in OPTIONAL_PACKAGES:
        pytest.importorskip(OPTIONAL_PACKAGES["logger", name], reason="an optional extra")
    cfg = composed(f"logger={name}")
    if cfg.logger:
        logger = instantiate(cfg, "logger", save_dir=str(tmp_path))
        assert str(tmp_path) in str(logger.save_dir)
    else:
        assert name == "none"


@pytest.mark.parametrize("name", sorted(catalogue.choices()["trainer"]))
def test_every_trainer_builds(name, tmp_path):
    if ("trainer", name) in NEEDS_A_GPU and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    cfg = composed(f"trainer={name}", "trainer.precision=32-true", "trainer.enable_progress_bar=false")
    with expected_warnings():
        trainer = instantiate(cfg, "trainer", default_root_dir=tmp_path, logger=False)
    assert trainer.max_epochs == 10


def test_the_article_is_the_default():
    default, article = composed(), composed("experiment=article")
    assert OmegaConf.to_container(default, resolve=True) == OmegaConf.to_container(article, resolve=True)


def test_the_defaults_are_those_of_the_protocol():
    cfg = composed()
    assert (cfg.image_size, cfg.batch_size, cfg.trainer.max_epochs) == (96, 128, 10)
    assert (cfg.optimizer._target_, cfg.optimizer.lr, cfg.optimizer.amsgrad) == ("torch.optim.Adam", 1e-4, True)
    assert (cfg.scorer.k, cfg.scorer.metric) == (1, "cosine")
    assert (cfg.backbone._target_, cfg.backbone.width) == ("metrad.models.backbones.mobilenet_v2", 1.0)
    for name in ("fmnist", "cifar10", "cifar10_folder"):
        sizes = composed(f"dataset={name}").dataset.sizes
        assert (sizes.reference, sizes.normal, sizes.test_normal, sizes.test_anomalous) == (8000, 1000, 1000, 1000)
    arcface = composed("head=arcface").head
    assert (arcface.scale, arcface.margin) == (30.0, 0.05)
    assert composed("head=l2_softmax").head.alpha == 15.0

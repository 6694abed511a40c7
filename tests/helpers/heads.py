"""The heads of conf/head, and those in the folder that METRAD_TEST_HEADS names, by the names of their YAML files."""

import os
from pathlib import Path

import torch
from omegaconf import OmegaConf

from metrad.models.heads import Head
from metrad.runs.config import catalogue
from metrad.runs.config.build import instantiate

WIDTH, CLASSES, BATCH = 16, 9, 32
SHIPPED = {path.stem: path for path in sorted((catalogue.folder() / "head").glob("*.yaml"))}


def of_the_user() -> dict[str, Path]:
    """Return the YAML files of METRAD_TEST_HEADS by name; an empty folder or a name that is taken is a mistake."""
    folder = os.environ.get("METRAD_TEST_HEADS")
    if not folder:
        return {}
    found = {path.stem: path for path in sorted(Path(folder).glob("*.yaml"))}
    taken = sorted(found.keys() & SHIPPED.keys())
    if taken or not found:
        what = f"has names that are taken: {', '.join(taken)}" if taken else "is no folder with *.yaml in it"
        raise ValueError(f"METRAD_TEST_HEADS={folder} {what}")
    return found


OWN = of_the_user()
HEADS = [*SHIPPED, *OWN]


def settings_of(name: str) -> dict[str, object]:
    return dict(OmegaConf.load({**SHIPPED, **OWN}[name]))


def make(name: str, num_classes: int = CLASSES, **settings: object) -> Head:
    torch.manual_seed(0)
    node = {**settings_of(name), **settings}
    allowed = [str(node["_target_"]).split(".")[0]] if name in OWN else []
    cfg = OmegaConf.create({"head": node, "allow_targets": allowed})
    return instantiate(cfg, "head", in_features=WIDTH, num_classes=num_classes)


def centres(head: Head) -> torch.Tensor:
    """Return the first weight of each class, or any vectors for a head without weights of its own."""
    weight = getattr(head, "weight", torch.eye(CLASSES, WIDTH))
    return weight.detach()[:: len(weight) // CLASSES].clone()

"""The roles of the configuration's parts: what the ``_target_`` of each may be."""

from metrad.detector.targets import BACKBONE, HEAD, SCORER, Role

# Key of the part → its role. The keys are those of ``schema.PARTS``.
ROLES = {
    "head": HEAD,
    "backbone": BACKBONE,
    "scorer": SCORER,
    "dataset.source": Role(
        "a metrad.data.sources.Source or a dataset of torchvision.datasets",
        (
            *("metrad.data.sources", "metrad.data.layouts", "metrad.data.manifests", "metrad.data.joined_sources"),
            "torchvision.datasets",
        ),
        ("metrad.data.sources.Source", "torchvision.datasets.VisionDataset"),
        partial=True,
        but=("LSUN", "LSUNClass"),  # they unpickle a file
        nested="sources",
    ),
    "augmentation": Role(
        "a torch.nn.Module of metrad.data.augmentation, torchvision.transforms or torch.nn",
        ("metrad.data.augmentation", "torchvision.transforms", "torch.nn"),
        ("torch.nn.Module",),
    ),
    "optimizer": Role(
        "a torch.optim.Optimizer", ("torch.optim", "timm.optim"), ("torch.optim.Optimizer",), partial=True
    ),
    "scheduler": Role(
        "a torch.optim.lr_scheduler.LRScheduler",
        ("torch.optim.lr_scheduler",),
        ("torch.optim.lr_scheduler.LRScheduler",),
        partial=True,
    ),
    "trainer": Role("pytorch_lightning.Trainer", ("pytorch_lightning",), ("pytorch_lightning.Trainer",), exactly=True),
    "logger": Role(
        "a logger of pytorch_lightning.loggers", ("pytorch_lightning.loggers",), ("pytorch_lightning.loggers.Logger",)
    ),
}


def role_of(key: str) -> Role:
    """Return the role of the part at the dotted ``key``; those below ``selection.scorers`` are scorers."""
    return ROLES["scorer" if key.startswith("selection.scorers.") else key]

"""How far training may take an embedder from the weights it begins with: the settings, and a part of the schema."""

from dataclasses import dataclass


@dataclass
class Finetuning:
    """What holds an embedder back; with the defaults nothing does.

    Attributes:
        layer_decay: learning rate of each block of the backbone as a share of that of the block after it; 0 trains the
            last block alone. Source: Howard and Ruder 2018, arXiv 1801.06146, "discriminative fine-tuning".
        batch_norm: whether batch normalisation goes by each batch; otherwise by the means and variances that came with
            the weights, which stay, while its scales and offsets are trained.
        distillation: weight of a second loss, 1 - cos of the angle between an embedding and the one that the first
            weights give. Source: feature distillation as in Romero 2015, arXiv 1412.6550.
        ema: share of the moving average of the weights that a step keeps, such as 0.99; the average is what remains
            after training and what a study looks at. None for the last weights themselves.
    """

    layer_decay: float = 1.0
    batch_norm: bool = True
    distillation: float = 0.0
    ema: float | None = None

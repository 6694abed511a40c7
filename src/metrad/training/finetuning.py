"""The settings of fine-tuning."""

from dataclasses import dataclass


@dataclass
class Finetuning:
    """Options that keep fine-tuning near the initial weights; all off by default.

    Attributes:
        layer_decay: learning rate of each block of the backbone as a share of the next block's; 0 trains only the last
            block. Source: Howard and Ruder 2018, arXiv 1801.06146, "discriminative fine-tuning".
        batch_norm: whether batch normalisation uses the statistics of each batch. Otherwise it uses the means and
            variances stored with the initial weights, and only its scales and offsets are trained.
        distillation: weight of a second loss, 1 - cos of the angle between an embedding and that of the initial
            weights. Source: feature distillation as in Romero 2015, arXiv 1412.6550.
        ema: share that each step keeps of the moving average of the weights, such as 0.99. The averaged weights are
            studied and saved. None for no average.
    """

    layer_decay: float = 1.0
    batch_norm: bool = True
    distillation: float = 0.0
    ema: float | None = None

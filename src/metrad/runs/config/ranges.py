"""The ranges of the arguments of parts: of metrad's own classes, and of torch's and Lightning's.

Each dictionary belongs to one part of the schema and gives a rule by the name of an argument. Where several classes
of a part have an argument of one name, its range holds for all of them; a class may allow less.
"""

import re
from typing import Any

from metrad.runs.config.fields import Rule, each, within

MOST_EPOCHS = 100_000  # a run of more would not end within a lifetime on any machine

_ABOVE_0 = within(0, excluding=("low",))
_AT_LEAST_0 = within(0)
_SHARE = within(0, 1)
_DECAY = within(0, 1, excluding=("high",))
_COUNT = within(1, whole=True)
_COUNT_OR_NULL = within(1, whole=True, null=True)
_COUNT_FROM_0 = within(0, whole=True)


def _one_or_each(rule: Rule) -> Rule:
    """Return the rule that a number satisfies ``rule``, or each number of a list, one for each group of weights."""
    return Rule(f"{rule.must}, or list such numbers", lambda value: rule.holds(value) or each(rule).holds(value))


def _is_part(value: Any, least: int) -> bool:
    if value is None:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value >= least if isinstance(value, int) else (0 if least == 0 else 1e-12) <= value <= 1


def _is_time(value: Any) -> bool:
    if isinstance(value, dict):
        return sum(value.values()) > 0
    text = value if isinstance(value, str) else ""
    return value is None or bool(re.fullmatch(r"\d+:\d\d:\d\d:\d\d", text) and re.search("[1-9]", text))


BACKBONE = {
    "width": within(0, 100, excluding=("low",)),
    "channels": each(within(1, 65_536, whole=True)),
}
HEAD = {
    "scale": _ABOVE_0,
    "margin": within(0, 100),
    "sub_centers": within(1, 100_000, whole=True),
    "easing": _AT_LEAST_0,
    "concentration": _ABOVE_0,
    "momentum": within(0, 1, excluding=("low",)),
    "lengths": each(_ABOVE_0, 2),
    "margins": each(_AT_LEAST_0, 2),
    "regulariser": _AT_LEAST_0,
    "alpha": _ABOVE_0,
}
SOURCE = {"size": _COUNT_OR_NULL}
SCORER = {
    "k": _COUNT,
    "weight": _AT_LEAST_0,
    "components": _COUNT,
    "dimensions": _COUNT,
    "reg_covar": _AT_LEAST_0,
    "seed": within(0, 2**32 - 1, whole=True),
    "nlist": _COUNT_OR_NULL,
    "nprobe": _COUNT_OR_NULL,
    "M": within(2, 512, whole=True, null=True),
    "ef_search": within(1, 1_000_000, whole=True, null=True),
    "min_recall": within(0, 1, excluding=("low",)),
}
AUGMENTATION = {
    "flip": _SHARE,
    "vertical_flip": _SHARE,
    "crop_padding": within(0, 0.5),
    "color": _SHARE,
    "rand_augment": within(0, 12, whole=True),
    "magnitude": within(0, 30),
}
OPTIMIZER = {
    "lr": _ABOVE_0,
    "weight_decay": _AT_LEAST_0,
    "momentum": _DECAY,
    "dampening": _SHARE,
    "betas": each(_DECAY, 2),
    "eps": _AT_LEAST_0,
    "rho": _SHARE,
    "alpha": _SHARE,
    "lr_decay": _AT_LEAST_0,
    "initial_accumulator_value": _AT_LEAST_0,
    "lambd": _AT_LEAST_0,
    "t0": _AT_LEAST_0,
    "momentum_decay": _AT_LEAST_0,
    "d": _ABOVE_0,
    "beta2_decay": within(high=0),
    "etas": each(_ABOVE_0, 2),
    "step_sizes": each(_ABOVE_0, 2),
    "ns_steps": within(1, 99, whole=True),
    "max_iter": within(1, 10_000, whole=True),
    "max_eval": within(1, 100_000, whole=True, null=True),
    "history_size": within(1, 10_000, whole=True),
    "tolerance_grad": _AT_LEAST_0,
    "tolerance_change": _AT_LEAST_0,
}
SCHEDULER = {
    "T_max": _COUNT,
    "T_0": _COUNT,
    "T_mult": _COUNT,
    "step_size": _COUNT,
    "step_size_up": _COUNT,
    "step_size_down": _COUNT_OR_NULL,
    "milestones": each(_COUNT),
    "gamma": _ABOVE_0,
    "power": _ABOVE_0,
    "factor": _SHARE,
    "start_factor": within(0, 1, excluding=("low",)),
    "end_factor": _SHARE,
    "total_iters": _COUNT,
    "eta_min": _AT_LEAST_0,
    "min_lr": _one_or_each(_AT_LEAST_0),
    "base_lr": _one_or_each(_AT_LEAST_0),
    "max_lr": _one_or_each(_ABOVE_0),
    "patience": _COUNT_FROM_0,
    "cooldown": _COUNT_FROM_0,
    "threshold": _AT_LEAST_0,
    "total_steps": _COUNT_OR_NULL,
    "epochs": _COUNT_OR_NULL,
    "steps_per_epoch": _COUNT_OR_NULL,
    "pct_start": _SHARE,
    "div_factor": _ABOVE_0,
    "final_div_factor": _ABOVE_0,
    "base_momentum": _one_or_each(_DECAY),
    "max_momentum": _one_or_each(_DECAY),
    "last_epoch": Rule("be -1", lambda value: value == -1),
}
TRAINER = {
    "max_epochs": within(0, MOST_EPOCHS, whole=True),
    "min_epochs": within(0, MOST_EPOCHS, whole=True, null=True),
    "max_steps": Rule(
        "be a whole number of at least 1, or -1 for no limit; trainer.max_epochs=0 trains nothing",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and (value == -1 or value >= 1),
    ),
    "min_steps": within(0, whole=True, null=True),
    "max_time": Rule("be a time above 0 as DD:HH:MM:SS, such as 00:12:00:00, or null", _is_time),
    "fast_dev_run": Rule(
        "be false: it trains on a few batches, and the run would say that it finished; set trainer.max_steps",
        lambda value: not value,
    ),
    "barebones": Rule("be false: it writes no checkpoint", lambda value: not value),
    "limit_train_batches": Rule(
        "be a count of at least 1, a share above 0 and at most 1, or null", lambda value: _is_part(value, 1)
    ),
    **{
        name: Rule("be a count of at least 0, a share between 0 and 1, or null", lambda value: _is_part(value, 0))
        for name in ("limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches")
    },
    "accumulate_grad_batches": within(1, 1_000_000, whole=True),
    "gradient_clip_val": within(0, excluding=("low",), null=True),
    "log_every_n_steps": within(0, whole=True, null=True),
    "check_val_every_n_epoch": _COUNT_OR_NULL,
    "num_sanity_val_steps": within(-1, whole=True, null=True),
    "reload_dataloaders_every_n_epochs": _COUNT_FROM_0,
    "num_nodes": within(1, 10_000, whole=True),
}
LOGGER = {
    "flush_logs_every_n_steps": _COUNT,
    "flush_secs": _COUNT,
    "max_queue": _COUNT,
}

"""Values of the keys whose type does not say what they take, or whose right values depend on the data."""

_TYPE, _SHAPE, _RANGE, _SPECIAL, _NULL = (
    *("wrong type", "wrong shape", "out of range", "nan, infinite or huge", "null"),
)
_SIZE = {
    _TYPE: ("banana", "true", "10%"),
    _SHAPE: ("[10]", "{n: 5}"),
    _RANGE: ("-1", "1.5", "-0.1", "100000"),
    _SPECIAL: ("nan", "inf", "1" + 30 * "0"),
}
_CLASSES = {
    _TYPE: ("true", "7.5"),
    _SHAPE: ("{7: true}", "[[7]]"),
    _RANGE: ("[10]", "[-1]", "[seven]"),
    _SPECIAL: ("[nan]", "[inf]", "[1" + 30 * "0" + "]"),
}
_SWITCH = {_TYPE: ("banana", "7"), _SHAPE: ("[auto]", "{a: true}")}
_PART = {_TYPE: ("banana", "[1]"), _RANGE: ("-1", "1.5"), _SPECIAL: ("nan", "inf", "-inf")}
_DEVICES = {_TYPE: ("banana", "0.5"), _RANGE: ("0", "-2", "100000"), _SPECIAL: ("nan", "inf")}

# What stands beside settings that begin with this word, so that they are looked at.
CONTEXTS = {
    "selection": ("selection=pseudo_anomaly",),
    "sweep": ("-m",),
    "parts": (
        *("dataset=image_folder", "dataset.source.root=parts", "dataset.normal=[good]", "dataset.anomalous=[crack]"),
    ),
}
WRONG = {
    "allow_targets": {_TYPE: ("banana", "true"), _SHAPE: ("{os: true}", "[[os]]"), _NULL: ("null",)},
    "ckpt_path": {_TYPE: ("7", "banana.ckpt"), _SHAPE: ("[a,b]", "{a: b}")},
    "compile": {**_SWITCH, _NULL: ("null",)},
    "paths.data": {_TYPE: ("[1]",), _SHAPE: ("[a,b]", "{a: b}"), _NULL: ("null",)},
    "dataset.category": {_TYPE: ("screw", "7"), _SHAPE: ("[screw]", "{a: screw}")},
    "dataset.normal": {**_CLASSES, _NULL: ("null",)},
    "dataset.anomalous": {**_CLASSES, _NULL: ("null",)},
    "dataset.reference": _CLASSES,
    "dataset.group": {
        _TYPE: ("7", "true"),
        _SHAPE: ("[parent]", "{a: 1}", "{pattern: 7}", "{gap: 2}", "{pattern: '(?P<a>x)', gaps: 2}"),
        _RANGE: ("nosuch_column", "{pattern: '(?P<a>x)', gap: 1.5}", "{pattern: '(?P<a>x)', size: 1}"),
    },
    "dataset.range": {
        _TYPE: ("banana", "true", "8.5"),
        _SHAPE: ("[8]", "{a: 8}"),
        _RANGE: ("7", "17", "0", "-8"),
        _SPECIAL: ("nan", "inf"),
        _NULL: ("null",),
    },
    **{f"dataset.sizes.{role}": _SIZE for role in ("reference", "normal", "calibration", "test_normal")},
    "dataset.sizes.test_anomalous": _SIZE,
    "evaluation.false_alarm_rates": {
        _TYPE: ("often", "[rare]"),
        _SHAPE: ("[[0.05]]", "{a: 0.05}"),
        _RANGE: ("[0]", "[1]", "[-0.1]", "[5]", "[0.1,0.1]", f"[{','.join(f'0.{i}' for i in range(101, 202))}]"),
        _SPECIAL: ("[nan]", "[inf]"),
    },
    "selection.candidates": {
        _TYPE: ("banana", "3"),
        _SHAPE: ("{optimizer.lr: 1}", "[fast]", "[[]]"),
        _NULL: ("null",),
        _RANGE: ("[]", "[{seed: 1}]", "[{optimizer.lr: -1}]", "[{optimizer.lrr: 1}]", "[{},{}]"),
    },
    "selection.classes": {
        _TYPE: ("true", "2.5"),
        _SHAPE: ("{a: 1}", "[[1]]"),
        _RANGE: ("0", "-1", "9", "[nosuch]", "[7]", "[0,0]"),
        _SPECIAL: ("nan", "inf"),
    },
    "selection.defects": {
        _TYPE: ("banana", "3"),
        _SHAPE: ("{scar: 1}", "[[scar]]"),
        _RANGE: ("[crack]", "[scar,scar]", "[1]"),
        _NULL: ("null",),
    },
    "selection.scorers": {_TYPE: ("banana", "3"), _SHAPE: ("[knn]", "{x: {k: 1}}", "{x: 1}"), _NULL: ("null",)},
    "sweep.name": {_TYPE: ("[1]",), _SHAPE: ("[a,b]", "{a: b}"), _RANGE: ("../x", "a/b", "..")},
    "backbone.layers": {_TYPE: ("3", "banana"), _SHAPE: ("{a: 1}", "[[1]]"), _RANGE: ("[layer9]", "[]")},
    "trainer.accelerator": {_TYPE: ("quantum", "7"), _SHAPE: ("[cpu]", "{a: 1}")},
    "trainer.devices": _DEVICES,
    "trainer.strategy": {_TYPE: ("magic", "7"), _SHAPE: ("[ddp]", "{a: 1}")},
    "trainer.precision": {_TYPE: ("fast", "8"), _SHAPE: ("[32]", "{a: 1}"), _SPECIAL: ("nan", "inf")},
    "trainer.enable_progress_bar": _SWITCH,
    "trainer.max_steps": {_TYPE: ("many", "1.5", "true"), _RANGE: ("0", "-2"), _SPECIAL: ("nan", "inf")},
    "trainer.max_time": {_TYPE: ("forever", "7"), _SHAPE: ("[1]",), _RANGE: ("00:00:00:00", "-1:00:00:00")},
    "trainer.fast_dev_run": {_TYPE: ("banana", "[1]"), _RANGE: ("true", "3"), _SPECIAL: ("nan", "inf")},
    "trainer.barebones": {_TYPE: ("banana", "[1]"), _RANGE: ("true",)},
    "trainer.limit_train_batches": {**_PART, _RANGE: ("0", "-1", "1.5", "0.0")},
    **{
        f"trainer.{name}": _PART
        for name in ("limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches")
    },
    "scheduler.last_epoch": {_TYPE: ("banana", "[1]"), _RANGE: ("0", "5", "-2"), _SPECIAL: ("nan", "inf")},
}
RIGHT = {
    "image_size": ("4", "32", "null"),
    "batch_size": ("2", "100000"),
    "compile": ("false", "auto"),
    "ckpt_path": ("null",),
    "allow_targets": ("[]", "[my_package]"),
    "paths.data": ("elsewhere", "~/elsewhere"),
    "dataset.category": ("null",),
    "dataset.normal": ("8", "[6,7]", '["7"]', "[7*]"),
    "dataset.anomalous": ("3", "[3,8]", "[]"),
    "dataset.reference": ("[0,1,2]", '["1",2,3,4]'),
    "dataset.sizes.reference": ("0.5", "100"),
    "dataset.sizes.normal": ("40", "0.5"),
    "dataset.sizes.calibration": ("0", "19", "0.3", "auto"),
    "dataset.sizes.test_normal": ("10", "0.5"),
    "dataset.sizes.test_anomalous": ("10", "0.5"),
    "dataset.test_share": ("0.3", "0.6"),  # which leave the 40 test images that the other settings ask for
    "dataset.on_corrupt": ("error", "skip"),
    "dataset.group": ("null", "auto"),
    "dataset.range": ("8", "16", "auto"),
    "dataset.max_megapixels": ("0.001", "1000"),
    "dataset.disk_limit_gib": ("0", "0.5"),
    "dataset.memory_limit_gib": ("0", "0.5"),
    "dataset.workers": ("0", "1"),
    "evaluation.false_alarm_rates": ("[0.1]", "[0.1,0.2]"),
    "evaluation.level": ("0.001", "0.999"),
    "evaluation.resamples": ("100", "3000"),
    "finetuning.distillation": ("0", "0.5"),
    "selection.candidates": ("[{}]",),
    "selection.classes": ("1", "[0]"),
    "selection.defects": ("[]", "[scar,cutpaste]"),
    "selection.folds": ("2", "100"),
    "selection.minutes": ("null", "0.5"),
    "selection.normal_share": ("0.1", "0.6"),
    "selection.scorers": ("{}",),
    "sweep.name": ("mine", "a-b_1"),
}
# Of arguments of parts; each takes a run.
ARGUMENTS_RIGHT = {
    "head.scale": ("0.001", "1000"),
    "head.margin": ("0", "0.5"),
    "head.sub_centers": ("1", "3"),
    "scorer.k": ("1", "80"),
    "scorer.weight": ("0", "1"),
    "scorer.min_recall": ("0.001", "1"),
    "augmentation.flip": ("0", "1"),
    "augmentation.crop_padding": ("0", "0.5"),
    "augmentation.rand_augment": ("0", "12"),
    "augmentation.magnitude": ("0", "30"),
    "optimizer.lr": ("1e-9", "0.01"),
    "optimizer.weight_decay": ("0", "0.1"),
    "scheduler.step_size": ("1", "1000000"),
    "trainer.max_epochs": ("0", "2"),
    "trainer.limit_train_batches": ("1", "0.5"),
    "trainer.accumulate_grad_batches": ("1", "3"),
    "trainer.gradient_clip_val": ("0.001", "null"),
    "dataset.source.size": ("8", "null"),
}

"""Plants faults everywhere but in the heads, one at a time in a copy of the project; prints which test catches each.

    python tests/faults.py [--root FOLDER] [--check] [--deep] [--seed N] [--count N] [--jobs N] [NAME ...]

Each fault has an old text, which occurs exactly once below src, and a new text that replaces it. No fault names a file,
so a moved file needs no change here. The tests run first are those below tests/unit, tests/reference, tests/contract
and tests/hostile whose path contains one of the fault's keywords. With --deep, the other tests follow if none of these
fails. Tests marked long, compiles, browser or slurm never run. NAME is a part of a fault's name or of its room; the
default is all faults. The exit code is 1 if a fault survives, or, with --check, if a fault cannot be planted.
"""

import argparse
import ast
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

PARTS = (
    "src",
    "conf",
    "tests",
    "docs",
    "benchmarks",
    "pyproject.toml",
    "train.py",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
)
FIRST = ("tests/unit/", "tests/reference/", "tests/contract/", "tests/hostile/")
LIMIT_SECONDS = 600
SURVIVED = "SURVIVED"
PYTEST = (
    *("-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider"),
    "-m",
    "not (long or compiles or browser or slurm)",
)
# Runs inside the copy, before any test: the fault must be in what is tested, and failing examples are not made smaller.
CONFTEST = """\
from pathlib import Path
from hypothesis import Phase, settings
import metrad
settings.register_profile("faults", phases=[Phase.explicit, Phase.generate], derandomize=True, deadline=None)
settings.load_profile("faults")
found = Path(metrad.__file__)
assert Path(__file__).resolve().parent in found.resolve().parents, f"not the copy is tested but {found}"
"""
SUMMARY_OF_SEED = "np.clip(statistic.seed_interval(found.to_numpy()), 0, 1)"
PAIRED_DIFFERENCES = "np.array([one[seed] - other[seed] for seed in one if seed in other])"
EACH_GPU = """\
        for place in range(self.jobs_per_gpu):
            for gpu in gpus:"""

# Room → keywords of its test files, and name of the fault → (old text, new text[, keywords of its own]).
PLANTED: dict[str, tuple[tuple[str, ...], dict[str, tuple]]] = {
    "splits and roles": (
        ("data/test_splits", "data/test_prepared"),
        {
            "the copy in the training part stays": (
                'np.argsort(~preferred[candidates], kind="stable")',
                'np.argsort(preferred[candidates], kind="stable")',
            ),
            "broken images are drawn": ("np.flatnonzero(pool.usable & np.isin(", "np.flatnonzero(np.isin("),
            "smallest remainder first": (
                'np.argsort(-remainder, kind="stable")',
                'np.argsort(remainder, kind="stable")',
            ),
            "pieces of roles overlap": ("[_apart(images[n:], groups, drawn[role]) for", "[images for"),
            "a group on both sides of the calibration": (
                "_apart(images[n:], groups, drawn[role])",
                "images[n:]",
                ("data/test_splits_by_group",),
            ),
            "anomalous images of training groups are tested": (
                "anomalous = _apart(kept[np.isin(labels[kept], classes.anomalous)], groups, normal[~to_test])",
                "anomalous = kept[np.isin(labels[kept], classes.anomalous)]",
                ("data/test_splits_by_group",),
            ),
            "a view that falls goes on with its part": (
                "views[position] >= 0 and views[position] <= views[last]",
                "views[position] < 0",
                ("data/test_groups",),
            ),
            "seed forgotten": (
                "default_rng([seed, label, *purpose.encode()])",
                "default_rng([label, *purpose.encode()])",
            ),
            "one stream for all classes": (
                "default_rng([seed, label, *purpose.encode()])",
                "default_rng([seed, *purpose.encode()])",
            ),
            "head labels with normal classes first": (
                "return self.reference + self.normal",
                "return self.normal + self.reference",
            ),
            "stand-in stays in the reference": ("_apart(reference[~held], groups, tested)", "reference"),
            "class without training images is left for normal": (
                'for i in left if role == "anomalous" or i in trainable)',
                "for i in left)",
                ("data/test_prepared",),
            ),
            "a name is taken as its letters": (
                "isinstance(wanted, str | int) else list(wanted)",
                "isinstance(wanted, int) else list(wanted)",
                ("data/test_prepared",),
            ),
        },
    ),
    "image decoding": (
        ("data/test_decoding", "data/test_store"),
        {
            "turned the wrong way round": ("6: Image.Transpose.ROTATE_270", "6: Image.Transpose.ROTATE_90"),
            "transparency over black": (
                'Image.new("RGBA", image.size, "white")',
                'Image.new("RGBA", image.size, "black")',
            ),
            "grey above 16 bits let in": ("values.max() > 0xFFFF:", "values.max() > 0xFFFFF:"),
            "white stays zero": ("255 - scaled if white_is_zero else scaled", "scaled"),
            "a bit too few at a power of two": (
                "if largest < 1 << bits)",
                "if largest <= 1 << bits)",
                ("data/test_bit_depth",),
            ),
            "pixels of another shape are a copy": (
                "content.update(repr(pixels.shape).encode())",
                "content.update(repr(pixels.ndim).encode())",
                ("data/test_duplicates",),
            ),
            "missing rows let in": ("not _has_last_pixel(image)", "_has_last_pixel(image)"),
            "previews count as pages": ("tags.get(_KIND_OF_PAGE, 0) & 0b101", "tags.get(_KIND_OF_PAGE, 0) & 0b10"),
            "height and width swapped": (".permute(2, 0, 1)", ".permute(2, 1, 0)"),
            "key of the file": (
                "content_key(pixels, white_is_zero=white_is_zero), white",
                "digest(data), white",
                ("data/test_duplicates", "data/test_prepared"),
            ),
            "skipping turned round": ("if not self.skip:", "if self.skip:", ("data/test_broken_images",)),
            "position past the end let in": ("high >= self.starts[-1]", "high > self.starts[-1]"),
            "joined arrays found one too late": (
                "bisect_right(self.starts, index) - 1",
                "min(bisect_right(self.starts, index + 1), len(self.arrays)) - 1",
            ),
        },
    ),
    "image store": (
        ("data/test_store",),
        {
            "broken images count as usable": (
                "usable[list(found.corrupt)] = False",
                "usable[: len(found.corrupt)] = False",
            ),
            "size of the source ignored": ("source.size or image_size", "image_size"),
            "memory limit excluded": ("if needed <= storage.memory_limit", "if needed < storage.memory_limit"),
            "one cache for both ways with broken files": (
                "source.identity, self.size, self.skip_corrupt)",
                "source.identity, self.size)",
            ),
            "positions of broken files as text": (
                "{int(position): message for",
                "{position: message for",
                ("data/test_broken_images",),
            ),
            "bytes of one channel counted": (
                "len(source.labels) * size * size * 3",
                "len(source.labels) * size * size",
            ),
            "changed images served": (
                "if decoded.digest != self.digests[i].tobytes():",
                "if not decoded.digest:",
                ("data/test_decoding", "data/test_prepared"),
            ),
            "the range of the test images": (
                "depth_of(peaks[_train_indices(self._drawn(grouped)[0])])",
                "depth_of(peaks)",
                ("data/test_prepared",),
            ),
            "sources told apart by their files alone": (
                "(type(source), source.identity) if source.identity",
                "source.identity if source.identity",
            ),
        },
    ),
    "layouts of data": (
        ("data/test_layouts", "data/test_manifests", "data/test_joined_sources", "data/test_tables"),
        {
            "masks are images": ("if kind.name != MASKS", "if kind.name"),
            "validation images are tested": (
                "return [*((part, False) for part in training)",
                "return [*((part, part.name != 'train') for part in training)",
                ("data/test_sources",),
            ),
            "a mask of another kind": (
                "known.get((image.class_name, Path(image.path).stem))",
                "dict((stem, mask) for (_, stem), mask in known.items()).get(Path(image.path).stem)",
            ),
            "columns stay in the order of the rows": (
                "self.columns = {name: table.columns[name]",
                "self.columns = {name: table.columns[name][::-1]",
            ),
            "one image twice": ("if earlier != position:", "if False:"),
            "a missing image let in": ("if len(found) == 1]", "if len(found) == 0]"),
            "groups of two sources are one": ('f"{name}/{text}" if text else ""', "text"),
            "a source without parts trains too": (
                "np.ones(len(one.labels), dtype=bool)",
                "np.zeros(len(one.labels), dtype=bool)",
            ),
            "an image of the next source": (
                'np.searchsorted(self._starts, position, side="right")',
                'np.searchsorted(self._starts, position, side="left")',
            ),
            "rows of another length let in": ("if len(cells) != len(names):", "if False:"),
            "a star matches nothing but itself": (
                '".*".join(map(re.escape',
                '"[*]".join(map(re.escape',
                ("data/test_roles",),
            ),
        },
    ),
    "scorers and neighbour search": (
        ("reference/scorers", "scorers/search", "contract/scorers", "unit/scorers/test_scorers"),
        {
            "LOF upside down": (
                "self.density_[positions].mean(axis=1) / self._density(distances, positions)",
                "self._density(distances, positions) / self.density_[positions].mean(axis=1)",
            ),
            "divided by the nearest one's distance": ("self.own_[positions[:, -1]]", "self.own_[positions[:, 0]]"),
            "farthest normal class": ("np.min(distances, axis=0)", "np.max(distances, axis=0)"),
            "reference distance added": (
                "- self.weight * reduced(reference, self.reduce)",
                "+ self.weight * reduced(reference, self.reduce)",
            ),
            "odds of normal classes": (
                "outputs[:, ~normal].logsumexp(dim=1) - outputs[:, normal].logsumexp(dim=1)",
                "outputs[:, normal].logsumexp(dim=1) - outputs[:, ~normal].logsumexp(dim=1)",
            ),
            "nearest dropped where copies are": (
                "itself[~itself.any(axis=1), -1] = True",
                "itself[~itself.any(axis=1), 0] = True",
                ("reference/scorers",),
            ),
            "doubt of float32 taken off": ("return doubt - kth", "return -doubt - kth", ("test_exact",)),
            "copies a rounding apart": ("np.where(apart < 1e-14, 0.0, apart)", "apart", ("scorers",)),
            "screen is sure too soon": (
                "bounds[:, -1] > near[:, k - 1] + error",
                "bounds[:, -1] > near[:, 0] + error",
                ("test_screening",),
            ),
            "state saved under swapped names": (
                '{"reach": self.reach_, "density": self.density_}',
                '{"reach": self.density_, "density": self.reach_}',
                ("scorers",),
            ),
            "checksums of files not looked at": (
                "require_unchanged(folder / name, listed[name])",
                "listed[name]",
                ("contract/scorers", "unit/scorers/test_scorers"),
            ),
            "recall counts the query itself": (
                "found[i][found[i] != own][:k]",
                "found[i][:k]",
                ("unit/scorers/test_scorers", "contract/scorers"),
            ),
            "one list less is looked into": (
                "self.nprobe or min(nlist, max(16,",
                "self.nprobe or min(nlist, max(1,",
                ("unit/scorers/test_scorers", "contract/scorers"),
            ),
        },
    ),
    "verdicts on a batch": (
        ("reports/verdicts", "evaluation/test_foreseen", "data/test_listing"),
        {
            "a torn record is kept": ('part.endswith(b"\\n") and not open_quote', "not open_quote"),
            "a part is judged by its smallest score": ("score > self._worst[part][0]", "score < self._worst[part][0]"),
            "any file is shown as a good image": (
                "if self.keys is None or decoded.digest in self.keys else None",
                "if self.keys is None or decoded.digest else None",
            ),
            "a good image may lie above its folder": ('or ".." in relative.parts', 'or "..." in relative.parts'),
            "alarms counted without the threshold's own rank": (
                "above + 1, len(calibration) - above",
                "max(above, 1), len(calibration) - above",
            ),
            "a table of another rate is gone on with": (
                "if name not in before or before[name] != value:",
                "if name not in before:",
            ),
        },
    ),
    "thresholds and p-values": (
        ("evaluation/test_intervals", "evaluation/test_conformal"),
        {
            "rank one too high": ("tail.scores[allowed[0]]", "tail.scores[allowed[min(1, len(allowed) - 1)]]"),
            "one image too many wanted": ("math.ceil(1 / exact) - 1", "math.ceil(1 / exact)"),
            "images counted as groups": (
                "numbers = np.arange(len(scores)) if groups is None else _group_numbers(groups, len(scores))",
                "numbers = np.arange(len(scores))",
                ("evaluation/test_groups",),
            ),
            "a confident threshold one rank too low": (
                "largest[min(below, len(largest) - 1)]",
                "largest[max(0, min(below, len(largest) - 1) - 1)]",
                ("evaluation/test_groups",),
            ),
            "equal scores not counted": (
                '_finite_vector(scores, "scores"), side="left"',
                '_finite_vector(scores, "scores"), side="right"',
            ),
            "a third is no third": (
                "return simple if float(simple) == value else Fraction(",
                "return Fraction(",
            ),
            "largest scores of groups not sorted": (
                "np.sort(largest_by_group(calibration_scores, groups))",
                "largest_by_group(calibration_scores, groups)",
                ("evaluation/test_groups",),
            ),
            "alarm at the threshold itself": (
                "dtype=np.float64) > threshold",
                "dtype=np.float64) >= threshold",
                ("evaluation/test_conformal",),
            ),
        },
    ),
    "metrics": (
        ("reference/evaluation/test_metrics", "contract/evaluation", "evaluation/test_intervals"),
        {
            "95 % itself is not enough": (
                "curves.recall >= MIN_TRUE_POSITIVE_RATE",
                "curves.recall > MIN_TRUE_POSITIVE_RATE",
            ),
            "highest false-positive rate": (
                "np.take_along_axis(curves.false_alarms, first[:, None], axis=1)[:, 0]",
                "curves.false_alarms[:, -1]",
            ),
            "partial AUROC up to another rate": ("max_fpr=MAX_FALSE_POSITIVE_RATE", "max_fpr=MIN_TRUE_POSITIVE_RATE"),
            "points of the curve dropped": ("drop_intermediate=False", "drop_intermediate=True"),
            "ties broken": (
                "np.unique(scores, return_inverse=True)[1], anomalous",
                "scores.argsort().argsort(), anomalous",
            ),
            "only anomalous images let in": (
                "if anomalous.all() or not anomalous.any():\n        raise",
                "if not anomalous.any():\n        raise",
            ),
        },
    ),
    "intervals": (
        ("evaluation/test_intervals",),
        {
            "variance over N": ("components.var(ddof=1)", "components.var()"),
            "ties count nothing": (
                'side="left") + np.searchsorted(others, ranks, side="right")',
                'side="left") + np.searchsorted(others, ranks, side="left")',
            ),
            "more disjoint pairs than there are": (
                "float(V10.mean()), min(len(np.unique(kind)) for kind in kinds)",
                "float(V10.mean()), max(len(np.unique(kind)) for kind in kinds)",
            ),
            "ends of another level": ("(values, [tail, 1 - tail])", "(values, [tail / 2, 1 - tail / 2])"),
            "Wilson in place of Clopper-Pearson": ('level, method="exact"', 'level, method="wilson"'),
        },
    ),
    "whitening": (
        ("training/test_finetuning",),
        {
            "about the mean of all": ("centred - means[places]", "centred - centred.mean(axis=0)"),
            "seen from the mean of all images": (
                "return means.mean(axis=0), (dir",
                "return np.mean(embeddings, axis=0), (dir",
            ),
            "not turned back": (
                "(directions / np.sqrt(variances)) @ directions.T",
                "(directions / np.sqrt(variances)).T",
            ),
            "nearly singular let in": (" or variances[0] <= np.finfo(np.float64).eps * variances[-1]", ""),
            "centre not taken off": (
                "(embeddings.to(self.centre.dtype) - self.centre) @ self.whitening.T",
                "embeddings.to(self.centre.dtype) @ self.whitening.T",
            ),
        },
    ),
    "embeddings and ranks": (
        ("evaluation/test_forward", "training/devices"),
        {
            "rows left out between ranks": (
                "min(i + 1, more)",
                "min(i, more)",
                ("training/devices", "models/test_heads_on_two_ranks"),
            ),
            "last rows in no part": (
                "divmod(-(-count // step), world_size())",
                "divmod(count // step, world_size())",
                ("training/devices", "models/test_heads_on_two_ranks"),
            ),
            "parts of a batch in another order": (
                "tensor_split(collectives.world_size())[collectives.rank()]",
                "tensor_split(collectives.world_size())[-1 - collectives.rank()]",
                ("training/devices", "data/test_batches"),
            ),
            "batch of twice the memory": ("2 * size * bytes_each <= memory", "size * bytes_each <= memory"),
            "float16 run as bfloat16": ('"16": torch.float16', '"16": torch.bfloat16'),
            "no memory for one image tried again": (
                "if len(images) == 1:\n                raise",
                "if not len(images):\n                raise",
            ),
            "gradient not multiplied by the ranks": (
                "world_size() * len(labels) / every",
                "len(labels) / every",
                ("training/devices", "models/test_heads_on_two_ranks"),
            ),
            "rows of ranks put in each other's places": (
                "in enumerate(parts):\n        if source > 0",
                "in enumerate(parts[::-1]):\n        if source > 0",
                ("training/devices", "models/test_heads_on_two_ranks"),
            ),
            "first anomalous image counts as normal": (
                "np.arange(normal + anomalous) >= normal",
                "np.arange(normal + anomalous) > normal",
            ),
        },
    ),
    "run directories": (
        ("runs/test_directory", "sweeps/test_plan"),
        {
            "a killed run counts as running": (
                'state == "running" and not self.is_held()',
                'state == "running" and self.is_held()',
                ("sweeps/test_plan", "runs/test_directory"),
            ),
            "a selection found is cleared": (
                "[self.selection] * keep_selection",
                "[self.selection] * keep_training",
                ("sweeps/test_plan", "runs/test_directory"),
            ),
            "identity lost at the end": (
                'if key in ("identity", "started", "tracked")',
                'if key in ("started", "tracked")',
            ),
            "own lock taken for another's": (
                "self._own_lock or not self.lock.is_file()",
                "not self.lock.is_file()",
                ("sweeps/test_plan", "runs/test_directory"),
            ),
            "old file removed before the new one is whole": (
                "yield partial\n            partial.replace(path)",
                "path.unlink(missing_ok=True)\n            yield partial\n            partial.replace(path)",
            ),
            "checkpoints of a refused run removed": (
                "and not keep_refused and not self.checkpoints.exists()",
                "and not keep_refused",
            ),
            "a run that is not finished opened": ('if run.state != "finished":\n', 'if run.state == "failed":\n'),
            "a folder claimed twice": ("[path.name for path in self._own() if path.exists()]", "[]"),
            "changed files let in": (
                "if sha256(path) != digest:",
                "if len(sha256(path)) != len(digest):",
                ("contract/scorers", "unit/scorers/test_scorers"),
            ),
            "changed records let in": (
                "whole = sealed(record).encode() == text",
                "whole = len(sealed(record).encode()) == len(text)",
                ("unit/scorers/test_scorers", "contract/scorers"),
            ),
            "files of a run not compared with its manifest": (
                "data, listed = read_bytes(path), self._listed()",
                "data, listed = read_bytes(path), None",
                ("runs/test_directory", "hostile/test_stored_files"),
            ),
            "a file that the manifest lacks let in": (
                'raise InputError(f"{path} is not in {NAME}, so it is no file of this run; move it away")',
                "return",
                ("runs/test_manifest",),
            ),
            "a run that lost its manifest taken for an old one": (
                "if not os.path.lexists(self.manifest) and PROMISED not in self.noted():",
                "if not os.path.lexists(self.manifest):",
                ("runs/test_directory", "hostile/test_stored_files"),
            ),
            "a run that found the disk full removed": (
                "refusable = isinstance(error, InputError | OSError) and not isinstance(error, WriteError)",
                "refusable = isinstance(error, InputError | OSError)",
                ("runs/test_directory",),
            ),
            "a secret in the status": (
                "hide(reason, formatter.secrets), **marks",
                "reason, **marks",
                ("config/test_secrets",),
            ),
        },
    ),
    "reading and writing of files": (
        ("unit/test_files",),
        {
            "a byte above the limit let in": ("state.st_size > most:", "state.st_size > most + 1:"),
            "a level too deep let in": ("for _ in range(levels + 1):", "for _ in range(levels + 2):"),
            "a file of holes let in": (
                "_data_bytes(handle, state.st_size) < state.st_size // 8",
                "_data_bytes(handle, state.st_size) < 0",
            ),
            "a row that was cut off let in": (
                "zip(columns.items(), line, strict=True)",
                "zip(columns.items(), line, strict=False)",
            ),
            "an error of a write without a file's name passed on": ("return name is None", "return False"),
            "an error on another file taken for one of writing": (
                "ours = found.is_relative_to(path) or path.is_relative_to(found)",
                "ours = True",
            ),
        },
    ),
    "identity and names": (
        ("sweeps/test_plan", "config/test_schema", "config/test_checks"),
        {
            "compile makes another run": (
                "compile: Annotated[Any, _SWITCH, _ASIDE]",
                "compile: Annotated[Any, _SWITCH]",
            ),
            "later settings make no other run": ("(key not in LATER or value != LATER[key])", "key not in LATER"),
            "differences one way alone": (
                "for key in {**one, **other} if one.get(key)",
                "for key in one if one.get(key)",
                ("config/test_checks",),
            ),
            "paths stand in names": (
                'key.split(".")[0] not in _UNNAMED',
                "key not in _UNNAMED",
                ("config/test_checks",),
            ),
            "long names cut without a hash": (
                'f"{name[:190]}~{short_hash(name)}"',
                "name[:200]",
                ("config/test_checks",),
            ),
            "values cut without a hash": ("[:40]}~{short_hash(value)}", "[:40]}", ("config/test_checks",)),
            "a sweep's name forgotten": ("return time if name is None else str(name)", "return time"),
        },
    ),
    "what a run directory may name": (
        ("hostile/test_targets",),
        {
            "target that leads outside let in": (
                "inspect.isfunction(found)) or not home.startswith(below):",
                "inspect.isfunction(found)):",
            ),
            "any function for a backbone": (
                "if role.functions == module and attribute in _listed(module):",
                "if role.functions == module and callable(found):",
            ),
            "any class of Lightning for the trainer": (
                "return found in bases if self.exactly else issubclass(found, bases)",
                "return not self.exactly and issubclass(found, bases) or self.exactly",
            ),
            "a part inside a part let in": (
                "own = role_inside(key, name, role)",
                "own = role",
            ),
            "private keys let in": ("and private not in allowed:", "and False:"),
            "a resolver called": (
                "return node if environment and key == _DATA and _ENVIRONMENT.fullmatch(node) else literal(node)",
                "return node",
                ("hostile/test_run_directories",),
            ),
            "a download anywhere": ('node["download"] = False', "pass", ("hostile/test_run_directories",)),
            "escapes on the terminal": ("return _CONTROLS.sub(_escaped, text)", "return text", ("unit/test_terminal",)),
        },
    ),
    "configuration checks": (
        ("config/test_checks", "config/test_schema"),
        {
            "batches of one let in": (
                "batch_size: Annotated[int, Field(ge=2)",
                "batch_size: Annotated[int, Field(ge=1)",
            ),
            "a rate twice let in": ("and len(set(value)) == len(value)", ""),
            "true passes for a number": ("strict=isinstance(value, bool)", "strict=False"),
            "an upper end that is excluded let in": (
                'given < high if "high" in excluding else given <= high',
                "given <= high",
                ("config/test_fields",),
            ),
            "digits advised without quotes": (
                "if _PLAIN.fullmatch(text) and not _OTHER_KINDS.fullmatch(text) else",
                "if _PLAIN.fullmatch(text) else",
                ("app/test_arguments",),
            ),
            "a shorter secret replaced first": (
                "sorted(secrets, key=len, reverse=True)",
                "sorted(secrets, key=len)",
                ("unit/test_terminal",),
            ),
            "a text passes for a number": (
                "if isinstance(given, bool) or not isinstance(given, int | float):\n            return False",
                "if isinstance(given, bool) or not isinstance(given, int | float):\n            return True",
                ("config/test_ranges",),
            ),
            "a number passes for a truth value": ("_FLAG = one_of(True, False)", "_FLAG = one_of(True, False, 2)"),
            "two open roles let in": (
                'for role in ("normal", "anomalous", "reference") if getattr(self, role) is None',
                'for role in ("normal", "anomalous") if getattr(self, role) is None',
            ),
        },
    ),
    "resuming": (
        ("training/test_checkpoints", "data/test_prepared"),
        {
            "checkpoint written in place": (
                "with replacing(Path(path)) as partial:",
                "for partial in [Path(path)]:",
            ),
            "any file of a dictionary is a checkpoint": (
                "fault = next(_faults(checkpoint), None)",
                "fault = None if isinstance(checkpoint, dict) else next(_faults(checkpoint))",
            ),
            "seed and epoch added up": (
                "default_rng([self.seed, self.epoch])",
                "default_rng(self.seed + self.epoch)",
                ("data/test_batches", "data/test_prepared"),
            ),
            "changed images taken up": (
                'if self._split_hash(split) != description["hash"]:',
                'if not description["hash"]:',
                ("data/test_prepared",),
            ),
            "hash of names alone": (
                "self.image_set.names[i].encode() + self.image_set.digests[i].tobytes()",
                "self.image_set.names[i].encode()",
                ("data/test_prepared",),
            ),
            "checkpoints cleared where training goes on": (
                "[self.checkpoints] * keep_training",
                "[self.checkpoints] * keep_selection",
                ("sweeps/test_plan", "runs/test_directory"),
            ),
            "the order of epochs begins anew": (
                "sampler.set_epoch(self.first_epoch)",
                "sampler.set_epoch(0)",
                ("data/test_prepared",),
            ),
            "an epoch counted too few": (
                'int(checkpoint["epoch"]) + 1, checkpoint',
                'int(checkpoint["epoch"]), checkpoint',
            ),
            "checkpoint of other images let in": (
                'if {"decoder": 1, **_images_of(checkpoint)} != data.state_dict():',
                "if MetradDataModule.__qualname__ not in checkpoint:",
            ),
            "rate of a scheduler compared": ('settings.pop("initial_lr", settings["lr"])', 'settings["lr"]'),
            "other settings taken up": (
                "_other_settings(checkpoint, learner, str(trainer.precision), changes)\n        or ",
                "",
            ),
            "a changed checkpoint taken up": (
                "if digest.hexdigest() != found[1].decode():",
                "if len(digest.hexdigest()) != len(found[1]):",
            ),
        },
    ),
    "sweeps": (
        ("sweeps/test_plan",),
        {
            "a running run is made again": ('if state not in ("finished", "running")', 'if state not in ("finished",)'),
            "a run of other settings counts as made": (
                'job.run.noted().get("identity") == identity(job.config)',
                'job.run.noted().get("identity")',
            ),
            "finished without figures counts as made": (
                "if job.run.figures() is None:",
                "if not job.run.status.exists():",
            ),
            "time left of all runs": ("(len(self.todo) - done)", "(self.total - done)"),
            "last training counts as choosing": (
                'status.get("training", 0) + 1 < status.get("trainings", 1)',
                'status.get("training", 0) + 1 <= status.get("trainings", 1)',
            ),
            "skipped runs not counted in": (
                "{self.skipped + len(self.ended)}/{self.total}",
                "{len(self.ended)}/{self.total}",
            ),
            "one GPU filled before the next": (
                EACH_GPU,
                "        for gpu in gpus:\n            for place in range(self.jobs_per_gpu):",
            ),
            "a GPU for each run of a process": ("if _devices or not gpus:", "if not gpus:"),
            "a run given up at its first death": ("if deaths[job.number] > 1:", "if deaths[job.number] > 0:"),
            "files of another program removed": (
                "run.require_own()",
                "run.noted()",
                ("hostile/test_foreign_folders",),
            ),
            "unfinished files of another program removed": (
                'self.path.glob(f".{path.name}.*.partial*")',
                'self.path.glob(".*.partial*")',
                ("hostile/test_foreign_folders",),
            ),
        },
    ),
    "loggers": (
        ("training/test_tracking",),
        {
            "a run's name is its id": ("(name, number), strict=False", "(number, name), strict=False"),
            "a name that is given replaced": (
                "if value is not None and given.get(key) is None}",
                "if value is not None}",
            ),
            "settings of a run that goes on recorded again": (
                "if not self.continues:",
                "if not self.continues or True:",
            ),
            "a run there left open": ("if callable(finish):", "if not callable(finish):"),
        },
    ),
    "comparison": (
        ("comparison/test_compare", "reports/comparison"),
        {
            "Holm's steps the other way": (
                "np.arange(len(order), 0, -1)",
                "np.arange(1, len(order) + 1)",
                ("comparison/test_paired",),
            ),
            "Wilcoxon's sum itself left out": (
                "min(chances[: positive + 1].sum(), chances[positive:].sum())",
                "min(chances[:positive].sum(), chances[positive:].sum())",
                ("comparison/test_paired",),
            ),
            "unpaired effect with the wrong sign": (
                "np.round(values[:, None] - others, DECIMALS)",
                "np.round(others - values[:, None], DECIMALS)",
                ("comparison/test_paired",),
            ),
            "least p one-sided": ("2.0 ** (1 - pairs)", "2.0**-pairs", ("comparison/test_paired",)),
            "mean rank over the wrong axis": (
                "return Ranking(ranks.mean(axis=0),",
                "return Ranking(ranks.mean(axis=1),",
                ("comparison/test_paired",),
            ),
            "Friedman's sum itself left out": (
                "chances[squares >= (",
                "chances[squares > (",
                ("comparison/test_paired",),
            ),
            "conditions that share images counted each": (
                "means.setdefault(block_of[place], [])",
                "means.setdefault(len(means), [])",
                ("comparison/test_blocks",),
            ),
            "the first condition speaks for its block": (
                "np.mean(rows, axis=0) if len(rows) > 1 else np.array(rows[0])",
                "np.array(rows[0])",
                ("comparison/test_blocks",),
            ),
            "settings of a source told apart": (
                'f"source {target} {place}" if target',
                'f"source {run.settings}" if target',
                ("comparison/test_blocks",),
            ),
            "runs paired by their place": (
                PAIRED_DIFFERENCES,
                "np.array([a - b for a, b in zip(one.values(), other.values(), strict=False)])",
            ),
            "detectable without Holm's first step": ("alpha=ALPHA / max(1, tests)", "alpha=ALPHA"),
            "interval beyond 0 and 1": (
                SUMMARY_OF_SEED,
                SUMMARY_OF_SEED.replace("np.clip(", "(").replace(", 0, 1)", ")"),
            ),
            "other images let into a pair": ('if not _below(by, "dataset"):', "if not by:"),
            "a CSV's figure that is no number let in": (
                "finished & ~runs[metric].between(0, 1 + ROUNDING)",
                "finished & (runs[metric] > 1)",
            ),
            "a CSV's two splits let in": ("if (different > 1).any():", "if (different > 2).any():"),
            "better and worse swapped": (
                "(difference > 0) == comparison.higher_is_better",
                "(difference > 0) != comparison.higher_is_better",
            ),
            "numbers sorted as words": (
                "return float(value), value",
                "return -math.inf, value",
                ("sweeps/test_table",),
            ),
            "deviation over N": ("statistics.stdev(aurocs)", "statistics.pstdev(aurocs)", ("sweeps/test_table",)),
        },
    ),
    "report data": (
        ("reports/test_report",),
        {
            "upper of two as the median": (
                'rows["folder"].iloc[(len(rows) - 1) // 2]',
                'rows["folder"].iloc[len(rows) // 2]',
            ),
            "curve one threshold too low": (
                'np.searchsorted(false_positive, RATES, side="right") - 1',
                'np.searchsorted(false_positive, RATES, side="left")',
            ),
            "unfinished runs in the cells": ("runs[runs[metric].notna()]", "runs"),
            "a setting that is lacking is no difference": (
                "{one.get(key) for one in settings}",
                "{one[key] for one in settings if key in one}",
            ),
            "each panel has the room of all": ("<= EVIDENCE_BYTES / panels", "<= EVIDENCE_BYTES"),
        },
    ),
}


class Fault(NamedTuple):
    """A fault: its name and room, the text that stands once in src, what to put there, and the tests to run first."""

    name: str
    room: str
    old: str
    new: str
    keywords: tuple[str, ...]


class Result(NamedTuple):
    """What became of a fault: the first test that failed, or SURVIVED, and the seconds it took."""

    fault: Fault
    test: str
    seconds: float


def faults() -> list[Fault]:
    """Return all faults."""
    return [
        Fault(name, room, old, new, own[0] if own else keywords)
        for room, (keywords, planted) in PLANTED.items()
        for name, (old, new, *own) in planted.items()
    ]


def place(root: Path, fault: Fault) -> Path:
    """Return the file below ``root`` that holds the old text of ``fault``.

    Raises:
        RuntimeError: it does not occur exactly once, or the new text changes nothing or is no Python.
    """
    texts = {file: file.read_text(encoding="utf-8") for file in sorted((root / "src").rglob("*.py"))}
    holds = {file: text.count(fault.old) for file, text in texts.items() if fault.old in text}
    if sum(holds.values()) != 1:
        where = ", ".join(str(file.relative_to(root)) for file in holds) or "no file"
        raise RuntimeError(f"{fault.old!r} occurs {sum(holds.values())} times, in {where}")
    (file,) = holds
    try:
        changed = ast.dump(ast.parse(texts[file].replace(fault.old, fault.new))) != ast.dump(ast.parse(texts[file]))
    except SyntaxError as error:
        raise RuntimeError(f"with {fault.new!r} {file.name} is no Python ({error})") from error
    if not changed:
        raise RuntimeError(f"{fault.new!r} changes nothing")
    return file


def test_files(root: Path) -> list[str]:
    """Return all test files by their path below ``root``."""
    return sorted(str(file.relative_to(root)) for file in (root / "tests").rglob("test_*.py"))


def first_files(root: Path, fault: Fault) -> list[str]:
    """Return the test files of the fault, those of its first keyword first.

    Raises:
        RuntimeError: there are none.
    """
    quick = [file for file in test_files(root) if file.startswith(FIRST)]
    chosen = list(dict.fromkeys(file for word in fault.keywords for file in quick if word in file))
    if not chosen:
        raise RuntimeError(f"no test file has {' or '.join(fault.keywords)} in its path")
    return chosen


def snapshot(root: Path, folder: Path) -> Path:
    """Copy what the tests need to ``folder``, so that edits during the run do not reach it."""
    ignored = shutil.ignore_patterns("__pycache__")
    for part in filter(lambda part: (root / part).exists(), PARTS):
        if (root / part).is_dir():
            shutil.copytree(root / part, folder / part, ignore=ignored)
        else:
            shutil.copy(root / part, folder)
    (folder / "conftest.py").write_text(CONFTEST)
    return folder


def tested(whole: Path, fault: Fault, *, deep: bool) -> Result:
    """Plant ``fault`` in a copy of ``whole`` and run the tests on it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="metrad-fault-", ignore_cleanup_errors=True) as name:
        copy = shutil.copytree(whole, Path(name) / "copy")
        target = place(copy, fault)
        target.write_text(target.read_text(encoding="utf-8").replace(fault.old, fault.new), encoding="utf-8")
        first = first_files(copy, fault)
        test = first_failure(copy, first, started + LIMIT_SECONDS) or SURVIVED
        if test == SURVIVED and deep:
            rest = [file for file in test_files(copy) if file not in first]
            rest.sort(key=lambda file: not any(word in file for word in fault.keywords))
            found = first_failure(copy, rest, started + LIMIT_SECONDS)
            test = SURVIVED if found is None or found.startswith("no end") else found
        return Result(fault, test, time.monotonic() - started)


def first_failure(copy: Path, files: Iterable[str], until: float) -> str | None:
    """Run the tests of ``files`` in ``copy`` and return the first that fails, or None.

    Raises:
        RuntimeError: the tests did not run, or not on the copy.
    """
    paths = [str(copy / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("METRAD_")}
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *PYTEST, f"--basetemp={copy.parent / 'temporary'}", *files]
    process = subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said = process.communicate(timeout=max(1, until - time.monotonic()))[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and the processes that the tests have started
        process.communicate()
        return f"no end within {LIMIT_SECONDS} s"
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::\w+(?:\[.*?\])?|\S+)", said, re.MULTILINE)
    if process.returncode in (0, 5) and failed is None:  # 5: all of them are left out by their marks
        return None
    if failed is None or "not the copy is tested" in said:
        raise RuntimeError(f"the tests did not run in {copy}:\n{said[-4000:]}")
    return failed[1].removeprefix("tests/")


def unsound(whole: Path, results: Sequence[Result]) -> str | None:
    """Return the first of the catching tests that fails without any fault too; None if all pass."""
    names = dict.fromkeys(f"tests/{result.test.partition('[')[0]}" for result in results)
    names = [name for name in names if "::" in name or name.endswith(".py")]
    with tempfile.TemporaryDirectory(prefix="metrad-sound-", ignore_cleanup_errors=True) as name:
        copy = shutil.copytree(whole, Path(name) / "copy")
        return first_failure(copy, names, time.monotonic() + 6 * LIMIT_SECONDS) if names else None


def check(root: Path, chosen: Sequence[Fault]) -> int:
    """Tell which faults cannot be planted or have no tests, and return the exit code."""
    bad = 0
    for fault in chosen:
        for needed in (place, first_files):
            try:
                needed(root, fault)
            except RuntimeError as error:
                print(f"{fault.room}, {fault.name}: {error}")
                bad += 1
    print(f"{len(chosen)} faults in {len({fault.room for fault in chosen})} rooms; {bad} to repair")
    return int(bad > 0)


def plant(root: Path, chosen: Sequence[Fault], *, jobs: int, deep: bool) -> int:
    """Run the tests with each fault, print the table, and return the exit code."""
    say, results, started = partial(print, file=sys.stderr, flush=True), [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="metrad-whole-") as name, ThreadPoolExecutor(max_workers=jobs) as pool:
        whole = snapshot(root, Path(name))
        for result in pool.map(partial(tested, whole, deep=deep), chosen):
            results.append(result)
            say(f"[{len(results)}/{len(chosen)}] {result.fault.name}: {result.test} ({result.seconds:.0f} s)")
        broken = unsound(whole, results)
    print("| room | fault | caught by | seconds |\n|---|---|---|---|")
    for fault, test, seconds in sorted(results, key=lambda result: list(PLANTED).index(result.fault.room)):
        print(f"| {fault.room} | {fault.name} | {test.replace('|', '/')} | {seconds:.0f} |")
    survivors = [result.fault.name for result in results if result.test == SURVIVED]
    told = f"; survivors: {', '.join(survivors)}" * bool(survivors)
    print(f"\n{len(results) - len(survivors)} of {len(results)} caught{told}")
    print(f"\n{time.monotonic() - started:.0f} s in all; without a fault {broken or 'none of these tests'} fails")
    return int(bool(survivors) or broken is not None)


def main() -> int:
    """Plant the faults that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(), help="the project; default the working directory")
    parser.add_argument("--check", action="store_true", help="only tell which faults cannot be planted")
    parser.add_argument(
        "--deep", action="store_true", help="run all other tests on what the tests of the room let live"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order, and of what --count draws")
    parser.add_argument("--count", type=int, help="how many faults to draw; default all")
    parser.add_argument("--jobs", type=int, default=1, help="how many copies are tested at a time")
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of names of faults or rooms; default all")
    arguments = parser.parse_args()
    root, chosen = arguments.root.resolve(), faults()
    if arguments.names:
        chosen = [fault for fault in chosen if any(part in f"{fault.room}/{fault.name}" for part in arguments.names)]
    if not chosen:
        parser.error("no fault and no room is named so")
    if arguments.check:
        return check(root, chosen)
    random.Random(arguments.seed).shuffle(chosen)
    return plant(root, chosen[: arguments.count], jobs=arguments.jobs, deep=arguments.deep)


if __name__ == "__main__":
    sys.exit(main())

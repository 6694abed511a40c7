"""Plants bugs in the heads, one at a time in a copy of the project, and tells which test catches each.

    python tests/mutations.py [--jobs N] [NAME ...]

Ends with code 1 if a bug survives. NAME is a part of the names to plant; without one, all are.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUITE = (  # the quick and sharp ones first
    "tests/reference/models/test_heads.py",
    "tests/unit/models/heads/test_statistics.py",
    "tests/contract/models/test_heads.py",
    "tests/contract/models/test_heads_on_two_ranks.py",
)
LIMIT_SECONDS = 600
# Runs inside the copy, before any test: the bug must be in what is tested.
CONFTEST = """\
from pathlib import Path
import metrad.models.heads
found = Path(metrad.models.heads.__file__)
assert Path(__file__).resolve().parent in found.resolve().parents, f"not the copy is tested but {found}"
"""
UPDATE = "update_scale(self.scale, (self.scale * cosine).logsumexp(dim=1), nearest[:, 0])"
NEAREST = "nearest = cosine.unflatten(1, (-1, self.sub_centers)).amax(dim=2)"
SUMMED = "summed: Tensor = logits.unflatten(1, (-1, self.sub_centers)).logsumexp(dim=2)"
MARGIN = "return self.multiplier(embeddings) * cosine.scatter(1, true, with_margin)"

# File below src/metrad → name of the bug → (text that occurs once, what stands there instead).
PLANTED: dict[str, dict[str, tuple[str, str]]] = {
    "models/heads/angular.py": {
        "sine term with the wrong sign": ("cosine * angle.cos() - sines", "cosine * angle.cos() + sines"),
        "sine term missing": ("angle.cos() - sines(cosine) * angle.sin()", "angle.cos()"),
        "sine with infinite slope": (".clamp_min(smallest).sqrt()", ".sqrt()"),
        "length squared": (
            "vector_norm(embeddings, dim=1, keepdim=True)",
            "vector_norm(embeddings, dim=1, keepdim=True)**2",
        ),
        "normalised over the batch": (
            "F.normalize(vectors, eps=SHORTEST)",
            "F.normalize(vectors, dim=0, eps=SHORTEST)",
        ),
        "slope at length 0 unbounded": ("F.normalize(vectors, eps=SHORTEST)", "F.normalize(vectors, eps=1e-30)"),
        "W not normalised": ("unit(W.to(embeddings.dtype))", "W.to(embeddings.dtype)"),
        "x not normalised": ("F.linear(unit(embeddings), ", "F.linear(embeddings, "),
        "half precision kept": ("values if values.dtype == torch.float64 else values.float()", "values"),
        "float64 lost": ("values if values.dtype == torch.float64 else values.float()", "values.float()"),
        "no continuation past π": (
            "torch.where(past_end, cosine - m * m.sin(), add_angle(cosine, m))",
            "add_angle(cosine, m)",
        ),
        "continued from the wrong angle": ("cosine < -m.cos()", "cosine < m.cos()"),
        "ψ without -2k": ("sign * multiple - 2 * k", "sign * multiple"),
        "ψ without its sign": ("sign * multiple - 2 * k", "multiple - 2 * k"),
        "angle multiplied once too often": ("for _ in range(m - 1)", "for _ in range(m)"),
    },
    "models/heads/base.py": {
        "margin on the next class": (
            "cosine.scatter(1, true, with_margin)",
            "cosine.scatter(1, true - 1 + 2 * (true < 1), with_margin)",
        ),
        "margin on all classes": (MARGIN, "return self.multiplier(embeddings) * self.with_margin(cosine, embeddings)"),
        "true logit without gradient": ("(cosine.gather(1, true), emb", "(cosine.gather(1, true).detach(), emb"),
        "margin forgotten": (MARGIN, "return self.multiplier(embeddings) * cosine"),
        "scale as a plain attribute": (
            'self.register_buffer("scale", torch.tensor(float(scale)))',
            "self.scale = torch.tensor(float(scale))",
        ),
        "scale not saved": ("torch.tensor(float(scale)))", "torch.tensor(float(scale)), persistent=False)"),
        "farthest sub-centre": (".max(dim=2).values", ".min(dim=2).values"),
        "mean of the sub-centres": (".max(dim=2).values", ".mean(dim=2)"),
        "sub-centres in another order": (
            "(-1, self.sub_centers)).max(dim=2)",
            "(self.sub_centers, -1)).max(dim=1)",
        ),
        "autocast let in": ("enabled=False", "enabled=torch.is_autocast_enabled(embeddings.device.type)"),
        "sum instead of mean": (
            "return F.cross_entropy(logits, labels)",
            'return F.cross_entropy(logits, labels, reduction="sum")',
        ),
        "labels not checked": ("if lowest < 0 or highest >= self.num_classes:", "if False:"),
        "label C let in": ("highest >= self.num_classes", "highest > self.num_classes"),
        "width not checked": (" or embeddings.shape[1] != self.in_features", ""),
        "one class too many wanted": ("if num_classes < self.min_classes:", "if num_classes <= self.min_classes:"),
        "one class too few let in": ("if num_classes < self.min_classes:", "if num_classes < self.min_classes - 1:"),
        "each rank for itself": ("dist.get_world_size() == 1:", "dist.get_world_size() >= 1:"),
        "padding counted": ("[part[: int(length)] for part, length", "[part for part, length"),
        "gradient through the state": ("values = values.detach()", "values = values.clone()"),
    },
    "models/heads/margin.py": {
        "momentum of t swapped": (
            "self.momentum * self.t + (1 - self.momentum) * mean",
            "(1 - self.momentum) * self.t + self.momentum * mean",
        ),
        "t of one rank": ("mean = gathered(true_cosine).mean()", "mean = true_cosine.detach().mean()"),
        "t not saved": ('"t", torch.tensor(0.0)', '"t", torch.tensor(0.0), persistent=False'),
        "easy negatives taken as hard": ("hard = cosine > add_angle", "hard = cosine < add_angle"),
        "hard beyond the plain cosine": ("add_angle(true_cosine, torch.as_tensor(self.margin))", "true_cosine"),
        "hard negatives without t": ("cosine * (self.t.clone() + cosine)", "cosine * cosine"),
        "SphereFace without the length": (
            "return embedding_lengths(embeddings)",
            "return embedding_lengths(embeddings).pow(0)",
        ),
        "length without gradient": (
            "return embedding_lengths(embeddings)",
            "return embedding_lengths(embeddings.detach())",
        ),
        "easing forgotten": ("+ self.easing * cosine) / (1 + self.easing)", ")"),
        "easing not weighed": (" / (1 + self.easing)", ""),
        "CosFace adds its margin": ("return cosine - self.margin", "return cosine + self.margin"),
        "ArcFace takes its margin off": (
            "add_angular_margin(cosine, self.margin)",
            "add_angular_margin(cosine, -self.margin)",
        ),
    },
    "models/heads/adacos.py": {
        "C instead of C - 1": ("math.log(num_centres - 1)", "math.log(num_centres)"),
        "natural logarithm dropped": ("math.sqrt(2) * math.log(num_centres - 1)", "math.sqrt(2) * (num_centres - 1)"),
        "mean instead of median": ("true_angles.quantile(0.5)", "true_angles.mean()"),
        "lower median": ("true_angles.quantile(0.5)", "true_angles.median()"),
        "another quantile": ("quantile(0.5)", "quantile(0.25)"),
        "π/4 not clamped": (".clamp_max(math.pi / 4)", ""),
        "π/4 as the smallest": (".clamp_max(math.pi / 4)", ".clamp_min(math.pi / 4)"),
        "AdaCos for two classes": ("min_classes: ClassVar[int] = 3", "min_classes: ClassVar[int] = 2"),
        "dynamic scale updated in evaluation": (
            "if self.training:\n            true = labels",
            "if True:\n            true = labels",
        ),
        "true class in B_avg": (".scatter(1, true, -math.inf)", ""),
        "B_avg a sum": (" - math.log(len(log_b))", ""),
        "B_avg of the new scale": ("(self.scale * cosine.detach())", "cosine.detach()"),
        "no smallest scale": (".clamp_min(SMALLEST_SCALE)", ""),
        "NaN into the scale": ("torch.where(wanted.isfinite(), wanted, scale)", "wanted"),
        "median of one rank's angles": ("angles(gathered(true_cosine))", "angles(true_cosine)"),
        "scale changed under the graph": ("return self.scale.clone() * cosine", "return self.scale * cosine"),
        "sub-cluster scale of classes": (
            "adacos_scale(max(num_classes * sub_centers, 3))",
            "adacos_scale(max(num_classes, 3))",
        ),
        "sub-cluster scale updated in evaluation": ("if self.training and self.adaptive:", "if self.adaptive:"),
        "sub-cluster scale always adaptive": ("if self.training and self.adaptive:", "if self.training:"),
        "largest centre instead of the sum": (SUMMED, SUMMED.replace("logsumexp", "amax")),
        "angle to the mean of the centres": (NEAREST, NEAREST.replace("amax", "mean")),
        "B_avg of the nearest centres": (
            UPDATE,
            "update_scale(self.scale, (self.scale * nearest).logsumexp(dim=1), nearest[:, 0])",
        ),
    },
    "models/heads/quality.py": {
        "g_angle with the wrong sign": ("shifted(cosine, -self.margin * z)", "shifted(cosine, self.margin * z)"),
        "g_add missing": (" - (self.margin * z + self.margin)", ""),
        "z not cut off": (".clamp(-1, 1)", ""),
        "gradient through z": ("cut_lengths(embeddings.detach())", "cut_lengths(embeddings)"),
        "lengths not cut off": (".clamp(1e-3, 100)", ""),
        "deviation over N": ("every.std()", "every.std(correction=0)"),
        "a batch of one gives no deviation": ("every.std() if len(every) > 1 else self.std", "every.std()"),
        "mean of one rank": ("every = gathered(lengths)", "every = lengths"),
        "lengths counted in evaluation": ("if self.training:", "if True:"),
        "shifted below angle 0": ("torch.where(below_zero, 1.0, ", "torch.where(below_zero, cosine, "),
        "MagFace without regulariser": ("self.regulariser * (1 / a", "0 * (1 / a"),
        "u_a not squared": ("self.lengths[1] ** 2", "self.lengths[1]"),
        "margins swapped": ("(least, most) = self.lengths, self.margins", "(most, least) = self.lengths, self.margins"),
        "length not cut to its range": (".clamp(*self.lengths)", ""),
    },
    "models/heads/linear.py": {
        "α missing": ("super().logits(self.alpha * unit(embeddings))", "super().logits(unit(embeddings))"),
        "L2-softmax without normalisation": (
            "super().logits(self.alpha * unit(embeddings))",
            "super().logits(self.alpha * embeddings)",
        ),
        "bias missing": (", self.bias.to(embeddings.dtype))", ")"),
        "multiplier without W": (
            "embedding_lengths(embeddings) * lengths",
            "embedding_lengths(embeddings) * torch.ones_like(lengths)",
        ),
    },
    "models/heads/pml.py": {
        "class means of one rank": (
            "gathered(unit(embeddings)), gathered(labels)",
            "unit(embeddings).detach(), labels",
        ),
        "class means learnt in evaluation": ("if self.training:", "if True:"),
        "gradient at length 0": ("torch.where(points, embeddings, embeddings.detach())", "embeddings"),
    },
    "models/heads/statistics.py": {
        "true class as the wrong one": ("cosine.scatter(1, true, -1).amax", "cosine.amax"),
        "angles in radians": (".rad2deg()", ""),
        "graph kept": ("torch.no_grad()", "torch.enable_grad()"),
    },
}


def planted() -> dict[str, tuple[Path, str, str]]:
    """Return file, old and new text of each bug by name."""
    return {name: (Path(file), *texts) for file, bugs in PLANTED.items() for name, texts in bugs.items()}


def snapshot(folder: Path) -> Path:
    """Copy what the suite needs to ``folder``, so that edits during the run do not reach it."""
    for part in ("src", "conf", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "conftest.py").write_text(CONFTEST)
    return folder


def suite_in_copy(whole: Path, bug: tuple[Path, str, str] | None = None) -> tuple[str | None, float]:
    """Run the suite in a copy with the bug planted; return the first test that failed, or None, and the seconds."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="metrad-mutation-") as name:
        copy = shutil.copytree(whole, Path(name) / "copy")
        if bug is not None:
            file, old, new = bug
            target = copy / "src/metrad" / file
            text = target.read_text(encoding="utf-8")
            if text.count(old) != 1:
                raise RuntimeError(f"{old!r} occurs {text.count(old)} times in {file}")
            target.write_text(text.replace(old, new), encoding="utf-8")
        return first_failure(copy), time.monotonic() - started


def first_failure(copy: Path) -> str | None:
    """Run the suite in ``copy`` and return the first test that fails, or None.

    Raises:
        RuntimeError: the suite did not run, or not on the copy.
    """
    environment = {key: value for key, value in os.environ.items() if key != "METRAD_TEST_HEADS"}
    paths = [str(copy / "src"), *filter(None, [environment.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *SUITE]
    try:
        answer = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no end within {LIMIT_SECONDS} s"
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::\w+(?:\[.*?\])?|\S+)", answer.stdout, re.MULTILINE)
    if answer.returncode == 0 and failed is None:
        return None
    if failed is None or "not the copy is tested" in answer.stdout + answer.stderr:
        raise RuntimeError(f"the suite did not run in {copy}:\n{answer.stdout[-2000:]}{answer.stderr[-2000:]}")
    return failed[1].removeprefix("tests/")


def main() -> int:
    """Plant the bugs that the command line names and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="how many copies are tested at a time")
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of the names of bugs to plant; default all")
    arguments = parser.parse_args()
    bugs = {
        name: bug
        for name, bug in planted().items()
        if not arguments.names or any(part in name for part in arguments.names)
    }
    if not bugs:
        parser.error(f"no bug is named so; there are: {', '.join(planted())}")
    with tempfile.TemporaryDirectory(prefix="metrad-whole-") as name:
        return plant(bugs, snapshot(Path(name)), arguments.jobs)


def plant(bugs: dict[str, tuple[Path, str, str]], whole: Path, jobs: int) -> int:
    """Run the suite once without any bug and once with each, print the table, and return the exit code."""
    say = partial(print, file=sys.stderr, flush=True)
    failed, seconds = suite_in_copy(whole)
    if failed is not None:
        say(f"without any bug {failed} fails; repair that first")
        return 1
    say(f"without any bug the suite passes, {seconds:.0f} s")
    rows = []
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for name, (failed, seconds) in zip(bugs, pool.map(partial(suite_in_copy, whole), bugs.values()), strict=True):
            rows.append((name, failed or "SURVIVED", f"{seconds:.0f}"))
            say(f"[{len(rows)}/{len(bugs)}] {name}: {failed or 'SURVIVED'} ({seconds:.0f} s)")
    print("| bug | caught by | seconds |\n|---|---|---|")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    survivors = [name for name, test, _ in rows if test == "SURVIVED"]
    print(
        f"\n{len(rows) - len(survivors)} of {len(rows)} caught"
        + f"; survivors: {', '.join(survivors)}" * bool(survivors)
    )
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())

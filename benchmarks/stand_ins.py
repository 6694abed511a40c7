"""The study of recipes: does what synthetic defects choose do better on real ones than a fixed recipe?

Ten sets: magnetic tiles by tile, two pairs of Fashion-MNIST, two of CIFAR-10 (JPEG), and five rendered sets. Of each,
100 good images are for the fit, and other ones, good and anomalous, for the test. A recipe is an image size, layers, a
whitening and a scorer over frozen features. All recipes are compared

- by stand-ins: in five folds by group, a fifth of the good images is played against the same images with a synthetic
  defect (``metrad.data.synthetic_defects``), fitted on the others; the figure is the mean AUROC over the kinds;
- by truth: AUROC on the test images.

Test images are halved at random, again and again. Regret is the AUROC on one half of the recipe that was best on the
other half, less that of the choice, which has seen neither: so it has no gain from choosing among many, and can fall
below 0. It is given for the choice of stand-ins, for the recipe that is best on the mean of the other sets (leave one
set out), for each fixed recipe, and for the choice of stand-ins where they are sure that it beats the default. The same
is done with 30 good images, in three draws.

    python benchmarks/stand_ins.py --data data --cache FOLDER [--sets tile,metal] [--out docs/results/stand_ins]
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _fashion_mnist import load
from _measure import table
from _rendered import SETS as RENDERED
from _rendered import kinds, rendered
from scipy.stats import spearmanr, ttest_1samp
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.metrics import roc_auc_score

from metrad.data.arrays import resize
from metrad.data.groups import group_numbers
from metrad.data.sources import ImageFolder
from metrad.data.synthetic_defects import KINDS, with_defect
from metrad.evaluation.forward import CPU_BATCH, Forward
from metrad.models.base import Backbone
from metrad.models.joined_layers import JoinedLayers
from metrad.scorers import GMM, KNN, Centre, LocalKNN, Scorer

SIZES = (96, 160, 224, 320)
FIT, TEST = 100, 200  # good images to fit on; test images of each role at most
FEW, DRAWS = 30, 3
FOLDS, HALVES = 5, 100
EARLY = [64, 96, 160]  # widths of features.10, .13 and .16, which come before the last layer's
FLIPPED_AT = 224


@dataclass(frozen=True)
class Images:
    """Images of a set, uint8 (height, width, 3) each.

    Attributes:
        good: images to fit on.
        groups: number of the part that each of these shows.
        normal: good images to test on, which show other parts.
        anomalous: anomalous images to test on.
    """

    good: list[np.ndarray]
    groups: np.ndarray
    normal: list[np.ndarray]
    anomalous: list[np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """Settings of a detector without training.

    Attributes:
        size: height and width of the images in pixels.
        layers: ``last``, or ``joined`` for features.10, .13 and .16 of MobileNetV2.
        whiten: ``no``, ``lw`` for Ledoit-Wolf, or ``pca`` for principal components of 95 % of the variance.
        scorer: name in ``SCORERS``.
        flip: whether features are averaged with those of the mirror image.
    """

    size: int
    layers: str
    whiten: str
    scorer: str
    flip: bool = False

    def __str__(self) -> str:
        parts = [str(self.size), self.layers, *(f"whiten {self.whiten}" for _ in [0] if self.whiten != "no")]
        return " ".join([*parts, self.scorer, *(["flip"] if self.flip else [])])


SCORERS: dict[str, Callable[[], Scorer]] = {
    "knn": KNN,
    "knn_5": lambda: KNN(k=5),
    "knn_l2": lambda: KNN(metric="l2"),
    "local_knn": lambda: LocalKNN(k=5),
    "centre": Centre,
    "gmm": lambda: GMM(components=1, covariance_type="full", dimensions=16),
}
LAYERS = ("last", "joined")
RECIPES = [
    *(Recipe(size, layers, whiten, "knn") for size in SIZES for layers in LAYERS for whiten in ("no", "lw")),
    *(Recipe(224, layers, "no", scorer) for layers in LAYERS for scorer in ("knn_5", "local_knn", "centre", "gmm")),
    *(Recipe(size, "joined", "lw", "mahalanobis") for size in SIZES),
    Recipe(224, "last", "lw", "mahalanobis"),
    Recipe(224, "joined", "lw", "mahalanobis", flip=True),
    *(Recipe(size, "joined", "lw", "knn_l2") for size in SIZES),
    *(Recipe(224, layers, "pca", "knn") for layers in LAYERS),
    *(Recipe(224, layers, whiten, "knn", flip=True) for layers in LAYERS for whiten in ("no", "lw")),
    Recipe(224, "joined", "lw", "knn_5"),
]
DEFAULT = Recipe(224, "joined", "lw", "knn_l2")  # experiment=inspect
FIXED = {
    "frozen 96": Recipe(96, "last", "no", "knn"),
    "frozen 224": Recipe(224, "last", "no", "knn"),
    "joined 224": Recipe(224, "joined", "no", "knn"),
    "whitened, angle": Recipe(224, "joined", "lw", "knn"),
    "whitened, l2": DEFAULT,
    "the same at 160": Recipe(160, "joined", "lw", "knn_l2"),
    "Mahalanobis": Recipe(224, "joined", "lw", "mahalanobis"),
}


# images


def tiles(data: Path) -> Images:
    """Return the magnetic tiles; fit and test share no tile."""
    from false_alarms import TILES

    source = ImageFolder(data / "magnetic_tile", pattern="*.jpg")
    groups = group_numbers(TILES, source.names, columns={}, size_of=source.size_of)
    free = source.labels == source.classes.index("MT_Free")
    rng = np.random.default_rng(0)
    parts = rng.permutation(np.unique(groups[free]))
    where = np.array([np.flatnonzero(parts == g)[0] if g in parts else -1 for g in groups])
    order = np.argsort(where, kind="stable")
    good = order[free[order]]
    fit = good[:FIT]
    fit = fit[where[fit] < where[good[FIT]]]  # whole tiles
    normal = rng.permutation(good[where[good] > where[good[FIT]]])[:TEST]
    fitted = np.unique(groups[fit])
    other = np.flatnonzero(~free & ~np.isin(groups, fitted))
    anomalous = rng.permutation(other)[:TEST]
    read = [[source.read(int(i)).pixels for i in some] for some in (fit, normal, anomalous)]
    return Images(read[0], groups[fit], read[1], read[2])


def fashion(data: Path, normal: int, anomalous: int) -> Images:
    """Return two classes of Fashion-MNIST by number."""
    arrays = load(data / "FashionMNIST" / "raw")

    def some(part: str, number: int, count: int) -> list[np.ndarray]:
        images, labels = arrays[part]
        chosen = np.random.default_rng(number).permutation(np.flatnonzero(labels == number))[:count]
        return [np.repeat(image[..., None], 3, axis=2) for image in images[chosen]]

    return Images(some("train", normal, FIT), np.arange(FIT), some("test", normal, TEST), some("test", anomalous, TEST))


def photographs(data: Path, normal: str, anomalous: str) -> Images:
    """Return two classes of CIFAR-10 (JPEG)."""

    def some(part: str, name: str, count: int) -> list[np.ndarray]:
        source = ImageFolder(data / "cifar10_folder" / part, pattern="*.jpg")
        found = np.flatnonzero(source.labels == source.classes.index(name))
        return [source.read(int(i)).pixels for i in np.random.default_rng(0).permutation(found)[:count]]

    return Images(some("train", normal, FIT), np.arange(FIT), some("test", normal, TEST), some("test", anomalous, TEST))


def parts(name: str) -> Images:
    """Return a rendered set, a third of its anomalous images of each kind."""
    good = [rendered(name, None, i)[0] for i in range(FIT + TEST)]
    each = -(-TEST // len(kinds(name)))
    bad = [rendered(name, kind, 100_000 * (1 + j) + i)[0] for j, kind in enumerate(kinds(name)) for i in range(each)]
    return Images(good[:FIT], np.arange(FIT), good[FIT:], bad[:TEST])


def sets(data: Path) -> dict[str, Callable[[], Images]]:
    """Return the function that reads each set, by name."""
    return {
        "tile": lambda: tiles(data),
        "sneaker, ankle boot": lambda: fashion(data, 7, 9),
        "pullover, coat": lambda: fashion(data, 2, 4),
        "deer, horse": lambda: photographs(data, "deer", "horse"),
        "automobile, truck": lambda: photographs(data, "automobile", "truck"),
        **{name: lambda name=name: parts(name) for name in RENDERED},  # type: ignore[misc]
    }


# embeddings


class BothLayers(JoinedLayers):
    """The joined layers, each of length 1, and behind them the last layer as it is."""

    def forward(self, images: Any) -> Any:
        """Return vectors (N, 320 + 1280)."""
        import torch

        from metrad.models.pooling import pool

        features = zip(self.module(images).values(), self.channel_axes, strict=True)
        pooled = [pool(values.movedim(axis, 1)) for values, axis in features]
        return torch.cat([*(torch.nn.functional.normalize(each) for each in pooled[:-1]), pooled[-1]], dim=1)


def forward_at(size: int, flip: bool, weights: Path) -> Forward:
    """Return the pass that embeds images at ``size`` pixels."""
    import torch

    from metrad.models.backbones import mobilenet_v2
    from metrad.models.embedder import Embedder

    whole = mobilenet_v2(weights=str(weights))
    layers = ["features.10", "features.13", "features.16", "features.18"]
    from torchvision.models import mobilenet_v2 as plain

    module = plain()
    module.load_state_dict(torch.load(weights, weights_only=True))
    both = BothLayers(module, layers).eval()
    embedder = Embedder(Backbone(both, 320 + 1280, whole.input_spec), image_size=size, test_time_flip=flip)
    return Forward(embedder.eval(), torch.device("cpu"), None)


def embedded(forward: Forward, images: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Return embeddings (N, 1600) of images of any size."""
    import torch

    found = []
    for start in range(0, len(images), CPU_BATCH):
        batch = np.stack([resize(image, (size, size)) for image in images[start : start + CPU_BATCH]])
        found.append(forward(torch.from_numpy(batch)))
    return np.concatenate(found)


def defective(images: Sequence[np.ndarray], groups: np.ndarray, size: int) -> list[np.ndarray]:
    """Return each image with each kind of synthetic defect, kind by kind, at ``size`` pixels."""
    small = [resize(image, (size, size)) for image in images]
    found = []
    for number, kind in enumerate(KINDS):
        for i, image in enumerate(small):
            others = np.flatnonzero(groups != groups[i])
            other = small[int(np.random.default_rng([number, i]).choice(others))]
            found.append(with_defect(image, kind, [0, number, i], other=other)[0])
    return found


def vectors(images: Images, weights: Path) -> dict[tuple[int, bool], dict[str, np.ndarray]]:
    """Return embeddings of all images by size and flip: of roles, and ``stand_ins`` (kinds, N, D)."""
    found = {}
    for size, flip in [*((size, False) for size in SIZES), (FLIPPED_AT, True)]:
        forward = forward_at(size, flip, weights)
        each = {name: embedded(forward, getattr(images, name), size) for name in ("good", "normal", "anomalous")}
        stand_ins = embedded(forward, defective(images.good, images.groups, size), size)
        found[size, flip] = {**each, "stand_ins": stand_ins.reshape(len(KINDS), len(images.good), -1)}
    return found


def kept(cache: Path, name: str, make: Callable[[], Images], weights: Path) -> tuple[Any, np.ndarray]:
    """Return the embeddings of a set and the groups of its good images, from ``cache`` where they are."""
    code = b"".join(Path(__file__).with_name(each).read_bytes() for each in ("_rendered.py",))
    import metrad.data.synthetic_defects as makers

    code += Path(makers.__file__).read_bytes()
    file = cache / f"{name.replace(', ', '_').replace(' ', '_')}-{hashlib.sha256(code).hexdigest()[:12]}.npz"
    if not file.exists():
        images = make()
        flat = {
            f"{size}/{int(flip)}/{role}": values
            for (size, flip), roles in vectors(images, weights).items()
            for role, values in roles.items()
        }
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file, groups=images.groups, **flat)
        print(f"embedded: {name}", flush=True)
    with np.load(file) as stored:
        found: dict[tuple[int, bool], dict[str, np.ndarray]] = {}
        for key in stored.files:
            if key != "groups":
                size, flip, role = key.split("/")
                found.setdefault((int(size), flip == "1"), {})[role] = stored[key]
        return found, stored["groups"]


# scores


def whitening(fit: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map of ``within_class_whitening`` for one class, without a matrix (D, D): there are fewer images."""
    mean = fit.mean(axis=0, dtype=np.float64)
    centred = fit - mean
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    variances, width = lengths**2 / len(fit), fit.shape[1]
    shrinkage = ledoit_wolf_shrinkage(centred, assume_centered=True)
    floor = shrinkage * variances.sum() / width
    scale = 1 / np.sqrt((1 - shrinkage) * variances + floor) - 1 / np.sqrt(floor)

    def whitened(rows: np.ndarray) -> np.ndarray:
        away = rows - mean
        found: np.ndarray = away / np.sqrt(floor) + (away @ directions.T * scale) @ directions
        return found

    return whitened


def components(fit: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map to whitened principal components that hold 95 % of the variance."""
    from sklearn.decomposition import PCA

    found = PCA(0.95, whiten=True, svd_solver="full").fit(fit)
    return lambda rows: np.asarray(found.transform(rows))


def scores(recipe: Recipe, fit: np.ndarray, *tested: np.ndarray) -> list[np.ndarray]:
    """Return the scores of each of ``tested`` by a recipe fitted on ``fit``."""
    if recipe.whiten != "no":
        change = whitening(fit) if recipe.whiten == "lw" else components(fit)
        fit, tested = change(fit), tuple(change(rows) for rows in tested)
    if recipe.scorer == "mahalanobis":
        return [np.linalg.norm(rows, axis=1) for rows in tested]
    scorer = SCORERS[recipe.scorer]().fit(fit.astype(np.float32))
    return [scorer.score(rows.astype(np.float32)) for rows in tested]


def of(recipe: Recipe, found: dict[tuple[int, bool], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the embeddings that a recipe takes."""
    part = slice(sum(EARLY), None) if recipe.layers == "last" else slice(sum(EARLY))
    return {role: values[..., part] for role, values in found[recipe.size, recipe.flip].items()}


def auroc(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """Return the area under the ROC curve."""
    truth = np.repeat([0, 1], [len(normal), len(anomalous)])
    return float(roc_auc_score(truth, np.concatenate([normal, anomalous])))


def by_stand_ins(recipe: Recipe, given: dict[str, np.ndarray], groups: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return for each fold by group the mean AUROC over kinds of synthetic defect."""
    fold = np.random.default_rng(0).permutation(len(np.unique(groups[chosen]))) % FOLDS
    fold = fold[np.unique(groups[chosen], return_inverse=True)[1]]
    found = []
    for number in range(FOLDS):
        fit, out = chosen[fold != number], chosen[fold == number]
        tested = [given["good"][out], *given["stand_ins"][:, out]]
        good, *bad = scores(recipe, given["good"][fit], *tested)
        found.append([auroc(good, each) for each in bad])
    return np.mean(found, axis=1)


def measured(
    name: str, found: dict[tuple[int, bool], dict[str, np.ndarray]], groups: np.ndarray, few: bool
) -> pd.DataFrame:
    """Return a row a recipe and draw: AUROC by stand-ins and by truth, and on each half of the test images."""
    everything = np.arange(len(groups))
    draws = [np.random.default_rng([5, d]).permutation(everything)[:FEW] for d in range(DRAWS)] if few else [everything]
    rows = []
    for draw, chosen in enumerate(draws):
        for recipe in RECIPES:
            given = of(recipe, found)
            normal, anomalous = scores(recipe, given["good"][chosen], given["normal"], given["anomalous"])
            halves = [_halves(normal, anomalous, half) for half in range(HALVES)]
            folds = by_stand_ins(recipe, given, groups, chosen)
            rows.append(
                {
                    "set": name,
                    "draw": draw,
                    "recipe": str(recipe),
                    "stand-ins": folds.mean(),
                    "folds": folds,
                    "auroc": auroc(normal, anomalous),
                    "halves": np.array(halves),
                }
            )
    return pd.DataFrame(rows)


def _halves(normal: np.ndarray, anomalous: np.ndarray, number: int) -> tuple[float, float]:
    rng = np.random.default_rng([9, number])
    one = [rng.permutation(len(each)) for each in (normal, anomalous)]
    cut = [len(each) // 2 for each in one]
    return (
        auroc(normal[one[0][: cut[0]]], anomalous[one[1][: cut[1]]]),
        auroc(normal[one[0][cut[0] :]], anomalous[one[1][cut[1] :]]),
    )


# regret


def regret(rows: pd.DataFrame, choice: int) -> float:
    """Return the mean over halves of the AUROC of the recipe that was best on the other half, less that of ``choice``.

    ``rows`` are the recipes of one set and draw, ``choice`` is a position among them.
    """
    halves = np.stack(rows["halves"].to_list())  # (recipes, halves, 2)
    found = []
    for one, other in ((0, 1), (1, 0)):
        best = halves[:, :, one].argmax(axis=0)
        found.append(halves[best, np.arange(halves.shape[1]), other] - halves[choice, :, other])
    return float(np.mean(found))


def regrets(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row a set, a column a way to choose: regret, the mean over draws."""
    names = rows.groupby("recipe", sort=False)["auroc"].mean().index.to_list()
    means = rows.pivot_table("auroc", "set", "recipe", sort=False)[names]
    found: dict[str, dict[str, float]] = {}
    for (place, _), some in rows.groupby(["set", "draw"], sort=False):
        others = means.drop(index=place).mean() if len(means) > 1 else means.mean()
        best = int(some["stand-ins"].to_numpy().argmax())
        choices = {
            "stand-ins": best,
            "stand-ins if sure": best if sure(some, best, names.index(str(DEFAULT))) else names.index(str(DEFAULT)),
            "best of the other sets": names.index(str(others.idxmax())),
            **{name: names.index(str(recipe)) for name, recipe in FIXED.items()},
        }
        for name, choice in choices.items():
            line = found.setdefault(str(place), {})
            line[name] = line.get(name, 0.0) + regret(some, choice) / len(rows[rows["set"] == place]["draw"].unique())
    return pd.DataFrame(found).T


def sure(rows: pd.DataFrame, best: int, default: int) -> bool:
    """Return whether stand-ins find ``best`` better than ``default``: a one-sided paired t-test over folds, 0.05."""
    gain = rows["folds"].iloc[best] - rows["folds"].iloc[default]
    return bool(gain.std() > 0 and ttest_1samp(gain, 0, alternative="greater").pvalue < 0.05)


def agreement(rows: pd.DataFrame) -> pd.Series:
    """Return for each set the rank correlation of stand-ins and truth over the recipes, the mean over draws."""
    found = rows.groupby(["set", "draw"], sort=False)[["stand-ins", "auroc"]].apply(
        lambda some: spearmanr(some["stand-ins"], some["auroc"]).statistic
    )
    mean: pd.Series = found.groupby(level=0, sort=False).mean()
    return mean


def shown(rows: pd.DataFrame, few: bool) -> str:
    """Return the tables of one number of good images."""
    wide = regrets(rows)
    wide.loc["mean"], wide.loc["worst set"] = wide.mean(), wide.max()
    count = FEW if few else FIT
    lines = [f"\nregret in AUROC with {count} good images\n"]
    lines.append(table(["set", *wide], [[name, *(f"{x:+.3f}" for x in line)] for name, line in wide.iterrows()]))
    means = rows.pivot_table("auroc", "recipe", "set", sort=False)
    means["mean"] = means.mean(axis=1)
    ordered = means.sort_values("mean", ascending=False)
    lines.append(f"\nAUROC with {count} good images, recipes by their mean\n")
    lines.append(
        table(["recipe", *ordered], [[name, *(f"{x:.3f}" for x in line)] for name, line in ordered.iterrows()])
    )
    chosen = rows.loc[rows.groupby(["set", "draw"], sort=False)["stand-ins"].idxmax()]
    lines.append("\nwhat stand-ins chose, and the rank correlation of stand-ins and truth over the recipes\n")
    agreed = agreement(rows)
    lines.append(
        table(
            ["set", "draw", "recipe", "by stand-ins", "by truth", "correlation"],
            [
                [
                    r["set"],
                    r["draw"],
                    r["recipe"],
                    f"{r['stand-ins']:.3f}",
                    f"{r['auroc']:.3f}",
                    f"{agreed[r['set']]:+.2f}",
                ]
                for _, r in chosen.iterrows()
            ],
        )
    )
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--cache", type=Path, required=True, help="folder for embeddings, kept for the next time")
    parser.add_argument("--sets", help="names of sets that begin with these words; all by default")
    parser.add_argument("--good", default=f"{FIT},{FEW}", help="numbers of good images")
    parser.add_argument("--out", type=Path, help="folder for the tables as CSV")
    chosen = parser.parse_args()
    wanted = chosen.sets.split(",") if chosen.sets else [""]
    some = {k: make for k, make in sets(chosen.data).items() if any(k.startswith(word) for word in wanted)}
    weights = chosen.data / "weights" / "mobilenet_v2_imagenet.pth"
    for few in (int(count) == FEW for count in chosen.good.split(",")):
        every = []
        for name, make in some.items():
            every.append(measured(name, *kept(chosen.cache, name, make, weights), few))
        rows = pd.concat(every, ignore_index=True)
        print(shown(rows, few), flush=True)
        if chosen.out:
            chosen.out.mkdir(parents=True, exist_ok=True)
            rows.drop(columns=["halves", "folds"]).to_csv(
                chosen.out / f"{FEW if few else FIT}_good_images.csv", index=False, float_format="%.5f"
            )


if __name__ == "__main__":
    main()

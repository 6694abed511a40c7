"""The command ``metrad audit``: what tells good training from good test images, and which images lie on both sides."""

from collections.abc import Iterator, Sequence

from metrad.data.properties import Table, title_of
from metrad.data.ungrouped import UngroupedViews
from metrad.errors import InputError
from metrad.evaluation import audit
from metrad.quoting import argument
from metrad.runs import property_table
from metrad.runs.directory import Run

NAMED = 5  # near copies that are named
DRAWN = (
    "the test images were drawn at random from those that training images were drawn from: what differs between good "
    "ones of both is chance"
)
GROUPED = "dataset.group=auto keeps them on one side of the split"


def audited(what: Sequence[str]) -> str:
    """Return what ``metrad audit`` prints: of a finished run, or of a configuration, the images of which are read.

    Args:
        what: the directory of a run; or settings such as dataset=mvtec.

    Raises:
        InputError: the run has not finished or is of a version without properties, or a setting cannot be used.
    """
    if len(what) == 1 and "=" not in what[0]:
        return "\n".join(_of_run(Run.finished(what[0])))
    paths = [each for each in what if "=" not in each and not each.startswith("-")]
    if paths:
        raise InputError(f"metrad audit takes one run or settings, got {' '.join(map(argument, what))}")
    return "\n".join(_of_settings(what))


def _of_run(run: Run) -> Iterator[str]:
    table, metrics = property_table.read(run, run.saved_split()), run.measured()
    if table is None:
        raise InputError(
            f"{run.path} has no {run.properties.name}, as runs of earlier versions; audit its images by its settings, "
            "as in: metrad audit dataset=NAME"
        )
    yield from _of_table(table)
    saved = metrics.get("audit") or {}
    if saved.get("exchangeability"):
        said = audit.lines({"exchangeability": saved["exchangeability"]})
        p_value = saved["exchangeability"]["p_value"]
        yield said[0] if said else f"good test images score as calibration images do (p = {p_value:.2g})"
    views = UngroupedViews.of(metrics.get("ungrouped_views"), f"{run.metrics}: the entry ungrouped_views")
    if views is not None:
        yield f"{views.words}, and the run has no groups: {GROUPED}"
    yield from _copies(metrics.get("copies_left_out", 0))


def _of_settings(given: Sequence[str]) -> Iterator[str]:
    from metrad.app import hydra_seam
    from metrad.app.arguments import for_hydra
    from metrad.app.build import build
    from metrad.app.fit import prepare  # imports torch and Lightning, which a run does not need
    from metrad.runs.config import checks
    from metrad.runs.config.home import expand_home

    checks.register()
    cfg, _ = hydra_seam.compose(for_hydra(list(given)))
    data = prepare(build(expand_home(cfg)))
    yield from _of_table(data.properties())
    pairs = data.near_copies_across()
    if pairs:
        listed = ", ".join(f"{one} + {other}" for one, other in pairs[:NAMED])
        more = f" and {len(pairs) - NAMED} more pairs" if len(pairs) > NAMED else ""
        yield f"near copies lie among training and among test images: {listed}{more}. {GROUPED}"
    found = data.unnamed_groups()
    if found:
        yield f"images seem to show one part several times: {found}. {GROUPED}"
    yield from _copies(data.split.copies_left_out)


def _copies(count: int) -> Iterator[str]:
    if count:
        yield f"{count:,} copies with equal pixels were left out, so that none lies on both sides"


def _of_table(table: Table) -> Iterator[str]:
    """Yield the AUROC of each property in which good training and test images differ, and the warning."""
    if not set(table.roles) & set(audit.TRAINING):
        yield DRAWN
        return
    compared = audit.comparison(table)
    counts = {name: sum(role in roles for role in table.roles) for name, roles in audit.SIDES.items()}
    groups = " by group" if table.groups is not None else ""
    yield f"{counts['training']:,} good training and {counts['test']:,} good test images, compared{groups}"
    width = max((len(title_of(name)) for name in compared), default=0)
    for name, (auroc, p_value) in sorted(compared.items(), key=lambda item: -item[1][0]):
        yield f"  {title_of(name):<{width}}  AUROC {auroc:.3f}   p = {p_value:.2g}"
    found = audit.confound(table)
    yield (
        found.line
        if found
        else f"no property tells them apart (p above {audit.ALPHA:g} for all together, or AUROC below {audit.LEAST:g})"
    )

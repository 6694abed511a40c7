"""The command ``metrad judge``: the figures of any detector from a table of its scores."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metrad.data.score_tables import ScoreTable, read_scores
from metrad.evaluation.judging import difference, judge
from metrad.evaluation.measures import Settings
from metrad.evaluation.metrics import by_name
from metrad.evaluation.planning import require_share


def judged(paths: Sequence[Path], normal: Sequence[str], rates: Sequence[float], *, as_json: bool) -> str:
    """Return what ``metrad judge`` prints.

    Args:
        paths: tables of scores; each after the first is compared with the first.
        normal: labels of normal images; see ``score_tables.read_scores``.
        rates: false-alarm rates; empty for 0.01 and 0.05.
        as_json: whether to return JSON in place of text.

    Raises:
        InputError: a table cannot be used, a rate lies outside (0, 1), or two tables have other images.
    """
    for rate in rates:
        require_share("--rate", rate, 0.05)
    settings = Settings(false_alarm_rates=rates or None)
    tables = [read_scores(path, normal) for path in paths]
    found = [judge(table, settings) for table in tables]
    differences = [difference(tables[0], other, settings) for other in tables[1:]]
    if as_json:
        content = [{"table": str(table.path), **metrics} for table, metrics in zip(tables, found, strict=True)]
        for entry, apart in zip(content[1:], differences, strict=True):
            entry["first_less_this"] = apart
        return json.dumps(content if len(content) > 1 else content[0], indent=2)
    lines = [line for table, metrics in zip(tables, found, strict=True) for line in _lines(table, metrics)]
    for other, apart in zip(tables[1:], differences, strict=True):
        lines += _difference_lines(tables[0], other, apart)
    return "\n".join(lines)


def _lines(table: ScoreTable, metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield the figures of a table in text."""
    sizes, groups = metrics["sizes"], metrics.get("groups")
    yield f"{table.path}: {_counts(sizes)} test images{f' in {_counts(groups)} groups' if groups else ''}"
    level = 100 * metrics["intervals"]["level"]
    if sizes["test_anomalous"]:
        delong = ("AUROC by DeLong", metrics["auroc"], metrics["intervals"]["auroc_delong"])
        rows = [(m.title, metrics[name], metrics["intervals"]["bootstrap"][name]) for name, m in by_name().items()]
        yield f"  {'':<40} {'value':>7}   {level:g} % interval"
        for title, value, (low, high) in [rows[0], delong, *rows[1:]]:
            yield f"  {title:<40} {value:7.4f}   {low:.4f} to {high:.4f}"
    else:
        yield "  no anomalous image, so only false alarms can be measured"
    for entry in metrics["thresholds"]:
        yield from _threshold_lines(entry)
    if not metrics["thresholds"]:
        yield (
            "  no rates of alarms: they need a column p_value, or rows with the label calibration, which set thresholds"
        )


def _counts(sizes: Mapping[str, int]) -> str:
    return f"{sizes['test_normal']:,} normal and {sizes['test_anomalous']:,} anomalous"


def _threshold_lines(entry: Mapping[str, Any]) -> Iterator[str]:
    rates = [_rate("false alarms", entry["test_false_alarm_rate"], entry["test_false_alarm_interval"])]
    if entry["test_detection_rate"] is not None:
        rates.append(_rate("detected", entry["test_detection_rate"], entry["test_detection_interval"]))
    yield f"  at {100 * entry['false_alarm_rate']:g} % promised: {', '.join(rates)}"
    for name, kind in entry.get("by_kind", {}).items():
        mark = "   the worst kind" if name == entry["worst_kind"] else ""
        counted = f"{name} ({kind['images']:,} images)"
        yield f"    {_rate(counted, kind['rate'], kind['interval'])}{mark}"


def _rate(what: str, value: float, interval: Sequence[float]) -> str:
    return f"{what} {100 * value:.1f} % ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def _difference_lines(first: ScoreTable, other: ScoreTable, apart: Mapping[str, Any]) -> Iterator[str]:
    yield f"{first.path} less {other.path}, on the same images"
    auroc = apart["auroc"]
    low, high = auroc["delong"]
    ends = f"{low:+.4f} to {high:+.4f}, p = {auroc['p_value']:.2g}"
    yield f"  {'AUROC by DeLong':<40} {auroc['difference']:+.4f}   {ends}"
    for name, metric in by_name().items():
        low, high = apart[name]["interval"]
        yield f"  {metric.title:<40} {apart[name]['difference']:+.4f}   {low:+.4f} to {high:+.4f}"

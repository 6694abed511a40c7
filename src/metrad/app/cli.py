"""The command line. Nothing here imports torch before a job starts, so that --help is fast."""

import contextlib
import difflib
import json
import logging
import re
import shlex
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperCommand, TyperOption

from metrad.app.messages import BAD_INPUT, FAILED_RUNS, FLAGGED, relative, reporting_errors
from metrad.errors import TERMINATED, InputError
from metrad.quoting import argument
from metrad.terminal import Formatter, printable

log = logging.getLogger("metrad")

_EXAMPLES = """\
Examples:
  python train.py experiment=demo                       a first run, offline, under a minute
  python train.py dataset=fmnist                        AdaCos on Fashion-MNIST
  python train.py head=arcface head.margin=0.3 seed=7   another head, margin and seed
  python train.py dataset=image_folder dataset.source.root=parts dataset.normal=[good] dataset.anomalous=[scratch]
  python train.py -m head=adacos,arcface dataset=fmnist,cifar10 'seed=range(10)'   a sweep of 40 runs
  python train.py ckpt_path=RUN/checkpoints/last.ckpt   continue an interrupted run
  python train.py dataset=fmnist --cfg job              show the whole configuration and stop
  metrad fit GOOD --out RUN                             a detector from a folder of good images
  metrad evaluate RUN scorer.k=5                        score a finished run again
  metrad plan --rate 0.01 --confidence 0.95             how many good parts that promise takes
  metrad compare multirun/TIME --baseline arcface       differences between the runs of a sweep, with tests
  metrad judge scores.csv other.csv                     figures of any detector from its scores, and the difference
  metrad audit RUN                                      do good test images differ from the training images?
  metrad envelope RUN                                   false alarms if light, focus or position change
  metrad report RUN                                     one HTML file of a finished run
  metrad predict RUN photos --html batch.html           verdicts on new images, and a page to look at them
"""
_OTHER_SETTINGS = """\
  hydra.run.dir=DIR                       directory of the run; outputs/TIME-HEAD-DATASET-SEED if not given
  Each choice also has its own settings: head.margin=0.3, trainer.max_epochs=20, dataset.source.root=parts.
  --config-dir DIR   a folder of your own, with choices such as DIR/dataset/mine.yaml
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


class _CompareCommand(TyperCommand):
    """The command ``metrad compare``. Its help lists the metrics, and only this help imports numpy."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # click's module depends on typer's version
        """Write the help."""
        from metrad.evaluation.metrics import by_name

        described = "; ".join(f"{name}, {metric.description}" for name, metric in by_name().items())
        for option in self.params:
            if isinstance(option, TyperOption) and option.name == "metric":
                option.help = f"One of: {described}."
        super().format_help(ctx, formatter)


def main() -> None:
    """Run the installed command ``metrad``. A wrong command, option or argument ends it with one line and code 2."""
    arguments = sys.argv[1:]
    try:
        reporting_errors(lambda: _require_command(arguments))
        raise SystemExit(app(standalone_mode=False) or 0)
    except Exception as error:
        if not hasattr(error, "format_message"):  # of click; typer 0.29 has a click of its own
            raise
        command = f"metrad {arguments[0]}" if arguments and arguments[0] in _commands() else "metrad"
        line = _lacking(error, command) or " ".join(error.format_message().split())
        line = line if line.endswith((".", "?", "!")) else f"{line}."
        typer.echo(printable(f"error: {line} {command} --help lists what it takes"), err=True)
        raise SystemExit(BAD_INPUT) from None


# What stands for the arguments that a command cannot do without, in an example.
_STANDS_FOR = {
    "audit": "outputs/NAME",
    "envelope": "outputs/NAME",
    "evaluate": "outputs/NAME",
    "report": "outputs/NAME",
    "judge": "scores.csv",
}


def _lacking(error: Any, command: str) -> str | None:
    """Return a line on an argument that is missing, with an example of the whole command; None for other errors."""
    parameter, name = getattr(error, "param", None), command.rpartition(" ")[2]
    if type(error).__name__ != "MissingParameter" or parameter is None or name not in _STANDS_FOR:
        return None
    what = str(getattr(parameter, "help", "") or "").rstrip(".")
    return f"{command} needs {str(parameter.name).upper()}: {what}, as in: {command} {_STANDS_FOR[name]}."


def _commands() -> list[str]:
    return [str(command.name) for command in app.registered_commands]


def _require_command(arguments: list[str]) -> None:
    """Check that the first argument is a command.

    Raises:
        InputError: it is not, and the line says which command is meant; or an argument is empty.
    """
    first = arguments[0] if arguments else "--help"
    if first in _commands() and "" in arguments:
        raise InputError(f"an argument of metrad {first} is empty (''); leave it out, or give what it stands for")
    if first in (*_commands(), "--help", "-h", "--version"):
        return
    if "=" in first or first in ("-m", "--multirun"):
        settings = [item for item in arguments if item != "train"]
        raise InputError(f"{first} is no command; settings follow one: {shlex.join(['metrad', 'train', *settings])}")
    close = difflib.get_close_matches(first, _commands(), n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise InputError(f"{argument(first)} is no command of metrad; {hint}allowed: {', '.join(sorted(_commands()))}")


@app.callback(invoke_without_command=True, add_help_option=False)
def _root(
    context: typer.Context,
    show_help: Annotated[bool, typer.Option("--help", "-h", help="Show this page.")] = False,
    show_version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Find anomalous images, trained on labelled images of other classes and on no anomalies."""
    if show_version:
        from metrad import __version__

        typer.echo(__version__)
        raise typer.Exit
    if show_help or context.invoked_subcommand is None:
        typer.echo(f"{context.get_help()}\n\n{_EXAMPLES}\nmetrad train --help lists every choice and setting.")
        raise typer.Exit


@app.command("train", context_settings=_PASS_ON, add_help_option=False)
def _train_command(context: typer.Context) -> None:
    """Train and score one run, or a sweep with -m. train.py does the same."""
    train(context.args)


@app.command("evaluate")
def _evaluate_command(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run, or of a sweep.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes, such as scorer=lof scorer.k=5; scorer=knn,lof for several.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Folder below RUN/evaluations; named after the overrides if not given.")
    ] = None,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Read the images again and draw neighbours.png and hardest.png.")
    ] = False,
    good_images: Annotated[
        bool,
        typer.Option("--good-images", help="Fit the scorer to 20, 50, 100 and 300 of the good images too: a curve."),
    ] = False,
) -> None:
    """Score finished runs again with other scorers, from the embeddings they kept.

    Results go to RUN/evaluations; older results stay. 'scorer=glob(*)' evaluates all scorers and prints a table.
    """
    _log_messages(sys.stdout)

    def job() -> None:
        from metrad.app.evaluate import evaluate_all

        if not evaluate_all(run, overrides or [], name, evidence=evidence, good_images=good_images):
            raise SystemExit(FAILED_RUNS)

    reporting_errors(job)


@app.command("envelope")
def _envelope_command(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Where the run's images are now, such as dataset.source.root=parts.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of noise and of the directions of shifts and turns.")] = 0,
    device: Annotated[str, typer.Option(help="Device to embed images on, such as cpu or cuda.")] = "cpu",
) -> None:
    """Say how many false alarms a run would raise if the photographs changed a little.

    Its calibration images are scored again, each brighter and darker, blurred, noisy, shifted, turned and compressed in
    several steps. Results go to RUN/envelope.json and RUN/envelope.png, and into 'metrad report RUN'.
    """
    _log_messages(sys.stderr)

    def job() -> str:
        from metrad.app.envelope import write_envelope

        return write_envelope(run, overrides or [], seed=seed, device=device)

    typer.echo(printable(reporting_errors(job)))


@app.command("plan")
def _plan_command(
    rate: Annotated[
        list[float] | None, typer.Option(help="False-alarm rate to promise; may be given several times. [0.01, 0.05]")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Probability that a threshold keeps its rate.")] = 0.95,
    parts: Annotated[
        int | None, typer.Option(help="Number of good parts there will be; adds which rates they allow.")
    ] = None,
) -> None:
    """Say how many good parts a promised false-alarm rate takes, before any is photographed."""

    def job() -> str:
        from metrad.evaluation.conformal import DEFAULT_RATES
        from metrad.evaluation.planning import plan

        return plan(rate or list(DEFAULT_RATES), confidence, parts)

    typer.echo(printable(reporting_errors(job)))


@app.command("fit")
def _fit_command(  # noqa: PLR0913 - each is an option
    *,
    good: Annotated[Path, typer.Argument(help="Folder of good images: flat, with a folder good or ok, or train/good.")],
    reference: Annotated[
        list[Path] | None, typer.Option(help="Folder of known images of another kind; may be repeated.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="File of MobileNetV2 weights; ImageNet's, downloaded once, if not given.")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="Image files, such as '*.jpg'; the usual endings if not given.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="Which images show one part: parent (a folder a part), auto, a pattern with named groups such as "
            "'(?P<part>\\w+)_\\d+', or for running numbers \"{pattern: 'num_(?P<number>\\d+)', gap: 60}\"."
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Height and width that images are scaled to, in pixels.")] = 224,
    rate: Annotated[
        list[float] | None,
        typer.Option(help="False-alarm rate to promise; may be given several times. [0.01, 0.05]", show_default=False),
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Probability with which confident thresholds keep their rate.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the choice of images for calibration and test.")] = 0,
    minutes: Annotated[
        float | None,
        typer.Option("--try", help="Minutes to compare recipes by synthetic defects first.", metavar="MINUTES"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run; outputs/TIME-… if not given.", show_default=False)
    ] = None,
) -> None:
    """Make a detector from a folder of good images: a run that predict, evaluate and report can use.

    Nothing is trained. A share of the images is kept for thresholds and for testing them.
    """
    _log_messages(sys.stdout)

    def job() -> str:
        from metrad.app import inspect

        wanted = inspect.Wanted(
            good, reference or (), weights, pattern, group, size, confidence, seed, rate or (), minutes
        )
        with _leaving_nothing():
            return "\n".join(inspect.summary(inspect.make(wanted, out or inspect.default_out(wanted))))

    typer.echo(printable(reporting_errors(job)))


@contextlib.contextmanager
def _leaving_nothing() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what it wrote by then is removed."""

    def stop(*_: object) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.command("compare", cls=_CompareCommand)
def _compare_command(
    sweep: Annotated[Path | None, typer.Argument(help="Folder of a sweep.", show_default=False)] = None,
    csv: Annotated[Path | None, typer.Option(help="Compare the rows of this CSV instead.", show_default=False)] = None,
    by: Annotated[str, typer.Option(help="The choice or setting compared, such as head or head.margin.")] = "head",
    baseline: Annotated[
        str | None, typer.Option(help="Compare all other values with this one, given as head=arcface or arcface.")
    ] = None,
    metric: Annotated[str, typer.Option()] = "auroc",  # _CompareCommand writes its help
    unpaired: Annotated[bool, typer.Option("--unpaired", help="Do not pair runs of one seed.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for tables and pictures; SWEEP/comparison if not given.")
    ] = None,
) -> None:
    """Compare the runs of a sweep that differ in one choice: tests over seeds and datasets, pictures, a report."""

    def job() -> str:
        from metrad.reports.comparison import compare as comparing
        from metrad.reports.comparison import tables
        from metrad.reports.comparison.false_alarms import false_alarms
        from metrad.reports.comparison.statistics import NothingMeasuredError
        from metrad.reports.report import write_report

        if (sweep is None) == (csv is None):
            raise InputError(
                "metrad compare takes either the folder of a sweep or a table: "
                "metrad compare multirun/NAME, or metrad compare --csv=FILE"
            )
        value = baseline.removeprefix(f"{by}=") if baseline else None
        options: dict[str, Any] = {"by": by, "baseline": value, "metric": metric, "unpaired": unpaired}
        if csv is not None:
            result, folder = comparing.compare_csv(csv, **options), csv.with_name(f"{csv.stem}-comparison")
        else:
            assert sweep is not None
            try:
                result, folder = comparing.compare(sweep, **options), sweep / "comparison"
            except NothingMeasuredError as error:
                return f"{error}. {false_alarms(sweep, by)}"
        target = out or folder
        with tables.folder(target):
            page = write_report(result, target / "report.html")  # first, as it may find a broken file of a run
            files = [*tables.write(result, target), page]
        written = f"written: {relative(files[0].parent)}/ ({', '.join(path.name for path in files)})"
        return f"{tables.report(result)}\n\n{written}"

    typer.echo(printable(reporting_errors(job)))


@app.command("judge")
def _judge_command(
    tables: Annotated[
        list[Path], typer.Argument(help="Tables of scores, .csv or .jsonl; others are compared with the first.")
    ],
    normal: Annotated[
        list[str] | None,
        typer.Option(help="Label of normal images, all others being kinds of anomalies; may be repeated."),
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(help="Promised false-alarm rate; may be given several times. [0.01, 0.05]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure any detector from its scores: metrics with intervals, false alarms, detection by kind.

    A table has columns label and score, and may have image, kind, group and p_value. Several tables of the same images
    are compared by DeLong's test and a paired bootstrap.
    """

    def job() -> str:
        from metrad.app.judge import judged

        return judged(tables, normal or (), rate or (), as_json=as_json)

    typer.echo(printable(reporting_errors(job)))


@app.command("audit")
def _audit_command(
    what: Annotated[
        list[str],
        typer.Argument(metavar="RUN|SETTINGS...", help="Directory of a finished run, or settings as of metrad train."),
    ],
) -> None:
    """Say whether good test images differ from the training images in something trivial, such as light or file type.

    Of settings, such as dataset=mvtec dataset.category=screw, it also looks for near copies among both. It trains
    nothing.
    """
    _log_messages(sys.stderr)

    def job() -> str:
        from metrad.app.audit import audited

        return audited(what)

    typer.echo(printable(reporting_errors(job)))


@app.command("report")
def _report_command(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    out: Annotated[Path | None, typer.Option(help="File to write; RUN/report.html if not given.")] = None,
) -> None:
    """Write the report of a finished run: one self-contained HTML file.

    The report of a sweep is part of 'metrad compare SWEEP'.
    """

    def job() -> str:
        from metrad.reports.report import write_run_report

        return f"report: {relative(write_run_report(run, out))}"

    typer.echo(printable(reporting_errors(job)))


@app.command("predict")
def _predict_command(  # noqa: PLR0913 - each parameter is an option of the command
    run: Annotated[Path, typer.Argument(help="Directory of a finished run, or folder of a saved detector.")],
    images: Annotated[
        list[str], typer.Argument(help="Files, folders, patterns such as 'line/*.png', or - for names on stdin.")
    ],
    *,
    rate: Annotated[float, typer.Option(help="Share of good images that may be flagged.")] = 0.05,
    confidence: Annotated[
        float | None,
        typer.Option(help="Probability with which the rate is kept; on average if not given.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Table: .csv, .jsonl or .parquet; stdout if not given.", show_default=False)
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Page of the batch, to look at.", show_default=False)] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures, each beside its nearest good image.", show_default=False),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            help="Names of images in folders, such as '*.jpg'; those of the fit if not given.", show_default=False
        ),
    ] = None,
    sort: Annotated[
        Path | None, typer.Option(help="Folder for a folder a verdict, with links to the images.", show_default=False)
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Make --sort copy the images.")] = False,
    good: Annotated[
        Path | None, typer.Option(help="Folder of the good images, if it was moved.", show_default=False)
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="A verdict a part: parent, a pattern such as '(?P<part>\\w+)_\\d+', or for running numbers "
            "\"{pattern: 'num_(?P<number>\\d+)', gap: 60}\".",
            show_default=False,
        ),
    ] = None,
    fail_on_anomaly: Annotated[
        bool, typer.Option("--fail-on-anomaly", help="Exit with 3 if anything is flagged.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the table of --out.")] = False,
    device: Annotated[str, typer.Option(help="Device to embed images on, such as cpu or cuda.")] = "cpu",
    bits: Annotated[
        int | None,
        typer.Option(help="Of images of more than 8 bits: 12 if white is 4095. As in the fit if not given."),
    ] = None,
) -> None:
    """Say of each image whether it is anomalous: one row an image, with its score and its nearest good image.

    Exit codes: 0 if all images were scored, 2 on errors, and 3 with --fail-on-anomaly if something is flagged.
    Examples: metrad predict RUN photos --out verdicts.csv --html batch.html;
    find photos -name '*.png' | metrad predict RUN - --rate 0.01.
    """
    _log_messages(sys.stderr)
    given = dict(locals())
    given.pop("fail_on_anomaly")

    def job() -> int:
        from metrad.app.predict import Request, predict_or_stop

        tally = predict_or_stop(Request(**given))
        flagged = FLAGGED if fail_on_anomaly and tally.anything_flagged else 0
        return BAD_INPUT if tally.errors else flagged

    raise SystemExit(reporting_errors(job))


def _log_messages(file: TextIO) -> None:
    """Write what is logged to ``file``, one message a line."""
    handler = logging.StreamHandler(file)
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it logs which of its builds it loads


def train(argv: list[str]) -> None:
    """Train one run or a sweep, as ``train.py`` and ``metrad train`` do."""
    if {"--help", "-h"} & set(argv):
        typer.echo("Train and score one run, or a sweep of runs with -m.\n\n" + manual())
        return
    from metrad.app.start import start

    start(argv)


def manual() -> str:
    """Return the manual: all choices and settings, with examples."""
    from metrad.runs.config.catalogue import choices

    lines = ["Usage: python train.py [GROUP=CHOICE ...] [KEY=VALUE ...]     (metrad train is the same)", ""]
    for group, members in choices().items():
        lines.append(f"{group}=")
        lines += [f"  {name:<18} {text}" for name, text in members.items()]
    lines += ["", "Settings of every run, with their defaults, which a choice may replace:", *_settings()]
    lines += ["", "Ranges of the settings of choices:", *_ranges()]
    return "\n".join(lines) + f"\n{_OTHER_SETTINGS}\n{_EXAMPLES}"


def _ranges() -> Iterator[str]:
    """Yield lines with the ranges of the arguments of each part."""
    from metrad.runs.config.schema import PARTS

    for part, mark in PARTS.items():
        listed = "; ".join(f"{name}: {rule.must.removeprefix('be ')}" for name, rule in mark.ranges.items())
        if listed:
            yield textwrap.fill(f"  {part}.  {listed}", 120, subsequent_indent=6 * " ")


def _settings() -> Iterator[str]:
    """Yield a line for each setting of every run: its key, default, description and range."""
    from metrad.runs.config.schema import SETTINGS

    for key, setting in SETTINGS.items():
        if not setting.description:  # groups; parts, whose choices are listed above
            continue
        default = setting.default if isinstance(setting.default, str) else json.dumps(setting.default)
        value = re.sub(r"\$\{oc\.env:\w+,(.*)\}", r"\1", default)
        limits = f" ({setting.must.removeprefix('be ')})" if setting.must.startswith("be ") else ""
        item = key if value == "???" else f"{key}={value}"
        yield textwrap.fill(f"  {item:<39} {setting.description}{limits}", 120, subsequent_indent=42 * " ")

"""The command line. Nothing here imports torch until a job starts, so that --help answers at once."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metrad.errors import InputError, MetradError

if TYPE_CHECKING:
    from metrad.sweep import Ended, Sweep

log = logging.getLogger("metrad")

BAD_INPUT, FAILED_RUNS, INTERRUPTED = 2, 1, 130
_WANTS_TRACEBACK = "METRAD_FULL_ERROR"
_EXAMPLES = """\
Examples:
  python train.py experiment=demo                       a first run, offline, under a minute
  python train.py dataset=fmnist                        AdaCos on Fashion-MNIST
  python train.py head=arcface head.margin=0.3 seed=7   another head, margin and seed
  python train.py dataset=image_folder dataset.source.root=parts dataset.normal=[good] dataset.anomalous=[scratch]
  python train.py -m head=adacos,arcface dataset=fmnist,cifar10 'seed=range(10)'   a sweep of 40 runs
  python train.py ckpt_path=RUN/checkpoints/last.ckpt   go on with an interrupted run
  python train.py dataset=fmnist --cfg job              show the whole configuration and stop
  metrad evaluate RUN scorer.k=5                        score a finished run again
  metrad compare multirun/TIME --baseline arcface       what the runs of a sweep differ by, and whether it shows
  metrad report RUN                                     one HTML file of a finished run
"""
_SETTINGS = """\
Settings of every run:
  seed=0             draws the split, the order of the images and the initial weights
  image_size=96      height and width the model sees; null for the size its weights prefer
  batch_size=128     images a step
  paths.data=data    where the data lies; METRAD_DATA in the environment does the same
  ckpt_path=FILE     checkpoint to go on from
  hydra.run.dir=DIR  where the run goes; outputs/TIME-HEAD-DATASET-SEED if not given
  Each choice has settings of its own: head.margin=0.3, trainer.max_epochs=20, dataset.sizes.normal=500.
  --config-dir DIR   a folder of your own, with choices such as DIR/dataset/mine.yaml
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def main() -> None:
    """Run the installed command ``metrad``."""
    app()


@app.callback(invoke_without_command=True, add_help_option=False)
def _root(
    context: typer.Context,
    show_help: Annotated[bool, typer.Option("--help", "-h", help="Show this manual.")] = False,
    show_version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Find anomalous images with labelled images of other things and none of the anomalies."""
    if show_version:
        from metrad import __version__

        typer.echo(__version__)
        raise typer.Exit
    if show_help or context.invoked_subcommand is None:
        typer.echo(context.get_help() + "\n\n" + manual())
        raise typer.Exit


@app.command("train", context_settings=_PASS_ON, add_help_option=False)
def _train_command(context: typer.Context) -> None:
    """Train and score one run, or a sweep with -m; the same as train.py."""
    train(context.args)


@app.command("evaluate")
def _evaluate_command(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run, or of a sweep.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes such as scorer=lof scorer.k=5; scorer=knn,lof for several.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Folder below RUN/evaluations; made of the overrides if not given.")
    ] = None,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Read the images again and draw neighbours.png and hardest.png.")
    ] = False,
) -> None:
    """Score finished runs again with other scorers, from the embeddings they kept.

    Results go to RUN/evaluations, beside the old ones. 'scorer=glob(*)' tries all scorers and ends in a table.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells at length which of its builds it loads

    def job() -> None:
        from metrad.prediction import expand, runs_at

        runs, changes = runs_at(run), expand(overrides or [])
        if name is not None and len(changes) > 1:
            raise InputError(f"--name={name} is for one evaluation a run, and these are {len(changes)}; leave it out")
        jobs = [(each.path, change) for each in runs for change in changes]
        _evaluate_all(jobs, name, evidence=evidence)

    _reporting_errors(job)


@app.command("compare")
def _compare_command(
    sweep: Annotated[Path | None, typer.Argument(help="Folder of a sweep.", show_default=False)] = None,
    csv: Annotated[Path | None, typer.Option(help="Compare the rows of this CSV instead.", show_default=False)] = None,
    by: Annotated[str, typer.Option(help="The choice or setting compared, such as head or head.margin.")] = "head",
    baseline: Annotated[
        str | None, typer.Option(help="Compare all others with this value of it, given as head=arcface or arcface.")
    ] = None,
    metric: Annotated[str, typer.Option(help="auroc, average_precision, fpr_at_95_tpr or partial_auroc.")] = "auroc",
    unpaired: Annotated[bool, typer.Option("--unpaired", help="Do not pair runs of one seed.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for tables and figures; SWEEP/comparison if not given.")
    ] = None,
) -> None:
    """Compare the runs of a sweep that differ in one choice, over seeds and datasets: tests, figures, report.html."""

    def job() -> None:
        from metrad import comparison, comparison_files
        from metrad.report import write_report

        if (sweep is None) == (csv is None):
            raise InputError("give either the folder of a sweep or --csv=FILE")
        value = baseline.removeprefix(f"{by}=") if baseline else None
        options: dict[str, Any] = {"by": by, "baseline": value, "metric": metric, "unpaired": unpaired}
        if csv is not None:
            result, folder = comparison.compare_csv(csv, **options), csv.with_name(f"{csv.stem}-comparison")
        else:
            assert sweep is not None
            result, folder = comparison.compare(sweep, **options), sweep / "comparison"
        files = comparison_files.write(result, out or folder)
        typer.echo(comparison_files.report(result))
        files.append(write_report(result, files[0].with_name("report.html")))
        typer.echo(f"\nwritten: {_relative(files[0].parent)}/ ({', '.join(path.name for path in files)})")

    _reporting_errors(job)


@app.command("report")
def _report_command(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    out: Annotated[Path | None, typer.Option(help="Where to write it; RUN/report.html if not given.")] = None,
) -> None:
    """Write the report of a finished run: one HTML file that needs nothing outside itself.

    The report of a sweep is part of 'metrad compare SWEEP'.
    """

    def job() -> None:
        from metrad.report import write_run_report

        typer.echo(f"report: {_relative(write_run_report(run, out))}")

    _reporting_errors(job)


def _evaluate_all(jobs: list[tuple[Path, list[str]]], name: str | None, *, evidence: bool) -> None:
    """Make each evaluation of a run with changes; of several, one that fails is told and the others go on."""
    from metrad.comparison import as_text, evaluation_row
    from metrad.prediction import evaluate_run

    rows, failed = [], 0
    for path, change in jobs:
        try:
            folder, metrics = evaluate_run(path, change, name, evidence=evidence)
        except MetradError as error:
            if len(jobs) == 1:
                raise
            failed += 1
            typer.echo(f"{path.name} {' '.join(change)} failed: {_one_line(error)}", err=True)
        else:
            log.info("%s -> %s", _summary(metrics), folder)
            if len(jobs) == 1:
                _tell_thresholds(metrics)
            rows.append(evaluation_row(path.name, change, metrics))
    if len(rows) > 1:
        log.info("\n%s", as_text(rows))
    if failed:
        raise SystemExit(FAILED_RUNS)


def train(argv: list[str]) -> None:
    """Run Hydra on the arguments, as ``train.py`` and ``metrad train`` do."""
    if {"--help", "-h"} & set(argv):
        typer.echo("Train and score one run, or a sweep of runs with -m.\n\n" + manual())
        return
    try:
        _reporting_errors(lambda: _run_hydra(argv))
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def manual() -> str:
    """Return what can be chosen, with an example of each use."""
    from metrad.catalogue import choices

    lines = ["Usage: python train.py [GROUP=CHOICE ...] [KEY=VALUE ...]     (metrad train is the same)", ""]
    for group, members in choices().items():
        lines.append(f"{group}=")
        lines += [f"  {name:<18} {text}" for name, text in members.items()]
    return "\n".join(lines) + f"\n\n{_SETTINGS}\n{_EXAMPLES}"


def _run_hydra(argv: list[str]) -> None:
    import hydra

    from metrad import config, launch, sweep
    from metrad.catalogue import folder
    from metrad.names import sweep_name

    config.register()
    # sweep is a group of settings too, of which the name is the one that everybody needs
    sys.argv = [sys.argv[0], *(re.sub(r"^sweep=", "sweep.name=", item) for item in argv)]
    if launch.started_by_others() and {"-m", "--multirun"} & set(argv):
        raise InputError("a sweep starts the ranks of its runs itself; leave torchrun or srun out")
    if launch.follows():
        sys.argv.append("hydra.run.dir=.")  # the first rank has the run's directory, and Hydra makes none here
    for item in sys.argv:
        if item.startswith("sweep.name="):
            sweep_name(item.partition("=")[2].strip("'\""), time="")
    sweep.current = made = sweep.Sweep()
    start = hydra.main(version_base="1.3", config_path=str(folder()), config_name="config")
    try:
        start(_task)()
    except Exception:
        sweep.forget_unstarted()
        raise
    finally:
        if made.runs:
            _tell_sweep(made)
    if made.failures or made.unfinished():
        raise SystemExit(FAILED_RUNS)


def _tell_sweep(sweep: "Sweep") -> None:
    """Write the table of all runs into the sweep's folder, and print the one over seeds and what is left to do."""
    from metrad.comparison import as_text, collect, summarise
    from metrad.runs import write_rows

    assert sweep.folder is not None
    rows = collect(sweep.folder)
    if rows:
        write_rows(sweep.folder / "runs.csv", rows)
        log.info("\n%s\neach run: %s", as_text(summarise(rows)), _relative(sweep.folder / "runs.csv"))
    left = sweep.unfinished()
    if left:
        told = ", ".join(f"{count} {state}" for state, count in left.items())
        log.info(
            "not finished: %d of %d runs (%s); the same command with sweep=%s goes on with them",
            *(left.total(), len(sweep.runs), told, sweep.folder.name),
        )


def _task(cfg: Any) -> "Ended | None":
    """Train one run. In a sweep, return how it ended; a single one tells it, and ends the process if it failed."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from metrad import launch
    from metrad.errors import HeldError
    from metrad.runs import Run
    from metrad.sweep import Ended

    if launch.follows():
        _follow(cfg)
        return None
    hydra = HydraConfig.get()
    run = Run(hydra.runtime.output_dir)
    sweeping = hydra.mode == RunMode.MULTIRUN
    try:
        if cfg.sweep.name is not None and not sweeping:
            raise InputError(f"sweep={cfg.sweep.name} names a sweep, and this is one run; add -m")
        from metrad.training import train as train_run

        metrics = train_run(cfg, run, OmegaConf.create({"hydra": hydra}), sweeping=sweeping)
    except Exception as error:
        run.remove_if_empty()
        if os.environ.get(_WANTS_TRACEBACK) or not (sweeping or isinstance(error, MetradError | OSError)):
            raise
        if sweeping:
            return Ended(run, "running" if isinstance(error, HeldError) else "failed", _one_line(error))
        typer.echo(f"error: {_one_line(error)}", err=True)
        raise SystemExit(BAD_INPUT) from None
    if sweeping:
        return Ended(run, "finished", _summary(metrics))
    log.info("%s -> %s", _summary(metrics), _relative(run.path))
    _tell_thresholds(metrics)
    log.info("pictures there: %s", ", ".join(path.name for path in run.pictures.values() if path.exists()))
    return None


def _follow(cfg: Any) -> None:
    """Help to train a run that is the first rank's."""
    from metrad.training import follow

    try:
        follow(cfg)
    except (MetradError, OSError) as error:
        typer.echo(f"error: rank {os.environ['RANK']}: {_one_line(error)}", err=True)
        raise SystemExit(BAD_INPUT) from None


def _reporting_errors(job: Callable[[], None]) -> None:
    """Run ``job`` and end with one line and exit code 2 if it was given something it cannot use."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    if before == "1":
        os.environ[_WANTS_TRACEBACK] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors instead of printing several lines of each
    try:
        job()
    except Exception as error:
        if before == "1" or not (isinstance(error, MetradError | OSError) or _is_of_the_configuration(error)):
            raise
        typer.echo(f"error: {_one_line(error)}", err=True)
        raise SystemExit(BAD_INPUT) from None
    finally:
        os.environ.pop(_WANTS_TRACEBACK, None)
        os.environ.pop("HYDRA_FULL_ERROR")
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before


def _is_of_the_configuration(error: Exception) -> bool:
    """Tell whether Hydra, OmegaConf or the YAML parser raised it; they use errors of Python's own too."""
    if type(error).__module__.split(".")[0] in ("hydra", "omegaconf"):
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    module = frames[-1][0].f_globals.get("__name__", "") if frames else ""
    return module.split(".")[0] in ("antlr4", "hydra", "omegaconf", "yaml")


def _one_line(error: BaseException) -> str:
    if isinstance(error, InputError) and "Traceback (most recent call last)" in str(error):
        return str(error).strip().splitlines()[-1].partition(": ")[2]  # it was raised in a worker process
    if isinstance(error, MetradError):
        return " ".join(str(error).split())
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from metrad.config import explain

    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain(error)
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text} (given: {' '.join(sys.argv[1:])})"


def _summary(metrics: dict[str, Any]) -> str:
    seconds = metrics["seconds"].get("total", sum(metrics["seconds"].values()))
    low, high = metrics["intervals"]["auroc_delong"]
    return (
        f"AUROC {metrics['auroc']:.4f} ({low:.3f} to {high:.3f}), "
        f"average precision {metrics['average_precision']:.4f}, "
        f"FPR at 95 % TPR {metrics['fpr_at_95_tpr']:.3f}, {seconds:.0f} s"
    )


def _tell_thresholds(metrics: dict[str, Any]) -> None:
    """Log a line for each threshold: what it promises and what it did on the test images."""
    for entry in metrics["thresholds"]:
        log.info(
            "threshold %.4g for %g %% false alarms: above it %.1f %% of normal, %.1f %% of anomalous test images",
            entry["threshold"],
            100 * entry["false_alarm_rate"],
            100 * entry["test_false_alarm_rate"],
            100 * entry["test_detection_rate"],
        )


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

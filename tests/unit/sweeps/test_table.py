import math

import pytest

from metrad.evaluation.metrics import by_name
from metrad.files import write_json
from metrad.runs.directory import Run
from metrad.sweeps.table import collect, summarise, table_text

OTHERS = {name: 0.5 for name in by_name() if name != "auroc"}


@pytest.fixture
def sweep(tmp_path):
    def add(name, overrides, state="finished", auroc=None, error=None):
        run = Run(tmp_path / name)
        run.overrides.parent.mkdir(parents=True)
        run.overrides.write_text("".join(f"- {item}\n" for item in overrides))
        write_json(run.status, {"state": state} | ({"error": error} if error else {}))
        if auroc is not None:
            write_json(run.metrics, {"auroc": auroc, **OTHERS})

    add("a", ["head=arcface", "head.margin=0.5", "trainer.max_epochs=1", "seed=0"], auroc=0.9)
    add("b", ["head=arcface", "head.margin=0.5", "trainer.max_epochs=1", "seed=1"], auroc=0.8)
    add("c", ["head=arcface", "head.margin=0.05", "trainer.max_epochs=1", "seed=0"], auroc=0.7)
    add("d", ["head=arcface", "head.margin=0.05", "trainer.max_epochs=1", "seed=1"], "failed", error="diverged")
    add("e", ["head=adacos", "trainer.max_epochs=1", "seed=0"], "running", auroc=0.1)
    (tmp_path / "multirun.yaml").touch()
    (tmp_path / "no run").mkdir()
    return tmp_path


def test_an_override_that_holds_an_interpolation_is_shown_as_it_was_given(sweep):
    Run(sweep / "a").overrides.write_text("- head=arcface\n- seed=${batch_size}\n")
    assert {row["run"]: row["seed"] for row in collect(sweep)}["a"] == "${batch_size}"


def test_every_run_has_a_row_whatever_became_of_it(sweep):
    rows = {row["run"]: row for row in collect(sweep)}
    assert set(rows) == set("abcde")
    assert {name: row["state"] for name, row in rows.items()} == {
        **dict.fromkeys("abc", "finished"),
        "d": "failed",
        "e": "interrupted",
    }
    assert rows["d"]["error"] == "diverged"
    assert rows["a"] == {
        "run": "a",
        "state": "finished",
        "head": "arcface",
        "head.margin": "0.5",
        "seed": "0",
        "auroc": 0.9,
        **OTHERS,
        "error": "",
    }


def test_what_all_runs_have_in_common_is_no_column(sweep):
    assert "trainer.max_epochs" not in collect(sweep)[0]


def test_figures_of_a_run_that_is_not_finished_do_not_count(sweep):
    row = next(row for row in collect(sweep) if row["run"] == "e")
    assert row["auroc"] is None
    assert row["head.margin"] == ""


def test_numbers_stand_in_the_order_of_their_size(tmp_path, sweep):
    assert [row["head.margin"] for row in collect(sweep)] == ["", "0.05", "0.05", "0.5", "0.5"]


def test_numbers_are_not_sorted_as_words(sweep):
    Run(sweep / "a").overrides.write_text("- head=arcface\n- head.margin=1e-3\n- trainer.max_epochs=1\n- seed=0\n")
    assert [row["head.margin"] for row in collect(sweep)] == ["", "1e-3", "0.05", "0.05", "0.5"]


def test_the_summary_is_over_seeds(sweep):
    summary = {row["head.margin"]: row for row in summarise(collect(sweep))}
    assert summary["0.5"]["auroc_mean"] == pytest.approx(0.85)
    assert summary["0.5"]["auroc_std"] == pytest.approx(math.sqrt(0.005))
    assert (summary["0.5"]["runs"], summary["0.5"]["unfinished"]) == (2, 0)
    assert (summary["0.05"]["auroc_mean"], summary["0.05"]["auroc_std"]) == (0.7, None)
    assert (summary["0.05"]["runs"], summary["0.05"]["unfinished"]) == (1, 1)
    assert (summary[""]["auroc_mean"], summary[""]["runs"]) == (None, 0)


def test_the_text_is_aligned_and_has_no_empty_cells(sweep):
    lines = table_text(summarise(collect(sweep))).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [cell for cell in lines[1].split() if cell] == ["adacos", "-", "-", "-", "0", "1"]


def test_a_run_refused_before_its_configuration_was_saved_still_has_a_row(sweep):
    write_json(Run(sweep / "e").status, {"state": "failed", "error": "no data"})
    Run(sweep / "e").overrides.unlink()
    assert [row["error"] for row in collect(sweep) if row["run"] == "e"] == ["no data"]

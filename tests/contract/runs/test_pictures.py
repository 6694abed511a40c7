"""What holds of every picture of a run, and what follows from an entry in PICTURES alone."""

import dataclasses
import re
from collections import Counter

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from metrad import files
from metrad.errors import InputError
from metrad.files import write_all
from metrad.reports.report import write_run_report
from metrad.runs import outputs, pictures
from metrad.runs.directory import Run
from metrad.runs.pictures import PICTURES, RunPicture
from tests.helpers.runs import finished_run


def drawn(values):
    """A picture of ``values``."""
    figure = Figure(figsize=(4, 3))
    figure.subplots().plot(values)
    return figure


NEW = RunPicture(
    name="ranked",
    material="epochs",
    draw=lambda epochs: drawn([row["loss"] for row in epochs]),
    title="Loss by epoch",
    caption="The loss in training.",
)


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setattr(pictures, "PICTURES", (*PICTURES, NEW))


def test_names_are_given_once_and_make_files():
    assert [name for name, count in Counter(picture.name for picture in PICTURES).items() if count > 1] == []
    for picture in PICTURES:
        assert re.fullmatch(r"[a-z_]+", picture.name)
        assert picture.title
        assert picture.caption.endswith(".")


def test_a_run_knows_the_file_of_every_picture(tmp_path):
    assert Run(tmp_path).pictures == {picture.name: tmp_path / f"{picture.name}.png" for picture in PICTURES}


def epochs():
    names = ("angle_q05", "angle_q25", "angle_median", "angle_q75", "angle_q95", "largest_wrong_cosine", "scale")
    return [{"epoch": epoch, **dict.fromkeys((*names, "accuracy", "loss"), 1 / epoch)} for epoch in (1, 2, 3)]


def test_a_new_picture_is_drawn_with_what_it_is_drawn_from_and_cleared_with_the_run(tmp_path, added):
    run = Run(tmp_path / "run")
    run.path.mkdir()
    write_all(outputs.history(run, epochs(), []))
    assert {path.stem for path in run.path.glob("*.png")} == {"head", NEW.name}
    with Image.open(run.pictures[NEW.name]) as picture:
        assert np.asarray(picture.convert("L")).std() > 5
    run.clear(keep_training=True)
    assert not any(run.path.glob("*.png"))


def test_contents_are_written_in_their_order_by_their_suffix(tmp_path, monkeypatch):
    written = []
    for name in ("write_rows", "write_json", "write_picture"):
        monkeypatch.setattr(files, name, lambda path, content, name=name: written.append((name, path.name, content)))
    write_all({tmp_path / "b.json": {"x": 1}, tmp_path / "a.csv": [{"y": 2}], tmp_path / "c.png": "figure"})
    assert written == [
        ("write_json", "b.json", {"x": 1}),
        ("write_rows", "a.csv", [{"y": 2}]),
        ("write_picture", "c.png", "figure"),
    ]


def test_a_run_is_not_begun_where_a_new_picture_lies(tmp_path, added):
    run = Run(tmp_path)
    run.pictures[NEW.name].touch()
    with pytest.raises(InputError, match=f"holds {NEW.name}.png already"):
        run.claim()


def test_the_report_of_a_run_shows_a_new_picture(tmp_path, added):
    run = finished_run(tmp_path / "run")
    assert 'id="pictures"' not in write_run_report(run.path).read_text()
    write_all(outputs.drawn(run, "epochs", epochs()))
    page = write_run_report(run.path).read_text()
    (section,) = re.findall(r'<section id="pictures".*?</section>', page, re.DOTALL)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", section) == [NEW.title]
    assert f'alt="{NEW.title}. {NEW.caption}"' in section
    assert section.count('src="data:image/webp;base64,') == 1


def test_the_report_leaves_out_a_picture_that_is_not_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "PICTURES", (*PICTURES, dataclasses.replace(NEW, in_report=False)))
    run = finished_run(tmp_path / "run")
    write_all(outputs.drawn(run, "epochs", epochs()))
    assert 'id="pictures"' not in write_run_report(run.path).read_text()


def test_a_broken_picture_is_named(tmp_path, added):
    run = finished_run(tmp_path / "run")
    run.pictures[NEW.name].write_text("no picture")
    with pytest.raises(InputError, match=f"{NEW.name}.png cannot be read as a picture"):
        write_run_report(run.path)

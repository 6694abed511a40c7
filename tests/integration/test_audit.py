"""The audit of a given test part: at the start and the end of a run, in its report, and as a command."""

import numpy as np
import pytest
from PIL import Image

from metrad.files import read_json
from tests.helpers.runs import rows


def write(root, darker=0.0, copies=0):
    """Write train/good, test/good and test/bad as noise of varying light, the test images ``darker`` by a level."""
    generator = np.random.default_rng(0)
    for folder, count in (("train/good", 60), ("test/good", 25), ("test/bad", 25)):
        (root / folder).mkdir(parents=True)
        for place in range(count):
            level = generator.normal(150, 12) - darker * folder.startswith("test")
            image = Image.fromarray(generator.normal(level, 30, (16, 16, 3)).clip(0, 255).astype(np.uint8))
            image.save(root / folder / f"{folder[:2]}{folder[-3:]}{chr(97 + place % 26)}{chr(97 + place // 26)}.png")
    for place, path in enumerate(sorted((root / "train/good").iterdir())[:copies]):
        pixels = np.asarray(Image.open(path)).astype(int) + generator.integers(-2, 3, (16, 16, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "test/good" / f"again{chr(97 + place)}.png")
    return root


def settings(root):
    return (
        *("dataset=image_folder", f"dataset.source.root={root}", "dataset.normal=[good]", "dataset.anomalous=[bad]"),
        "trainer.max_epochs=0",
    )


def test_a_darker_test_part_is_named_at_the_start_in_metrics_report_and_by_the_command(
    train, small, metrad, tmp_path, caplog
):
    root = write(tmp_path / "images", darker=60)
    run = train(*small, *settings(root))
    warned = [message for message in caplog.messages if message.startswith("good test images differ")]
    assert len(warned) == 1
    assert "mean grey" in warned[0]
    audit = read_json(run.metrics)["audit"]
    assert audit["confound"]["name"] == "grey_mean"
    assert 0 <= audit["exchangeability"]["p_value"] <= 1
    assert {row["role"] for row in rows(run.properties)} == {"test_normal", "test_anomalous", "normal", "calibration"}
    result = metrad("audit", run.path)
    assert (result.code, result.err) == (0, "")
    assert "60 good training and 25 good test images" in result.out
    assert warned[0].removesuffix(" (audit=false: not said)") in result.out
    metrad("report", run.path)
    assert "Good test images differ from the training images" in (run.path / "report.html").read_text()
    evaluated = metrad("evaluate", run.path, "--name", "again")
    assert evaluated.code == 0
    assert metrad("audit", *small, *settings(root)).out.startswith("60 good training and 25 good test images")


def test_an_audit_is_no_part_of_what_a_run_is(train, small, tmp_path, caplog):
    root = write(tmp_path / "images", darker=60)
    run = train(*small, *settings(root), name="audited")
    caplog.clear()
    without = train(*small, *settings(root), "audit=false", name="not")
    assert not [message for message in caplog.messages if message.startswith("good test images")]
    assert "audit" not in read_json(without.metrics)
    assert read_json(without.status)["identity"] == read_json(run.status)["identity"]
    assert without.scores.read_bytes() == run.scores.read_bytes()


def test_a_clean_test_part_is_not_warned_of_and_its_near_copies_are_named(train, small, metrad, tmp_path, caplog):
    root = write(tmp_path / "images", copies=3)
    train(*small, *settings(root))
    assert not [message for message in caplog.messages if message.startswith("good test images")]
    result = metrad("audit", *small, *settings(root))
    assert result.code == 0
    assert "no property tells them apart" in result.out
    assert "near copies lie among training and among test images: " in result.out
    assert result.out.count("again") >= 3
    assert "dataset.group=auto" in result.out


def test_a_test_part_that_metrad_draws_is_alike_by_construction(metrad, finished_run):
    result = metrad("audit", finished_run.path)
    assert result.code == 0
    assert result.out.startswith("the test images were drawn at random")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ("nowhere", "no such folder")),
        (["nowhere", "dataset=digits"], ("one run or settings", "nowhere")),
        (["dataset=digit"], ("dataset", "digits")),
        ([], ("metrad audit needs", "as in: metrad audit outputs/NAME")),
    ],
    ids=["no run", "both", "no dataset", "nothing"],
)
def test_what_cannot_be_audited_is_refused(refused, arguments, words):
    refused("audit", *arguments, words=words)

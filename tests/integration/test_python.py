"""From Python: a run's detector gives the scores of ``scores.csv`` to the bit, and needs no Hydra and no Lightning."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from metrad import Detector
from metrad.data.decoding import decode_file
from metrad.data.sources import Digits
from metrad.errors import InputError
from metrad.runs.artifacts import convert
from tests.helpers.commands import SMALL
from tests.helpers.runs import rows


def saved_scores(run):
    """Return names, scores, p-values and nearest of ``scores.csv``."""
    table = rows(run.scores)
    numbers = [np.array([float(row[name]) for row in table]) for name in ("score", "p_value")]
    return [row["image"] for row in table], numbers[0].astype(np.float32), numbers[1], [row["nearest"] for row in table]


def require_equal(verdicts, expected):
    _, scores, p_values, nearest = expected
    assert verdicts.errors == [""] * len(scores)
    np.testing.assert_array_equal(verdicts.scores, scores)
    np.testing.assert_array_equal(verdicts.p_values, p_values)
    assert verdicts.nearest == nearest


def test_of_arrays_the_scores_are_those_of_the_run_to_the_bit(finished_run):
    detector, expected, source = Detector.load(finished_run.path), saved_scores(finished_run), Digits()
    arrays = source.pixels[[int(name) for name in expected[0]]]
    require_equal(detector.score(arrays), expected)
    require_equal(detector.score([image[..., 0] for image in arrays], batch_size=3), expected)
    require_equal(detector.score(Image.fromarray(image[..., 0]) for image in arrays), expected)
    singles = [detector.score(image).scores[0] for image in arrays[:20]]
    assert np.array_equal(singles, expected[1][:20])
    assert not detector.score(arrays).known.any()
    normal = source.pixels[[int(name) for name in detector.normal_images]]
    assert detector.score(normal).known.all()


@pytest.mark.parametrize("more", [[], ["trainer.precision=bf16-mixed", "test_time_flip=true", "whiten=true"]], ids=str)
def test_of_files_the_scores_are_those_of_the_run_to_the_bit(more, train, image_folders, tmp_path):
    root = image_folders(tmp_path / "images", count=40)
    run = train(
        *("dataset=image_folder", f"dataset.source.root={root}", "dataset.normal=[a]", "dataset.anomalous=[b]"),
        *SMALL,
        *("image_size=12", *more),
    )
    detector, expected = Detector.load(run.path), saved_scores(run)
    files = [root / name for name in expected[0]]
    require_equal(detector.score(files), expected)
    require_equal(detector.score(files, batch_size=1), expected)
    require_equal(detector.score([decode_file(path).pixels for path in files], batch_size=5), expected)
    assert detector.root == root
    fitted = detector.score([root / name for name in run.saved_split()["images"]["calibration"]])
    assert fitted.known.all()


def test_a_run_from_before_is_converted_and_then_scores(finished_run, tmp_path):
    convert(finished_run.path, tmp_path / "copy")
    expected = saved_scores(finished_run)
    arrays = Digits().pixels[[int(name) for name in expected[0]]]
    require_equal(Detector.load(tmp_path / "copy").score(arrays), expected)


def test_loading_and_scoring_import_no_hydra_and_no_lightning(finished_run):
    code = f"""
import sys
import metrad
assert "torch" not in sys.modules
from metrad import Detector
import numpy as np
verdicts = Detector.load({str(finished_run.path)!r}).score(np.zeros((2, 8, 8), np.uint8)[..., None])
assert np.isfinite(verdicts.scores).all() and verdicts.anomalous(0.5).shape == (2,)
wrong = [name for name in ("hydra", "omegaconf", "pytorch_lightning", "lightning", "typer") if name in sys.modules]
assert not wrong, wrong
"""
    answer = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")


USER = """
from pathlib import Path

import numpy as np
from PIL import Image

import metrad
from metrad import Detector, InputError, Verdicts
from metrad.detector.images import Images


def score(images: Images) -> Verdicts | None:
    try:
        return Detector.load("tiles").score(images, bits=12)
    except InputError:
        return None


score("a.png")
score(Path("a.png"))
score(np.zeros((2, 4, 4, 3), np.uint8))
score([np.zeros((4, 4)), "a.png", [Image.new("L", (4, 4))]])
score(Image.new("L", (4, 4)) for _ in range(3))
detector: Detector = metrad.fit("good", out="tiles")
first: Images = ["a.png", Path("b.png")]
{more}
"""


@pytest.mark.long
def test_in_a_project_of_a_user_the_types_hold_under_mypy(tmp_path):
    for more, words in (("", "Success"), ("score(7)", 'incompatible type "int"'), ("score([7])", "incompatible type")):
        (tmp_path / "user.py").write_text(USER.replace("{more}", more))
        command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "user.py"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert words in answer.stdout, answer.stdout


def test_names_that_the_package_does_not_have_are_refused():
    import metrad

    assert {"Detector", "InputError", "Verdicts", "__version__"} <= set(dir(metrad))
    assert metrad.InputError is InputError
    with pytest.raises(AttributeError, match="no attribute 'Detectors'"):
        metrad.Detectors  # noqa: B018
    with pytest.raises(InputError, match="there is no such folder"):
        metrad.Detector.load("gone")

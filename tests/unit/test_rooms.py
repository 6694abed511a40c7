"""Which rooms do without torch, and that names from before still work."""

import json
import subprocess
import sys
import warnings

import pytest

from metrad import renamed
from metrad.data.sources import ImageFolder
from metrad.models.heads import AdaCos
from tests.helpers.detectors import small_detector

LIGHT = (
    *("metrad", "metrad.app.cli", "metrad.app.messages", "metrad.runs.config.schema", "metrad.runs.config.catalogue"),
    *("metrad.reports.report", "metrad.scorers", "metrad.data.decoding", "metrad.evaluation.conformal"),
    *("metrad.evaluation.metrics", "metrad.runs.directory", "metrad.runs.pictures"),
    *("metrad.detector.core", "metrad.detector.images", "metrad.detector.saved_backend", "metrad.data.listing"),
    *("metrad.app.predict", "metrad.app.inspect", "metrad.app.judge"),
)
HEAVY = ("torch", "torchvision", "matplotlib", "pandas", "pyarrow")
NO_HEAVY = f"import sys; found = {{*{HEAVY}}} & {{*sys.modules}}; assert not found, found"
REFUSALS = f"""
import json, sys
from metrad.app import cli
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["metrad", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code == 2, (arguments, end.code)
    found = {{*{HEAVY}}} & {{*sys.modules}}
    assert not found, (arguments, found)
"""

# Arguments behind ``metrad predict detector batch``; the detector has 30 calibration images.
OPTIONS = (
    *("--rate 5", "--confidence 1", "--rate 0.01", "--rate 0.05 --confidence 0.95", "--device cuda --rate 0.01"),
    *("--out t.parquet --rate 0.01", "--out t.txt", "--out nowhere/t.csv", "--out there.csv"),
    *("--out there.csv --resume", "--resume", "--copy", "--good nowhere", "--html t.csv", "--html there.html"),
    *("--sort batch", "--pictures batch", "--pattern *.tif", "--device cuda --group (x"),
    *("--group (x", "--group (?P<part>y)", "--group parent", "--group auto"),
)
OTHERS = (
    *("predict nowhere batch", "predict batch batch", "predict there.csv batch", "predict detector nowhere.png"),
    *("predict detector nothing*.png", "predict detector batch --weights x", "fit batch --out there.csv"),
    *("fit nowhere", "fit there.csv", "fit kinds", "fit batch --pattern *.tif", "fit batch --weights nowhere.pth"),
    *("fit batch --reference nowhere", "fit batch --group {"),
)


def in_a_fresh_interpreter(code, *arguments, folder=None):
    """Run ``code`` in the directory ``folder`` and return what it printed on stderr; it must end well."""
    command = [sys.executable, "-c", code, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert answer.returncode == 0, answer.stderr
    return answer.stderr


def test_they_are_imported_without_torch():
    """In one interpreter: where none of them imports torch, each by itself does not."""
    imports = [f"import {module}; assert 'torch' not in sys.modules, '{module}'" for module in LIGHT]
    assert in_a_fresh_interpreter("\n".join(["import sys", *imports])) == ""


def test_a_detector_is_loaded_and_says_its_thresholds_without_torch(tmp_path):
    small_detector().save(tmp_path / "detector")
    load = "from metrad import Detector; assert [*Detector.load('detector').thresholds] == ['rate 0.05']"
    assert in_a_fresh_interpreter(f"{load}\n{NO_HEAVY}", folder=tmp_path) == ""


def test_predict_and_fit_refuse_without_torch_and_other_large_packages(tmp_path):
    small_detector().save(tmp_path / "detector")
    for name in ("batch/0.png", "batch/1.png", "kinds/a/0.png", "kinds/b/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("there.csv", "there.csv.json", "there.html"):
        (tmp_path / name).write_text("{}")
    commands = [f"predict detector batch {options}".split() for options in OPTIONS] + [each.split() for each in OTHERS]
    lines = in_a_fresh_interpreter(REFUSALS, json.dumps(commands), folder=tmp_path).splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == len(commands), lines


def test_modules_can_be_imported_by_their_former_names():
    with pytest.warns(FutureWarning, match=r"metrad\.datasets is metrad\.data\.sources now"):
        from metrad.datasets import ImageFolder as Former
    assert Former is ImageFolder
    with pytest.warns(FutureWarning, match=r"metrad\.heads is metrad\.models\.heads now"):
        import metrad.heads
    assert metrad.heads.AdaCos is AdaCos


def test_a_name_that_never_was_is_not_found():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ModuleNotFoundError):
            import metrad.headings  # noqa: F401
    with pytest.warns(FutureWarning), pytest.raises(ImportError):
        from metrad.backbones import no_such_backbone  # noqa: F401


@pytest.mark.parametrize(
    ("name", "present"),
    [
        ("metrad.heads.AdaCos", "metrad.models.heads.AdaCos"),
        ("metrad.datasets.ImageFolder", "metrad.data.sources.ImageFolder"),
        ("metrad.backbones.convnet", "metrad.models.backbones.convnet"),
        ("metrad.augmentation.Augmentation", "metrad.data.augmentation.Augmentation"),
        ("metrad.scorers.KNN", "metrad.scorers.KNN"),
        ("metrad.headset.X", "metrad.headset.X"),
    ],
)
def test_former_and_present_names_lead_to_each_other(name, present):
    assert renamed.present(name) == renamed.present(present) == present
    assert renamed.former(present) == renamed.former(name) == name

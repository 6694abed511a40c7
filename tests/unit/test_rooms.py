"""Which rooms do without torch, and that names from before still work."""

import subprocess
import sys
import warnings

import pytest

from metrad import renamed
from metrad.data.sources import ImageFolder
from metrad.models.heads import AdaCos

LIGHT = (
    *("metrad", "metrad.app.cli", "metrad.app.messages", "metrad.runs.config.schema", "metrad.runs.config.catalogue"),
    *("metrad.reports.report", "metrad.scorers", "metrad.data.decoding", "metrad.evaluation.conformal"),
    *("metrad.evaluation.metrics", "metrad.runs.directory", "metrad.runs.pictures"),
    "metrad.detector.core",
)


def test_they_are_imported_without_torch():
    """In one interpreter: where none of them imports torch, each by itself does not."""
    imports = [f"import {module}; assert 'torch' not in sys.modules, '{module}'" for module in LIGHT]
    command = [sys.executable, "-c", "\n".join(["import sys", *imports])]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")


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

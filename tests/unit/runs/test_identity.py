"""The settings that make two runs the same run, and those that shape the weights."""

import pytest

from metrad.runs.identity import changes, shaping
from tests.helpers.commands import DIGITS, composed


@pytest.mark.parametrize(
    "change",
    ["trainer.max_epochs=9", "scorer=lof", "test_time_flip=true", "evaluation.level=0.9", "dataset.workers=0"],
)
def test_what_acts_after_training_does_not_shape_the_weights(change):
    assert shaping(composed(*DIGITS, change)) == shaping(composed(*DIGITS))


@pytest.mark.parametrize(
    "change", ["batch_size=32", "dataset.rotations=true", "+trainer.limit_train_batches=1", "seed=1"]
)
def test_what_changes_training_shapes_the_weights(change):
    key, _, value = change.lstrip("+").partition("=")
    assert str(shaping(composed(*DIGITS, change))[key]).lower() == value


def test_the_length_of_a_cosine_schedule_shapes_the_weights():
    assert shaping(composed(*DIGITS, "scheduler=cosine", "trainer.max_epochs=9"))["scheduler.T_max"] == 9


def test_a_secret_among_the_settings_is_kept_as_a_hash(monkeypatch):
    kept = []
    for value in ("s3cret-one", "s3cret-two"):
        monkeypatch.setenv("WHERE_WEIGHTS_LIE", value)
        kept.append(shaping(composed(*DIGITS, "backbone.weights=${oc.env:WHERE_WEIGHTS_LIE}"))["backbone.weights"])
    assert "s3cret" not in "".join(kept)
    assert kept[0] != kept[1]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("augmentation=flip", ["augmentation was none and is flip now"]),
        ("augmentation=crop", ["augmentation was none and is crop now"]),
        ("head=softmax", ["head was adacos and is softmax now"]),
        ("scheduler=cosine", ["scheduler was none and is cosine now"]),
        ("seed=5", ["seed was 0 and is 5 now"]),
        ("+augmentation={_target_: my.Own}", ["augmentation was none and is my.Own now"]),
        ("scorer=lof", []),
    ],
)
def test_a_part_that_was_exchanged_is_named_once_by_its_choices(given, says):
    old, new = (shaping(composed(*DIGITS, *more)) for more in ((), (given,)))
    assert changes(old, new) == says
    assert changes(new, new) == []


def test_a_changed_value_of_the_same_choice_is_named_by_its_key():
    old, new = (shaping(composed(*DIGITS, "augmentation=flip", f"augmentation.flip={share}")) for share in (0.5, 0.25))
    assert changes(old, new) == ["augmentation.flip was 0.5 and is 0.25 now"]

"""Broken images: the first one is an error, or all are recorded and named."""

import pytest
from PIL import UnidentifiedImageError

from metrad.data.broken_images import BrokenImages, corrupt_image, load_messages, names_left_out, save_messages


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (OSError("image file is truncated\nby 3 bytes"), "image file is truncated"),
        (UnidentifiedImageError("cannot identify image file <_io.BytesIO object>"), "not an image"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_the_error_has_one_line_with_name_reason_and_setting(cause, reason):
    text = str(corrupt_image("c/3.png", cause))
    assert text.startswith("c/3.png cannot be read as an image (" + reason)
    assert "dataset.on_corrupt=skip" in text
    assert "\n" not in text


def test_without_skipping_the_first_broken_image_is_the_error():
    error = corrupt_image("c/3.png", OSError("cut"))
    with pytest.raises(type(error), match=r"c/3\.png"):
        BrokenImages(skip=False).note(3, error)


def test_skipped_ones_are_recorded_saved_and_named_in_the_order_of_the_source(tmp_path):
    broken = BrokenImages(skip=True)
    for position, name in ((2, "c"), (0, "ä")):
        broken.note(position, corrupt_image(name, OSError("cut")))
    save_messages(broken.messages, tmp_path)
    assert load_messages(tmp_path) == broken.messages
    assert names_left_out(broken.messages, ["ä", "b", "c"]) == ["ä", "c"]

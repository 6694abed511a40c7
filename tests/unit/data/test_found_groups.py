"""Groups that ``dataset.group=auto`` finds: parts, and none where there are none."""

import numpy as np
import pytest

from metrad.data.found_groups import find, look_at
from tests.helpers.parts import photographs, textures


def found(pixels, names, *, labels=None, sizes=None):
    labels = np.zeros(len(names), dtype=int) if labels is None else np.array(labels)
    size_of = (lambda i: (32, 32)) if sizes is None else (lambda i: sizes[i])
    return find(look_at(pixels, np.arange(len(names)), names=names, labels=labels, size_of=size_of))


def agreement(numbers, truth):
    """Share of the found pairs that are true, and of the true pairs that are found."""
    both = np.triu(numbers[:, None] == numbers, 1), np.triu(truth[:, None] == truth, 1)
    right = (both[0] & both[1]).sum()
    return right / max(1, both[0].sum()), right / max(1, both[1].sum())


def numbered(count, form="good/{:04}.jpg"):
    return [form.format(i) for i in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_running_numbers_of_images_that_are_not_alike_make_no_group(seed):
    assert found(textures(600, seed), numbered(600)).grouped <= 2


def test_numbers_of_images_of_pure_noise_make_no_group():
    noise = np.random.default_rng(0).integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)
    assert found(noise, numbered(400)).grouped == 0


def test_photographs_of_one_product_that_are_all_alike_make_no_group():
    product = textures(1)[np.zeros(400, dtype=int)].astype(int)
    pixels = (product + np.random.default_rng(0).integers(-9, 10, product.shape)).clip(0, 255).astype(np.uint8)
    assert found(pixels, numbered(400)).grouped == 0


def test_a_slow_change_of_light_is_no_part():
    light = np.linspace(0.5, 1.5, 400)[:, None, None, None]
    tilt = np.linspace(-40, 40, 32)[None, None, :, None] * np.sin(np.linspace(0, 12, 400))[:, None, None, None]
    noise = np.random.default_rng(0).normal(size=(400, 32, 32, 1)) * 12
    pixels = (textures(1) * light * 0.6 + tilt + noise).clip(0, 255).astype(np.uint8)
    assert found(pixels, numbered(400)).grouped <= 8


def test_classes_that_are_numbered_one_behind_the_other_are_no_parts():
    labels = np.repeat([0, 1, 2], 200)
    pixels = (textures(3)[labels].astype(int) // 2 + textures(600, 7) // 2).astype(np.uint8)
    assert found(pixels, numbered(600), labels=labels).grouped <= 2


@pytest.mark.parametrize("views", [2, 5])
@pytest.mark.parametrize(
    "form", ["good/{0:05}.jpg", "good/part{part}_view{view}.png", "part{part}/{view}.png", "good/cam{view}/{part}.png"]
)
def test_photographs_of_parts_are_found_whatever_their_names_look_like(views, form):
    pixels, shown = photographs(80, views)
    names = [form.format(i, part=i // views, view=i % views) for i in range(len(shown))]
    precision, recall = agreement(found(pixels, names).numbers, shown)
    assert precision >= 0.98
    assert recall >= 0.9


def test_near_copies_are_found_without_numbers():
    pixels, shown = photographs(60, 2, noise=2)
    order = np.random.default_rng(0).permutation(len(shown))
    names = [f"good/{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10 % 10]}{'uv'[i // 100]}.png" for i in range(len(shown))]
    result = found(pixels[order], names)
    assert not len(result.series)
    precision, recall = agreement(result.numbers, shown[order])
    assert precision == 1
    assert recall >= 0.9
    assert f"{len(result.copies)} pairs of near copies, such as good/" in result.lines(names)[1]


def test_a_part_with_photographs_in_two_folders_is_one_group():
    pixels, shown = photographs(60, 4)
    names = [f"{'crack' if i % 4 == 3 else 'good'}/img_{i}.png" for i in range(len(shown))]
    labels = [int(i % 4 == 3) for i in range(len(shown))]
    precision, recall = agreement(found(pixels, names, labels=labels).numbers, shown)
    assert precision >= 0.98
    assert recall >= 0.9


def test_images_of_other_sizes_are_not_linked_by_their_numbers():
    pixels, shown = photographs(80, 2, noise=25)
    sizes = [(100 + 60 * (i % 2), 100) for i in range(len(shown))]
    assert not len(found(pixels, numbered(len(shown)), sizes=sizes).series)


def test_the_groups_do_not_depend_on_the_order_of_the_images():
    pixels, shown = photographs(40, 3)
    names, order = np.array(numbered(len(shown))), np.random.default_rng(1).permutation(len(shown))
    one, other = found(pixels, names.tolist()).numbers, found(pixels[order], names[order].tolist()).numbers
    assert agreement(other, one[order]) == (1, 1)
    assert one[0] == 0
    assert (np.diff(np.unique(one, return_index=True)[1]) > 0).all()


def test_what_was_found_is_said_with_an_example():
    pixels, shown = photographs(40, 3)
    names = [f"good/img_{i}.png" for i in range(len(shown))]
    first, *_ = found(pixels, names).lines(names)
    assert first.startswith("120 images are 40 groups, such as good/img_")
    assert " (numbers " in first
    assert found(textures(50), names[:50]).lines(names) == [
        "50 images have no near copies and no series of running numbers among them"
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 19])
def test_few_images_are_looked_at_without_a_fault(count):
    result = found(textures(max(1, count))[:count], numbered(count))
    assert len(result.numbers) == count
    assert result.grouped <= count


def test_black_images_are_not_alike():
    assert found(np.zeros((60, 16, 16, 3), dtype=np.uint8), numbered(60)).grouped == 0


def test_names_with_numbers_of_hundreds_of_digits_are_ordered():
    names = [f"{'9' * 200}{i:03}.png" for i in range(40)]
    assert len(found(textures(40), names).numbers) == 40

"""Augmentations: each function beside torchvision's, image by image, and what holds of whole batches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as torchvision

from metrad.data import augmentation
from metrad.data.augmentation import OPERATIONS, Augmentation
from metrad.errors import InputError
from metrad.models.heads import ArcFace
from metrad.training.learner import MetricLearner

ALL = {"flip": 0.5, "vertical_flip": 0.5, "crop_padding": 0.125, "color": 0.4, "rand_augment": 2}
EACH = [{name: value} for name, value in ALL.items()]


def photos(count=6, height=24, width=20, channels=3, seed=0):
    """Return images (count, height, width, channels) uint8 that are smooth, as photographs are, and use all values."""
    noise = torch.rand(count, channels, 6, 5, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def pixels(images):
    return images.permute(0, 3, 1, 2).float()


def augmented(images, seed=0, **changes):
    torch.manual_seed(seed)
    return Augmentation(**changes)(images)


def each(images, settings_, function):
    """Call one of torchvision's functions for each image (C, H, W) with a setting of its own."""
    return torch.stack([function(image, float(value)) for image, value in zip(images, settings_, strict=True)])


FACTORS = torch.tensor([0.0, 0.5, 0.9, 1.0, 1.3, 1.9])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("place", "function"),
    [(0, torchvision.adjust_brightness), (1, torchvision.adjust_contrast), (2, torchvision.adjust_saturation)],
    ids=["brightness", "contrast", "saturation"],
)
def test_tones_are_torchvisions(place, function, channels):
    images = pixels(photos(channels=channels))
    tones = [torch.ones(6)] * 3
    tones[place] = FACTORS
    found = augmentation.recoloured(images, *tones)
    torch.testing.assert_close(found, each(images / 255, FACTORS, function) * 255, atol=0.2, rtol=0)


@pytest.mark.parametrize(("turns", "order"), [(0, [0, 1, 2]), (1 / 3, [2, 0, 1]), (-1 / 3, [1, 2, 0])])
def test_a_third_of_a_turn_of_the_hue_moves_the_colours_on_as_torchvisions_does(turns, order):
    images, one = pixels(photos()), torch.ones(6)
    found = augmentation.recoloured(images, one, one, one, torch.full((6,), turns))
    torch.testing.assert_close(found, images[:, order], atol=0.3, rtol=0)
    torch.testing.assert_close(found, torchvision.adjust_hue(images / 255, turns) * 255, atol=0.3, rtol=0)


def test_turning_the_hue_and_back_changes_little_and_no_mean():
    images, one, turns = pixels(photos()) * 0.3 + 90, torch.ones(6), torch.linspace(-0.5, 0.5, 6)
    there = augmentation.recoloured(images.round(), one, one, one, turns)
    torch.testing.assert_close(there.mean(dim=1), images.round().mean(dim=1), atol=0.1, rtol=0)
    back = augmentation.recoloured(there.round(), one, one, one, -turns)
    torch.testing.assert_close(back, images, atol=1.5, rtol=0)
    assert (there - images)[0].abs().max() > 10


@pytest.mark.parametrize("channels", [1, 3])
def test_sharpness_is_torchvisions(channels):
    images = pixels(photos(channels=channels))
    expected = each(images / 255, FACTORS, torchvision.adjust_sharpness) * 255
    torch.testing.assert_close(augmentation.sharpened(images, FACTORS), expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (9, 2)])
def test_what_has_no_inside_is_not_sharpened(shape):
    images = pixels(photos(height=shape[0], width=shape[1]))
    assert torch.equal(augmentation.sharpened(images, FACTORS), images)


def test_posterizing_and_solarizing_are_torchvisions_bit_for_bit():
    images = photos()
    planes, bits = images.permute(0, 3, 1, 2), torch.tensor([0, 1, 2, 3, 4, 7])
    found = augmentation.posterized(images, bits.float()).permute(0, 3, 1, 2)
    assert torch.equal(found, each(planes, 8 - bits, lambda image, left: torchvision.posterize(image, int(left))))
    depths = torch.tensor([0.1, 10, 55.5, 127, 200, 255])
    found = augmentation.solarized(images, depths).permute(0, 3, 1, 2)
    assert torch.equal(found, each(planes, 255 - depths, torchvision.solarize))
    assert torch.equal(augmentation.solarized(images, torch.zeros(6)), images)


def test_stretching_is_torchvisions_autocontrast():
    images = pixels(photos() // 3 + 40)
    images[1, 2] = 7  # a channel of one value stays
    expected = torchvision.autocontrast(images / 255) * 255
    chosen = torch.tensor([True, True, False, True, False, True])
    found = augmentation.stretched(images, chosen)
    torch.testing.assert_close(found[chosen], expected[chosen], atol=0.51, rtol=0)
    assert torch.equal(found[~chosen], images[~chosen])


def test_turning_shearing_and_shifting_are_torchvisions_away_from_the_border():
    images, zero = pixels(photos(height=40, width=32)), torch.zeros(6)
    inside = (..., slice(12, -12), slice(12, -12))
    degrees, shears, shifts = torch.linspace(-20, 20, 6), torch.linspace(-0.3, 0.3, 6), torch.linspace(-4, 4, 6)

    def affine(image, angle=0.0, x=0.0, y=0.0, shear=(0.0, 0.0)):
        bilinear = InterpolationMode.BILINEAR
        return torchvision.affine(image, angle, [x, y], 1.0, list(shear), interpolation=bilinear)

    def assert_equal(angle, shear, shift, values, function):
        found = augmentation.warped(images, angle, shear, shift)
        torch.testing.assert_close(found[inside], each(images, values, function)[inside], atol=0.1, rtol=0)

    none = (zero, zero)
    angle = torch.deg2rad(degrees)
    assert_equal(angle, none, none, degrees, lambda image, by: affine(image, -by))  # clockwise is positive there
    slant = torch.rad2deg(shears.atan())
    assert_equal(zero, (shears, zero), none, slant, lambda image, by: affine(image, shear=(by, 0.0)))
    assert_equal(zero, (zero, shears), none, slant, lambda image, by: affine(image, shear=(0.0, by)))
    assert_equal(zero, none, (shifts / 32, zero), shifts, lambda image, by: affine(image, x=by))
    assert_equal(zero, none, (zero, shifts / 40), shifts, lambda image, by: affine(image, y=by))


def test_what_is_warped_by_nothing_stays_and_the_border_is_mirrored():
    images, zero = pixels(photos()), torch.zeros(6)
    found = augmentation.warped(images, zero, (zero, zero), (zero, zero))
    assert torch.equal(found.round(), images)
    moved = augmentation.warped(images, zero, (zero, zero), (torch.full((6,), 3 / 20), zero))
    assert torch.equal(moved.round()[..., 3:], images[..., :-3])
    assert torch.equal(moved.round()[..., :3], images[..., :3].flip(-1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "function"), [("flip", torchvision.horizontal_flip), ("vertical_flip", torchvision.vertical_flip)]
)
def test_a_flip_is_the_exact_mirror_image_of_about_half_of_the_images(name, function, channels):
    images = photos(200, channels=channels)
    mirrored = function(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert torch.equal(augmented(images, **{name: 1.0}), mirrored)
    found = augmented(images, **{name: 0.5})
    flipped = (found == mirrored).flatten(1).all(dim=1)
    assert torch.equal(found[~flipped], images[~flipped])
    assert 70 < flipped.sum() < 130
    assert 0 < (augmented(images, **{name: 0.1}) != images).flatten(1).any(dim=1).sum() < 50


def places_of(found, image, padding):
    """Return from where in ``image``, padded by torchvision's reflection, ``found`` is cut."""
    height, width, _ = image.shape
    padded = torchvision.pad(image.permute(2, 0, 1), [padding[1], padding[0]], padding_mode="reflect").permute(1, 2, 0)
    windows = padded.unfold(0, height, 1).unfold(1, width, 1).permute(0, 1, 3, 4, 2)
    return (windows == found).flatten(2).all(dim=2).nonzero().tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_an_exact_copy_from_one_place_of_the_padded_image_each_equally_likely(channels):
    image = photos(1, channels=channels)
    found = augmented(image.expand(400, -1, -1, -1), crop_padding=0.125)
    places = [places_of(each_, image[0], (3, 2)) for each_ in found]
    assert all(len(place) == 1 for place in places)
    for axis, count in ((0, 7), (1, 5)):
        counts = torch.tensor([place[0][axis] for place in places]).bincount(minlength=count)
        assert len(counts) == count
        assert counts.min() > 400 / count / 2


@given(st.integers(2, 40), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_places_are_mirrored_as_numpy_does(side, seed):
    start = int(torch.randint(1 - side, side, (), generator=torch.Generator().manual_seed(seed)))
    found = augmentation.reflected(torch.arange(side) + start, side)
    padded = torch.nn.functional.pad(torch.arange(side).float()[None], (side - 1, side - 1), mode="reflect")[0]
    assert torch.equal(found, padded[start + side - 1 :][:side].long())


SHAPES = st.tuples(st.integers(0, 5), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3]))
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "flip": st.floats(0, 1),
        "vertical_flip": st.floats(0, 1),
        "crop_padding": st.floats(0, 0.5),
        "color": st.floats(0, 1),
        "rand_augment": st.integers(0, len(OPERATIONS)),
        "magnitude": st.floats(0, 30),
    },
)


@given(SHAPES, CHANGES, st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_any_batch_keeps_shape_and_type_and_repeats_and_the_input_stays(shape, changes, seed):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    before = images.clone()
    found = augmented(images, seed, **changes)
    assert (found.shape, found.dtype, found.device) == (images.shape, images.dtype, images.device)
    assert torch.equal(found, augmented(images, seed, **changes))
    assert torch.equal(images, before)


@given(CHANGES, st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_grey_images_of_three_channels_stay_grey(changes, seed):
    grey = photos(4, channels=1, seed=seed % 7).expand(-1, -1, -1, 3)
    found = augmented(grey, seed, **changes)
    assert torch.equal(found, found[..., :1].expand(-1, -1, -1, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_off_changes_nothing_and_draws_nothing(channels):
    images = photos(channels=channels)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(Augmentation()(images), images)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("changes", [*EACH, ALL], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_a_batch_change_each_in_its_own_way_and_other_seeds_give_others(changes, channels):
    images = photos(1, channels=channels).expand(64, -1, -1, -1)
    found = augmented(images, **changes)
    different = {each_.numpy().tobytes() for each_ in found}
    assert len(different) >= (2 if "flip" in str(changes) and len(changes) == 1 else 12)
    assert not torch.equal(augmented(images, seed=1, **changes), found)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_the_default_type_of_numbers_does_not_matter(kind):
    images = photos()
    expected = augmented(images, **ALL)
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)  # as Lightning does for bf16-true and 64-true
    try:
        assert torch.equal(augmented(images, **ALL), expected)
    finally:
        torch.set_default_dtype(before)


def test_every_operation_is_drawn_and_alone_changes_no_image_that_it_is_not_drawn_for():
    images = photos(1).expand(600, -1, -1, -1) // 2 + 30
    found = augmented(images, rand_augment=1, magnitude=20)
    counts = sorted((found == one).flatten(1).all(dim=1).sum().item() for one in found.unique(dim=0))
    # posterising, solarising and autocontrast have one outcome, the other nine one of either sign
    assert len(counts) == 3 + 9 * 2
    assert sum(counts) == 600
    assert counts[0] >= 8
    assert counts[-4] < 45 < counts[-1]  # 25 of each of the eighteen, 50 of each of the three


@given(st.integers(0, len(OPERATIONS)), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_without_magnitude_only_autocontrast_changes_anything(count, seed):
    images = photos()  # of which each channel reaches from 0 to 255 or nearly
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    assert torch.equal(augmented(images, seed, rand_augment=count, magnitude=0), images)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"flip": 1.5}, "augmentation.flip must lie in 0 to 1, got 1.5"),
        ({"flip": -0.1}, "augmentation.flip must lie in 0 to 1, got -0.1"),
        ({"flip": math.nan}, "augmentation.flip must lie in 0 to 1, got nan"),
        ({"vertical_flip": 2}, "augmentation.vertical_flip must lie in 0 to 1, got 2"),
        ({"crop_padding": 0.6}, "augmentation.crop_padding must lie in 0 to 0.5, got 0.6"),
        ({"color": math.inf}, "augmentation.color must lie in 0 to 1, got inf"),
        ({"rand_augment": 13}, "augmentation.rand_augment must lie in 0 to 12, got 13"),
        ({"magnitude": 31}, "augmentation.magnitude must lie in 0 to 30, got 31"),
    ],
)
def test_settings_out_of_range_are_refused(changes, says):
    with pytest.raises(InputError) as error:
        Augmentation(**changes)
    assert str(error.value) == says


def learner(monkeypatch, module):
    """Return a learner without a trainer, whose embedder notes what it is given."""
    given_ = []
    embedder = torch.nn.Linear(1, 4)
    embedder.forward = lambda images: (given_.append(images), torch.ones(len(images), 4) * embedder.weight.sum())[1]
    made = MetricLearner(embedder, ArcFace(4, 3), torch.optim.SGD, augmentation=module)
    monkeypatch.setattr(made, "log", lambda *_, **__: None)
    return made, given_


def step(made, epoch, monkeypatch, images):
    monkeypatch.setattr(MetricLearner, "current_epoch", epoch)
    made.on_train_epoch_start()
    made.training_step((images, torch.arange(len(images)) % 3), 0)


def test_training_repeats_within_an_epoch_and_differs_between_epochs_and_ranks(monkeypatch):
    images, (made, given_) = photos(), learner(monkeypatch, Augmentation(**ALL))
    for epoch in (0, 1, 0):
        step(made, epoch, monkeypatch, images)
    monkeypatch.setattr("metrad.collectives.rank", lambda: 1)
    step(made, 0, monkeypatch, images)
    first, second, again, other_rank = given_
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other_rank)


def test_training_without_augmentation_sees_the_images_as_they_are(monkeypatch):
    images = photos()
    for module in (None, Augmentation()):
        made, given_ = learner(monkeypatch, module)
        step(made, 0, monkeypatch, images)
        assert torch.equal(given_[0], images)


def test_augmentation_sees_neither_autocast_nor_gradients_and_has_no_state(monkeypatch):
    seen = []

    class Noting(torch.nn.Module):
        def forward(self, images):
            seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
            return images

    made, _ = learner(monkeypatch, Noting())
    with torch.autocast("cpu", torch.bfloat16):
        step(made, 0, monkeypatch, photos())
    assert seen == [(False, False)]
    assert Augmentation(**ALL).state_dict() == {}
    assert list(Augmentation(**ALL).parameters()) == []

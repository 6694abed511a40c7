"""Augmentations: training images changed at random, each in its own way, a batch at once on the device it is on.

The functions take a setting for each image. torchvision's take one for the whole batch. kornia 0.9 crops image by image
in Python, draws the operations of its RandAugment for the whole batch, and its colour jitter takes nine times as long
as one matrix an image (``benchmarks/augmentation.py``).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrad.errors import InputError

# What each operation of rand_augment does at the full magnitude: the ranges of torchvision's RandAugment.
OPERATIONS = {
    "rotate": 30.0,  # degrees
    "shear_x": 0.3,  # width over height
    "shear_y": 0.3,
    "translate_x": 150 / 331,  # of the side
    "translate_y": 150 / 331,
    "brightness": 0.9,  # of the factor, below or above 1
    "contrast": 0.9,
    "saturation": 0.9,
    "sharpness": 0.9,
    "posterize": 4.0,  # bits taken away
    "solarize": 255.0,  # below white
    "autocontrast": 1.0,
}
FULL_MAGNITUDE = 30.0
LUMA = (0.299, 0.587, 0.114)  # brightness of red, green and blue, by ITU-R BT.601


class Augmentation(nn.Module):
    """Flips, crops, colour jitter and RandAugment, each off by default.

    Everything is drawn for each image alone, by torch's global generator of the images' device, which training seeds
    by seed, epoch and rank. What is off draws nothing.

    Sources: pad and crop, He 2015, arXiv 1512.03385; ``rand_augment``, Cubuk 2019, arXiv 1909.13719, here without
    equalising, and in the order of ``OPERATIONS``.

    Args:
        flip: probability that left and right change places.
        vertical_flip: probability that top and bottom change places.
        crop_padding: how far an image is moved at most, as a fraction of its sides, 0 to 0.5; what comes in at the
            border is its mirror image, as if it were padded so and cut to its size at a random place.
        color: strength of the colour jitter, 0 to 1: brightness, contrast and saturation change by at most this factor,
            the hue by a quarter of it, of a full turn. Grey images of one channel change in brightness and contrast.
        rand_augment: how many different operations of ``OPERATIONS`` each image gets; 0 for none.
        magnitude: how strong these are, 0 to 30.
    """

    def __init__(
        self,
        *,
        flip: float = 0.0,
        vertical_flip: float = 0.0,
        crop_padding: float = 0.0,
        color: float = 0.0,
        rand_augment: int = 0,
        magnitude: float = 9.0,
    ) -> None:
        super().__init__()
        _require(flip=(flip, 1), vertical_flip=(vertical_flip, 1), crop_padding=(crop_padding, 0.5), color=(color, 1))
        _require(rand_augment=(rand_augment, len(OPERATIONS)), magnitude=(magnitude, int(FULL_MAGNITUDE)))
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.crop_padding = crop_padding
        self.color = color
        self.rand_augment = rand_augment
        self.magnitude = magnitude

    def forward(self, images: Tensor) -> Tensor:
        """Return images (N, height, width, channels) uint8, channels 1 or 3, changed; shape, type and device stay."""
        if self.flip or self.vertical_flip or self.crop_padding:
            rows = self._places(images, images.shape[1], self.vertical_flip)
            images = rearranged(images, rows, self._places(images, images.shape[2], self.flip))
        if self.rand_augment:
            images = self._rand_augmented(images)
        if self.color:
            drawn = torch.rand(4, len(images), dtype=torch.float32, device=images.device) * 2 - 1
            brightness, contrast, saturation, turns = self.color * drawn
            images = _images(recoloured(_pixels(images), 1 + brightness, 1 + contrast, 1 + saturation, turns / 4))
        return images

    def _places(self, images: Tensor, side: int, flip: float) -> Tensor:
        """Draw where the rows or columns of each image come from, (N, side)."""
        count, device = len(images), images.device
        places = torch.arange(side, device=device).expand(count, side)
        padding = round(self.crop_padding * side)
        if padding:
            places = reflected(places + torch.randint(-padding, padding + 1, (count, 1), device=device), side)
        if flip:
            chosen = torch.rand(count, 1, dtype=torch.float32, device=device) < flip
            places = torch.where(chosen, side - 1 - places, places)
        return places

    def _rand_augmented(self, images: Tensor) -> Tensor:
        """Return images changed by some operations each; those that are not drawn leave every value as it is."""
        shape = len(images), len(OPERATIONS)
        order = torch.rand(shape, dtype=torch.float32, device=images.device).argsort(dim=1)
        signs = torch.randint(0, 2, shape, device=images.device) * 2 - 1
        drawn = dict(zip(OPERATIONS, (order < self.rand_augment).T, strict=True))
        level = self.magnitude / FULL_MAGNITUDE
        much = {name: drawn[name].float() * (level * full) for name, full in OPERATIONS.items()}
        signed = {name: much[name] * sign for name, sign in zip(OPERATIONS, signs.T, strict=True)}
        images = solarized(posterized(images, much["posterize"]), much["solarize"])
        pixels = stretched(_pixels(images), drawn["autocontrast"])
        pixels = recoloured(pixels, 1 + signed["brightness"], 1 + signed["contrast"], 1 + signed["saturation"])
        pixels = sharpened(pixels, 1 + signed["sharpness"])
        shear, shift = (signed["shear_x"], signed["shear_y"]), (signed["translate_x"], signed["translate_y"])
        return _images(warped(pixels, torch.deg2rad(signed["rotate"]), shear, shift))


def reflected(places: Tensor, side: int) -> Tensor:
    """Return whole numbers from 1 - side to 2·side - 2 mirrored at 0 and side - 1 into that range."""
    return side - 1 - (side - 1 - places.abs()).abs()


def rearranged(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images (N, H, W, C) whose pixel i, j is that of ``rows`` (N, H) at i and ``columns`` (N, W) at j."""
    count, height, width, channels = images.shape
    numbers = torch.arange(count, device=images.device)[:, None]
    places = ((numbers * height + rows) * width)[:, :, None] + columns[:, None, :]
    # Whole pixels out of one flat list: twice as fast as indexing with rows and columns.
    return images.reshape(-1, channels).index_select(0, places.reshape(-1)).view(images.shape)


def posterized(images: Tensor, bits: Tensor) -> Tensor:
    """Return images (N, H, W, C) uint8 without the lowest ``bits`` (N,), rounded, of each value."""
    return images & _each(256 - torch.exp2(bits.round())).to(torch.uint8)


def solarized(images: Tensor, depth: Tensor) -> Tensor:
    """Return images (N, H, W, C) uint8 with values from 255 - ``depth`` (N,) made their negative; 0 changes none."""
    bright = (images >= _each((255 - depth).ceil()).to(torch.uint8)) & _each(depth > 0)
    return images ^ (bright.to(torch.uint8) * 255)  # all bits of a value changed are its negative


def stretched(pixels: Tensor, chosen: Tensor) -> Tensor:
    """Return pixels (N, C, H, W) with each channel of the images ``chosen`` (N,) stretched to 0 to 255, whole again."""
    low, high = pixels.amin(dim=(2, 3), keepdim=True), pixels.amax(dim=(2, 3), keepdim=True)
    wanted = _each(chosen) & (high > low)
    factor = torch.where(wanted, 255 / (high - low), torch.ones_like(low))
    return (pixels - low * wanted).mul_(factor).round_()


def recoloured(
    pixels: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, turns: Tensor | None = None
) -> Tensor:
    """Return pixels (N, C, H, W) with changed brightness, contrast, saturation and hue, in this order.

    All are linear in the colours, so one matrix an image does them, and values leave 0 to 255 in between.

    Args:
        pixels: whole numbers from 0 to 255; RGB, or one channel, which has no saturation and hue.
        brightness: factor of an image, (N,).
        contrast: factor of the distance to the image's mean grey, (N,).
        saturation: factor of the distance to the pixel's own grey, (N,).
        turns: of the hue about the grey axis, (N,): 1/3 makes red green, green blue and blue red; None for none.
    """
    grey = pixels.new_tensor(LUMA) if pixels.shape[1] == 3 else pixels.new_ones(1)
    mean = pixels.mean(dim=(2, 3)) @ grey
    offset = _fine(brightness * (1 - contrast) * mean).view(-1, 1, 1)
    gain = _fine(brightness * contrast).view(-1, 1, 1)
    matrix = gain if pixels.shape[1] == 1 else _colour_matrix(gain, saturation, turns)
    return torch.baddbmm(offset, matrix, pixels.flatten(2)).view(pixels.shape).clamp_(0, 255)


def _colour_matrix(gain: Tensor, saturation: Tensor, turns: Tensor | None) -> Tensor:
    """Return the matrices (N, 3, 3) of ``gain`` (N, 1, 1), saturation (N,) and hue (N,)."""
    grey, unit = gain.new_tensor(LUMA).expand(3, 3), torch.eye(3, dtype=gain.dtype, device=gain.device)
    matrix = torch.lerp(grey, unit, saturation.view(-1, 1, 1))
    if turns is not None:
        matrix = _hue_matrix(turns) @ matrix
    matrix = _fine(gain * matrix)
    # Each row sums to the gain exactly, and so does its product with three equal whole numbers: grey stays grey.
    matrix[:, :, 2] = gain[:, :, 0] - matrix[:, :, 0] - matrix[:, :, 1]
    return matrix


def _hue_matrix(turns: Tensor) -> Tensor:
    """Return rotations (N, 3, 3) of RGB about its grey axis, by Rodrigues' formula."""
    angle = turns.view(-1, 1, 1) * (2 * math.pi)
    unit = torch.eye(3, dtype=turns.dtype, device=turns.device)
    across = (unit.roll(1, dims=0) - unit.roll(-1, dims=0)) / math.sqrt(3)
    return angle.cos() * unit + (1 - angle.cos()) / 3 + angle.sin() * across


def sharpened(pixels: Tensor, sharpness: Tensor) -> Tensor:
    """Return pixels (N, C, H, W) with their distance to a smoothed image times ``sharpness`` (N,); borders stay."""
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]  # and the pixel itself, which the smoothing weighs 5
    result = pixels.clone()
    inner = result[..., 1:-1, 1:-1]
    inner += (9 * inner - around).mul_(_each((sharpness - 1) / 13))
    return result.clamp_(0, 255)


def warped(pixels: Tensor, angle: Tensor, shear: tuple[Tensor, Tensor], shift: tuple[Tensor, Tensor]) -> Tensor:
    """Return pixels (N, C, H, W) turned, sheared and then shifted about the centre, bilinear, mirrored at the border.

    Args:
        pixels: any range.
        angle: in radians, counter-clockwise, (N,).
        shear: of x by y and of y by x, each (N,).
        shift: to the right and down, as fractions of the sides, each (N,).
    """
    count, _, height, width = pixels.shape
    right, down = (part.view(-1, 1, 1) for part in shift)
    cos, sin, shear_x, shear_y = (part.view(-1, 1, 1) for part in (angle.cos(), angle.sin(), *shear))
    x = _centred(width, pixels).view(1, 1, -1) - right * width
    y = _centred(height, pixels).view(1, -1, 1) - down * height
    across, along = 2 / width, 2 / height
    grid = pixels.new_empty(count, height, width, 2)  # where each pixel comes from, in halves of the sides
    torch.add(across * (cos - sin * shear_y) * x, across * (cos * shear_x - sin) * y, out=grid[..., 0])
    torch.add(along * (sin + cos * shear_y) * x, along * (sin * shear_x + cos) * y, out=grid[..., 1])
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def _centred(side: int, like: Tensor) -> Tensor:
    return torch.arange(side, dtype=like.dtype, device=like.device) - (side - 1) / 2


def _fine(factor: Tensor) -> Tensor:
    """Return ``factor`` rounded to 1/2048, so that sums of products with whole numbers up to 255 are exact."""
    return (factor * 2048).round() / 2048


def _pixels(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def _images(pixels: Tensor) -> Tensor:
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _each(setting: Tensor) -> Tensor:
    """Return a setting of each image (N,) so that it meets (N, C, H, W) or (N, H, W, C)."""
    return setting.view(-1, 1, 1, 1)


def _require(**settings: tuple[float, float]) -> None:
    """Raise ``InputError`` for a setting that is below 0 or above its largest value."""
    for name, (value, largest) in settings.items():
        if not 0 <= value <= largest:
            raise InputError(f"augmentation.{name} must lie in 0 to {largest:g}, got {value}")

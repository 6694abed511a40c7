"""Augmentations: random changes of training images, drawn for each image and computed on a whole batch.

The functions take one setting per image; torchvision's take one per batch. kornia 0.9 crops image by image in Python
and draws the operations of its RandAugment once per batch. Its colour jitter takes nine times as long as one matrix
per image (``benchmarks/augmentation.py``).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrad.errors import InputError

# Strength of each operation of rand_augment at full magnitude: the ranges of torchvision's RandAugment.
OPERATIONS = {
    "rotate": 30.0,  # degrees
    "shear_x": 0.3,  # width over height
    "shear_y": 0.3,
    "translate_x": 150 / 331,  # fraction of the side
    "translate_y": 150 / 331,
    "brightness": 0.9,  # change of the factor, down or up
    "contrast": 0.9,
    "saturation": 0.9,
    "sharpness": 0.9,
    "posterize": 4.0,  # bits set to 0
    "solarize": 255.0,  # range of inverted values below 255
    "autocontrast": 1.0,
}
FULL_MAGNITUDE = 30.0
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in brightness, ITU-R BT.601


class Augmentation(nn.Module):
    """Flips, crops, colour jitter and RandAugment, each off by default.

    Random numbers are drawn separately for each image, from torch's global generator of the images' device. Training
    seeds that generator by seed, epoch and rank. An augmentation that is off draws no numbers.

    Sources: pad and crop, He 2015, arXiv 1512.03385; ``rand_augment``, Cubuk 2019, arXiv 1909.13719, here without
    equalising, and in the order of ``OPERATIONS``.

    Args:
        flip: probability of a horizontal flip.
        vertical_flip: probability of a vertical flip.
        crop_padding: largest shift of an image, as a fraction of its sides, 0 to 0.5. This equals reflection padding
            followed by a random crop to the original size.
        color: strength of the colour jitter, 0 to 1. Brightness, contrast and saturation change by at most this factor.
            The hue rotates by at most a quarter of it, in full turns. One-channel images change in brightness and
            contrast only.
        rand_augment: number of different operations of ``OPERATIONS`` applied to each image; 0 for none.
        magnitude: strength of these operations, 0 to 30.
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
        """Return augmented uint8 images (N, height, width, channels) of the same shape and device, channels 1 or 3."""
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
        """Draw the source position of each row (or column) of each image, (N, side)."""
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
        """Apply ``rand_augment`` random operations to each image; the other operations change no value."""
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
    """Reflect positions at 0 and side - 1 into that range; they may lie from 1 - side to 2·side - 2."""
    return side - 1 - (side - 1 - places.abs()).abs()


def rearranged(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images (N, H, W, C) whose pixel i, j is the pixel ``rows``[i], ``columns``[j] of the input.

    Args:
        images: (N, H, W, C).
        rows: source row of each row, (N, H).
        columns: source column of each column, (N, W).
    """
    count, height, width, channels = images.shape
    numbers = torch.arange(count, device=images.device)[:, None]
    places = ((numbers * height + rows) * width)[:, :, None] + columns[:, None, :]
    # Selecting whole pixels from a flat list is twice as fast as indexing with rows and columns.
    return images.reshape(-1, channels).index_select(0, places.reshape(-1)).view(images.shape)


def posterized(images: Tensor, bits: Tensor) -> Tensor:
    """Return images (N, H, W, C) uint8 with the lowest ``bits`` (N,), rounded, of each value set to 0."""
    return images & _each(256 - torch.exp2(bits.round())).to(torch.uint8)


def solarized(images: Tensor, depth: Tensor) -> Tensor:
    """Return images (N, H, W, C) uint8 with values of at least 255 - ``depth`` (N,) inverted; depth 0 inverts none."""
    bright = (images >= _each((255 - depth).ceil()).to(torch.uint8)) & _each(depth > 0)
    return images ^ (bright.to(torch.uint8) * 255)  # flipping all bits of a value inverts it


def stretched(pixels: Tensor, chosen: Tensor) -> Tensor:
    """Return pixels (N, C, H, W) with each channel of the images ``chosen`` (N,) stretched to 0 to 255 and rounded."""
    low, high = pixels.amin(dim=(2, 3), keepdim=True), pixels.amax(dim=(2, 3), keepdim=True)
    wanted = _each(chosen) & (high > low)
    factor = torch.where(wanted, 255 / (high - low), torch.ones_like(low))
    return (pixels - low * wanted).mul_(factor).round_()


def recoloured(
    pixels: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, turns: Tensor | None = None
) -> Tensor:
    """Return pixels (N, C, H, W) with changed brightness, contrast, saturation and hue, in this order.

    All four changes are linear in the colours, so one matrix per image makes them. Only the final values are clipped.

    Args:
        pixels: whole numbers from 0 to 255, RGB or one channel. One channel has no saturation and no hue.
        brightness: factor for each image, (N,).
        contrast: factor of the distance to the image's mean grey, (N,).
        saturation: factor of the distance to the pixel's own grey, (N,).
        turns: rotation of the hue about the grey axis in full turns, (N,): 1/3 makes red green, green blue and blue
            red. None for no rotation.
    """
    grey = pixels.new_tensor(LUMA) if pixels.shape[1] == 3 else pixels.new_ones(1)
    mean = pixels.mean(dim=(2, 3)) @ grey
    offset = _fine(brightness * (1 - contrast) * mean).view(-1, 1, 1)
    gain = _fine(brightness * contrast).view(-1, 1, 1)
    matrix = gain if pixels.shape[1] == 1 else _colour_matrix(gain, saturation, turns)
    return torch.baddbmm(offset, matrix, pixels.flatten(2)).view(pixels.shape).clamp_(0, 255)


def _colour_matrix(gain: Tensor, saturation: Tensor, turns: Tensor | None) -> Tensor:
    """Return the colour matrices (N, 3, 3) of ``gain`` (N, 1, 1), ``saturation`` (N,) and hue ``turns`` (N,)."""
    grey, unit = gain.new_tensor(LUMA).expand(3, 3), torch.eye(3, dtype=gain.dtype, device=gain.device)
    matrix = torch.lerp(grey, unit, saturation.view(-1, 1, 1))
    if turns is not None:
        matrix = _hue_matrix(turns) @ matrix
    matrix = _fine(gain * matrix)
    # Each row sums to the gain exactly, so a pixel of three equal values stays exactly grey.
    matrix[:, :, 2] = gain[:, :, 0] - matrix[:, :, 0] - matrix[:, :, 1]
    return matrix


def _hue_matrix(turns: Tensor) -> Tensor:
    """Return rotations (N, 3, 3) of RGB about its grey axis, by Rodrigues' formula."""
    angle = turns.view(-1, 1, 1) * (2 * math.pi)
    unit = torch.eye(3, dtype=turns.dtype, device=turns.device)
    across = (unit.roll(1, dims=0) - unit.roll(-1, dims=0)) / math.sqrt(3)
    return angle.cos() * unit + (1 - angle.cos()) / 3 + angle.sin() * across


def sharpened(pixels: Tensor, sharpness: Tensor) -> Tensor:
    """Return pixels (N, C, H, W) with their difference from a smoothed image times ``sharpness`` (N,).

    The outermost pixels stay unchanged.
    """
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]  # 3x3 sum; the smoothing weighs the centre 5
    result = pixels.clone()
    inner = result[..., 1:-1, 1:-1]
    inner += (9 * inner - around).mul_(_each((sharpness - 1) / 13))
    return result.clamp_(0, 255)


def warped(pixels: Tensor, angle: Tensor, shear: tuple[Tensor, Tensor], shift: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate, shear and then shift pixels (N, C, H, W) about the centre, bilinear, with reflection at the border.

    Args:
        pixels: any range.
        angle: counter-clockwise rotation in radians, (N,).
        shear: shear of x by y and of y by x, each (N,).
        shift: shift to the right and down, as fractions of the sides, each (N,).
    """
    count, _, height, width = pixels.shape
    right, down = (part.view(-1, 1, 1) for part in shift)
    cos, sin, shear_x, shear_y = (part.view(-1, 1, 1) for part in (angle.cos(), angle.sin(), *shear))
    x = _centred(width, pixels).view(1, 1, -1) - right * width
    y = _centred(height, pixels).view(1, -1, 1) - down * height
    across, along = 2 / width, 2 / height
    grid = pixels.new_empty(count, height, width, 2)  # source of each pixel, -1 to 1 across the image
    torch.add(across * (cos - sin * shear_y) * x, across * (cos * shear_x - sin) * y, out=grid[..., 0])
    torch.add(along * (sin + cos * shear_y) * x, along * (sin * shear_x + cos) * y, out=grid[..., 1])
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def _centred(side: int, like: Tensor) -> Tensor:
    return torch.arange(side, dtype=like.dtype, device=like.device) - (side - 1) / 2


def _fine(factor: Tensor) -> Tensor:
    """Return ``factor`` in steps of 1/2048, so that sums of its products with whole numbers to 255 are exact."""
    return (factor * 2048).round() / 2048


def _pixels(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def _images(pixels: Tensor) -> Tensor:
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _each(setting: Tensor) -> Tensor:
    """Return a setting of each image (N,) in a shape that broadcasts with (N, C, H, W) and (N, H, W, C)."""
    return setting.view(-1, 1, 1, 1)


def _require(**settings: tuple[float, float]) -> None:
    """Raise ``InputError`` for a setting that is below 0 or above its largest value."""
    for name, (value, largest) in settings.items():
        if not 0 <= value <= largest:
            raise InputError(f"augmentation.{name} must lie in 0 to {largest:g}, got {value}")

"""The embedding pass: precision, and the batch that fits."""

import numpy as np
import pytest
import torch

from metrad.evaluation.forward import CPU_BATCH, Forward, fitting_batch, half_type
from metrad.models.backbones import convnet
from metrad.models.embedder import Embedder

IMAGES = torch.randint(0, 256, (10, 16, 16, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


@pytest.fixture
def embedder():
    torch.manual_seed(0)
    return Embedder(convnet(channels=[8, 16]), image_size=16).eval()


@pytest.mark.parametrize(
    ("precision", "half"),
    [
        ("32-true", None),
        ("64-true", None),
        ("bf16-mixed", torch.bfloat16),
        ("bf16-true", torch.bfloat16),
        ("16-mixed", torch.float16),
        ("16-true", torch.float16),
    ],
)
def test_the_half_type_of_a_precision(precision, half):
    assert half_type(precision) is half


def test_half_precision_gives_nearly_the_same_float32_vectors(embedder):
    full, half = Forward(embedder, CPU, None)(IMAGES), Forward(embedder, CPU, torch.bfloat16)(IMAGES)
    assert full.dtype == half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.03 * np.abs(full).max()


def test_a_batch_without_memory_is_halved_and_the_order_kept(embedder, monkeypatch):
    whole = Forward(embedder, CPU, None)
    expected, sizes = whole(IMAGES), []

    def short(self, images, once=Forward._once):
        sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError
        return once(self, images)

    monkeypatch.setattr(Forward, "_once", short)
    assert np.allclose(whole(IMAGES), expected, atol=1e-6)
    assert sizes == [16, 8, 4, 2, 2, 4, 2, 2, 8, 4, 2, 2, 4, 2, 2]


def test_no_memory_for_one_image_is_an_error(embedder, monkeypatch):
    def never(self, images):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Forward, "_once", never)
    with pytest.raises(torch.OutOfMemoryError):
        Forward(embedder, CPU, None)(IMAGES)


@pytest.mark.parametrize("half", [None, torch.bfloat16])
def test_on_a_cpu_an_embedding_depends_neither_on_other_images_nor_on_threads(half, embedder):
    forward, before = Forward(embedder, CPU, half), torch.get_num_threads()
    images = torch.cat([IMAGES, IMAGES.flip(1), IMAGES.flip(2)])
    whole = forward(images)
    assert np.array_equal(np.concatenate([forward(image[None]) for image in images]), whole)
    assert np.array_equal(forward(images.flip(0))[::-1], whole)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert np.array_equal(forward(images), whole)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_plain_embeddings_are_whitened_as_by_a_forward_pass(embedder):
    torch.manual_seed(0)
    whitening = Embedder(convnet(channels=[8, 16]), image_size=16, whiten=True).eval()
    random = np.random.default_rng(0)
    plain = Forward(whitening, CPU, None)(IMAGES)
    whitening.set_whitening(random.normal(size=16), random.normal(size=(16, 16)))
    whitened = Forward(whitening, CPU, None)
    assert np.array_equal(whitened.whitened(plain), whitened(IMAGES))
    assert np.array_equal(whitened.whitened(plain[3:4]), whitened(IMAGES[3:4]))


@pytest.mark.parametrize(
    ("bytes_each", "memory", "most", "size"),
    [
        (1, 100, 1000, 64),
        (1, 128, 1000, 128),
        (1, 1e9, 1000, 1024),
        (1, 1e9, 4096, 4096),
        (50, 10, 1000, 1),
        (1, 100, 1, 1),
    ],
)
def test_the_batch_is_the_largest_power_of_two_that_fits(bytes_each, memory, most, size):
    assert fitting_batch(bytes_each, memory, most) == size


def test_the_batch_on_the_cpu_is_the_fastest_one(embedder):
    assert Forward(embedder, CPU, None).largest_batch(IMAGES.numpy(), np.arange(len(IMAGES))) == CPU_BATCH

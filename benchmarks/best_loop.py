"""Score a folder of JPEG images by cosine distance of MobileNetV2 features to a set of good rows.

Built for a few CPU cores, float32 throughout:

* one worker thread per core, each doing whole batches (decode, resize, network) on one intra-op
  thread, so that the cores never wait for each other;
* images are decoded fully to interleaved bytes and resized by the vectorised antialiased uint8
  kernel (within one grey level of a float resize), without ever becoming planar;
* the network is a flat list of convolutions with batch norm folded in, weights packed beforehand,
  and ReLU6 and the residual addition fused into the convolution; the division by 255 and by the
  standard deviation is folded into the first one (the mean is subtracted, as padding needs);
* freed memory is kept by the process, otherwise every large activation is page-faulted anew;
* the JPEG operator is loaded without importing all of torchvision (about 2 s of CPU time).
"""

import ctypes
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

BATCH, SIDE, FEATURES = 8, 224, 1280
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLOCK_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
RGB_MODE = 3
convolve = torch.ops.mkldnn._convolution_pointwise
convolve_onto = torch.ops.mkldnn._convolution_pointwise_.binary


def keep_freed_memory() -> None:
    """Ask glibc for one arena that neither maps large blocks separately nor shrinks."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, value in ((-3, 1 << 30), (-1, (1 << 31) - 1), (-8, 1)):  # mmap, trim, arenas
            libc.mallopt(option, value)


def load_jpeg_operator() -> None:
    """Register torch.ops.image.decode_jpeg, importing torchvision only where there is no other way."""
    libraries = sorted(Path(find_spec("torchvision").origin).parent.glob("image*.so"))
    if libraries:
        torch.ops.load_library(str(libraries[0]))
    else:
        import torchvision.io  # noqa: F401


class FusedMobileNetV2:
    """MobileNetV2 features and global average pooling of BATCH images: pixels 0..255 minus the mean."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state, self.layers, self.side = state, [], SIDE
        self._add("features.0.0", "features.0.1", stride=2, input_scale=1 / (255 * torch.tensor(STD)))
        for number, stride in enumerate(BLOCK_STRIDES, start=1):
            block = f"features.{number}.conv."
            if number == 1:
                self._add(block + "0.0", block + "0.1", stride)
                self._add(block + "1", block + "2", relu=False)
                continue
            self._add(block + "0.0", block + "0.1", starts_block=True)
            self._add(block + "1.0", block + "1.1", stride)
            inputs, outputs = state[block + "0.0.weight"].shape[1], state[block + "2.weight"].shape[0]
            self._add(block + "2", block + "3", relu=False, adds=stride == 1 and inputs == outputs)
        self._add("features.18.0", "features.18.1")

    def _add(self, conv, norm, stride=1, relu=True, starts_block=False, adds=False, input_scale=None):
        """Fold the batch norm into the convolution and pack its weight for the shape it will meet."""
        state = self.state
        gain = state[norm + ".weight"] / torch.sqrt(state[norm + ".running_var"] + 1e-5)
        bias = state[norm + ".bias"] - state[norm + ".running_mean"] * gain
        weight = state[conv + ".weight"] * gain[:, None, None, None]
        if input_scale is not None:
            weight = weight * input_scale[:, None, None]
        outputs, inputs, kernel, _ = weight.shape
        groups = outputs if kernel == 3 and inputs == 1 else 1
        where = ([kernel // 2] * 2, [stride] * 2, [1, 1], groups)
        shape = [BATCH, inputs * groups, self.side, self.side]
        weight = torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *where, shape)
        activation = ("hardtanh", [0.0, 6.0], "") if relu else ("none", [], "")
        self.layers.append((weight, bias, where, activation, starts_block, adds))
        self.side //= stride

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for weight, bias, where, activation, starts_block, adds in self.layers:
            if starts_block:
                shortcut = x
            if adds:
                x = convolve_onto(shortcut, x, weight, bias, *where, "add", 1.0, None, [], None)
            else:
                x = convolve(x, weight, bias, *where, *activation)
        return x.mean((2, 3))


def score_folder(folder: str, weights: str | None, good: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names (sorted) of the JPEG images in folder and their cosine distance to the nearest good row."""
    keep_freed_memory()
    load_jpeg_operator()
    if weights is None:
        from torchvision.models import mobilenet_v2

        state = mobilenet_v2(weights=None).state_dict()
    else:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith((".jpg", ".jpeg")))
    pooled = torch.empty(len(names), FEATURES)
    starts, failures = iter(range(0, len(names), BATCH)), []
    decode = torch.ops.image.decode_jpeg

    @torch.inference_mode()
    def work() -> None:
        """Take batches until none is left; a short last batch leaves old pixels in its unused slots."""
        torch.set_num_threads(1)  # counts per thread
        mean = 255 * torch.tensor(MEAN).view(1, 3, 1, 1)
        pixels = torch.zeros(BATCH, 3, SIDE, SIDE, dtype=torch.uint8).to(memory_format=torch.channels_last)
        try:
            for start in starts:
                batch_names = names[start : start + BATCH]
                for slot, name in zip(pixels, batch_names):
                    encoded = torch.from_numpy(np.fromfile(os.path.join(folder, name), dtype=np.uint8))
                    image = decode(encoded, RGB_MODE, False)[None]
                    slot.copy_(interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True)[0])
                pooled[start : start + BATCH] = network(pixels - mean)[: len(batch_names)]
        except BaseException as failure:
            failures.append(failure)

    threads_before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        network = FusedMobileNetV2(state)
    workers = [threading.Thread(target=work) for _ in os.sched_getaffinity(0)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    torch.set_num_threads(threads_before)
    if failures:
        raise failures[0]
    good_rows = torch.nn.functional.normalize(torch.from_numpy(good).float(), dim=1)
    nearest = (torch.nn.functional.normalize(pooled, dim=1) @ good_rows.T).amax(1)
    return names, (1 - nearest).numpy()

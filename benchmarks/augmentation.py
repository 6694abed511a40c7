"""Time of augmentations for a batch, beside kornia's, torchvision's and a training step of MobileNetV2 at 96 pixels.

metrad and kornia change the batch at once, torchvision image by image, since its random transforms draw once for all
they are given. All start from uint8 images and end in uint8, on one device, in turns. On the CPU the time is that of
the processor, so what else the machine does falls on no side, and memory is kept as in training.

    OMP_NUM_THREADS=1 python benchmarks/augmentation.py [--batch 128] [--rounds 7]       (pip install 'metrad[bench]')
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from kornia import augmentation as kornia
from kornia.augmentation.auto import RandAugment
from torch import Tensor, nn
from torchvision.transforms import v2 as torchvision

from metrad.data.augmentation import Augmentation
from metrad.models.backbones import mobilenet_v2
from metrad.models.cpu import lean_memory
from metrad.models.embedder import Embedder
from metrad.models.heads import AdaCos

SIZE, CLASSES = 96, 9
Change = Callable[[Tensor], Tensor]


def sides() -> dict[str, dict[str, Change]]:
    """Return for each setting the sides, functions of images (N, height, width, 3) uint8."""
    pad = {"padding": SIZE // 8, "padding_mode": "reflect"}
    colors = (0.4, 0.4, 0.4, 0.1)
    theirs = {
        "flip": (kornia.RandomHorizontalFlip(), torchvision.RandomHorizontalFlip()),
        "crop": (kornia.RandomCrop((SIZE, SIZE), **pad), torchvision.RandomCrop(SIZE, **pad)),
        "color": (kornia.ColorJitter(*colors), torchvision.ColorJitter(*colors)),
        "rand_augment": (RandAugment(2, 9), torchvision.RandAugment(2, 9)),
    }
    ours = {"flip": {"flip": 0.5}, "crop": {"crop_padding": 1 / 8}, "color": {"color": 0.4}}
    ours["rand_augment"] = {"rand_augment": 2}
    made = {
        name: {"metrad": Augmentation(**ours[name]), "kornia": batched([one]), "torchvision": by_image([other])}
        for name, (one, other) in theirs.items()
    }
    made["all"] = {
        "metrad": Augmentation(**{key: value for each in ours.values() for key, value in each.items()}),
        "kornia": batched([one for one, _ in theirs.values()]),
        "torchvision": by_image([other for _, other in theirs.values()]),
    }
    return made


def batched(changes: list[nn.Module]) -> Change:
    """Return a function of kornia's, which takes (N, 3, height, width) in 0 to 1."""

    def change(images: Tensor) -> Tensor:
        batch = images.permute(0, 3, 1, 2).float().div_(255)
        for each in changes:
            batch = each(batch)
        return batch.mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    return change


def by_image(changes: list[nn.Module]) -> Change:
    """Return torchvision's transforms, image by image."""
    chain = torchvision.Compose(changes)
    return lambda images: torch.stack([chain(one) for one in images.permute(0, 3, 1, 2)]).permute(0, 2, 3, 1)


def training_step(device: torch.device) -> Change:
    """Return a step of the article's training."""
    embedder = Embedder(mobilenet_v2(weights=None), image_size=SIZE).to(device).train()
    head = AdaCos(embedder.out_features, CLASSES).to(device)
    optimizer = torch.optim.Adam([*embedder.parameters(), *head.parameters()], lr=1e-4, amsgrad=True)

    def step(images: Tensor) -> Tensor:
        loss: Tensor = head(embedder(images), torch.arange(len(images), device=device) % CLASSES)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def milliseconds(change: Change, images: Tensor) -> float:
    """Return the time of one call."""
    if images.is_cuda:
        torch.cuda.synchronize()
    clock = time.perf_counter if images.is_cuda else time.process_time
    start = clock()
    change(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return (clock() - start) * 1e3


def main() -> None:
    """Measure all sides in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7, help="how often each side is measured")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    images = torch.randint(0, 256, (chosen.batch, SIZE, SIZE, 3), dtype=torch.uint8).to(chosen.device)
    step, settings = training_step(images.device), sides()
    measured: dict[tuple[str, str], list[float]] = {}
    with lean_memory(torch.device("cpu")):
        for number in range(chosen.rounds + 1):
            turns = {(name, side): change for name, each in settings.items() for side, change in each.items()}
            turns["step", ""] = step
            for key in list(turns)[:: 1 if number % 2 == 0 else -1]:
                with torch.set_grad_enabled(key[0] == "step"):
                    measured.setdefault(key, []).append(milliseconds(turns[key], images))
    middle = {key: statistics.median(values[1:]) for key, values in measured.items()}  # the first round warms up
    threads = torch.get_num_threads()
    print(f"batch {chosen.batch}, {SIZE}x{SIZE}, {chosen.device}, {threads} threads, {chosen.rounds} rounds in turns")
    print(f"training step of MobileNetV2: {middle['step', '']:.0f} ms\n")
    print("| augmentation | metrad, ms | of a training step | kornia, ms | torchvision image by image, ms |")
    print("|---|---|---|---|---|")
    for name in settings:
        ours, one, other = (middle[name, side] for side in ("metrad", "kornia", "torchvision"))
        print(f"| {name} | {ours:.1f} | {ours / middle['step', '']:.1%} | {one:.1f} | {other:.1f} |")


if __name__ == "__main__":
    main()

"""What a training step costs on this processor: MONAI's spatial transforms, memory layout, retained memory, and bf16.

    OMP_NUM_THREADS=2 python benchmarks/training_step.py

Milliseconds, medians. Transforms run on one thread and a 36 x 36 x 36 image. A step is forward and backward of
resnet18-w32 on 16 images of 32 x 32 x 32, with glibc's default settings and then kept from returning memory. Slices: 16
of 160 x 160 in three windows through EfficientNet-Lite0, with random weights. bf16 is timed on two images, since a
processor that only emulates it is very slow. Finally, whether equal steps give equal gradients whatever memory held
before (docs/decisions/0006).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from monai.transforms.spatial.array import Rand3DElastic, RandAffine, RandGridDistortion

from med_transfer.backbones import load_backbone
from med_transfer.model.classifier import Classifier
from med_transfer.processor import keep_freed_memory


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def time_transforms() -> None:
    image, threads = torch.randn(1, 36, 36, 36), torch.get_num_threads()
    torch.set_num_threads(1)
    turn = {"rotate_range": [0.3] * 3, "padding_mode": "border"}
    transforms = {
        "RandAffine": RandAffine(prob=1, scale_range=[0.15] * 3, cache_grid=True, spatial_size=(36, 36, 36), **turn),
        "RandGridDistortion": RandGridDistortion(prob=1, num_cells=4),
        "Rand3DElastic": Rand3DElastic(prob=1, sigma_range=(4, 6), magnitude_range=(20, 60), **turn),
    }
    for name, transform in transforms.items():
        print(f"{name:24} {milliseconds(lambda transform=transform: transform(image), 30):8.1f} ms")
    torch.set_num_threads(threads)


def time_step(layout: torch.memory_format, *, batch: int, bf16: bool, repeats: int) -> float:
    network = Classifier(load_backbone("resnet18-w32").encoder, 3).train()
    network = network.to(memory_format=layout)  # type: ignore[call-overload]
    images = torch.randn(batch, 1, 32, 32, 32).contiguous(memory_format=layout)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = network(images).float().sum()
        loss.backward()

    return milliseconds(step, repeats)


def time_slices(layout: torch.memory_format, *, training: bool, repeats: int) -> float:
    encoder = load_backbone("slices-efficientnet-lite0", scratch=True, channels=3).encoder.train(training)
    stem = encoder.get_submodule("net.conv_stem")
    stem.register_forward_pre_hook(lambda _, given: (given[0].contiguous(memory_format=layout),))
    slices = torch.randn(1, 3, 16, 160, 160)

    def step() -> None:
        with torch.set_grad_enabled(training):
            deepest = encoder(slices)[-1]
        if training:
            deepest.mean().backward()

    return milliseconds(step, repeats)


def unequal_gradients(*, bf16: bool, repeats: int = 4) -> str:
    """Gradients that differ between equal steps from equal weights, after filling freed memory with NaN."""
    torch.manual_seed(0)
    network, images = load_backbone("resnet18-w32").encoder.train(), torch.randn(4, 1, 32, 32, 32)

    def gradients() -> dict[str, torch.Tensor]:
        del [torch.full((1 << 20,), float("nan")) for _ in range(40)][:]
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            maps = network(images)
        torch.stack([m.float().mean((2, 3, 4)).square().mean() for m in maps]).sum().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    first, *others = [gradients() for _ in range(repeats)]
    unequal = {name for other in others for name in first if not torch.equal(first[name], other[name])}
    broken = {name for one in (first, *others) for name, g in one.items() if not g.isfinite().all()}
    return f"{len(unequal)} of {len(first)} gradients differ, {len(broken)} hold NaN or infinity"


def main() -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, {capability}, {torch.get_num_threads()} threads")
    time_transforms()
    for name, layout in (("contiguous", torch.contiguous_format), ("channels_last_3d", torch.channels_last_3d)):
        print(f"fp32, 16 images, {name:18} {time_step(layout, batch=16, bf16=False, repeats=7):8.0f} ms")
    given_back = time_step(torch.channels_last_3d, batch=16, bf16=False, repeats=7)
    keep_freed_memory()
    kept = time_step(torch.channels_last_3d, batch=16, bf16=False, repeats=7)
    print(f"fp32, 16 images, memory given back {given_back:8.0f} ms, kept {kept:8.0f} ms")
    for word, training in (("step", True), ("forward", False)):
        for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
            spent = time_slices(layout, training=training, repeats=5)
            print(f"fp32, 16 slices, {word}, {name:18} {spent:8.0f} ms")
    for word, bf16, repeats in (("fp32", False, 5), ("bf16", True, 1)):
        spent = time_step(torch.channels_last_3d, batch=2, bf16=bf16, repeats=repeats)
        print(f"{word}, 2 images, channels_last_3d {spent:8.0f} ms")
    for word, bf16 in (("fp32", False), ("bf16", True)):
        print(f"{word}, {unequal_gradients(bf16=bf16)}")


if __name__ == "__main__":
    main()

"""How fast invented boxes are drawn, beside the plain way and beside the step that learns from them, in one run.

    python benchmarks/species_rate.py [--device cpu|cuda] [--threads N]

The plain way: a phantom turned by cubic splines with scipy, its contrast transfer and wedge by numpy, one box at a time
(cryoclass simulate). Ours: random assemblies, exact at any orientation, 64 boxes at a time in torch.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from cryoclass.backbones.registry import build_backbone
from cryoclass.pretraining.batches import draw_batch
from cryoclass.settings import Invention, Simulation
from cryoclass.simulation.phantoms import phantom_densities
from cryoclass.simulation.tomogram import prepare_shapes, simulate_boxes

BOXES, REPEATS = 64, 5


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the median time of some repeats, after one that does not count."""
    work()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)

    settings = Simulation(box=32)
    shapes = prepare_shapes(phantom_densities(settings), settings.box)
    names = [*shapes] * 4
    rng = np.random.default_rng(0)
    plain = seconds(lambda: simulate_boxes(shapes, names, settings, rng), device) / len(names)

    generator = torch.Generator(device).manual_seed(0)
    drawn = [0.0, 0.0]
    for place, views in enumerate((1, 2)):
        drawn[place] = (
            seconds(lambda v=views: draw_batch(BOXES // v, v, (0.1, 1.0), Invention(), generator), device)
            / BOXES
        )

    network = build_backbone("res32").to(device).to(memory_format=torch.channels_last_3d).train()
    x = torch.randn(BOXES, 1, 32, 32, 32, device=device).contiguous(memory_format=torch.channels_last_3d)
    step = seconds(lambda: network(x).square().mean().backward(), device) / BOXES

    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"plain way            {1 / plain:8.0f} boxes/s")
    print(f"ours, 1 view         {1 / drawn[0]:8.0f} boxes/s  {plain / drawn[0]:5.1f} times as fast")
    print(f"ours, 2 views        {1 / drawn[1]:8.0f} boxes/s  {plain / drawn[1]:5.1f} times as fast")
    print(f"res32, there and back{1 / step:8.0f} boxes/s")
    print(f"drawing is {drawn[0] / (drawn[0] + step):.0%} of drawing and learning")


if __name__ == "__main__":
    main()

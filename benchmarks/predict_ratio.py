"""How much faster cryoclass predicts than the plain way, on this machine, in one run.

    python benchmarks/predict_ratio.py [PARTICLES] [--device cpu|cuda]

The plain way: a 3D ResNet-34 with three colour channels in eager float32, boxes read one file at a time, resized with
numpy on the CPU, one particle a step. Against it, our pipeline with the same weights at the same input of 32x128x128:
one grey channel, reading ahead, resizing on the device, in float32 and in bfloat16. Prints particles per second, the
ratio to the plain way, and the largest difference of an embedding relative to its length.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import torch
from scipy import ndimage

from cryoclass.backbones.registry import spec
from cryoclass.backbones.stem import sum_channels
from cryoclass.card import ModelCard
from cryoclass.classifier import Classifier, WholeModel
from cryoclass.images import FileSource
from cryoclass.inference.engines import TorchEngine
from cryoclass.inference.pipeline import Flow, compute
from cryoclass.outputs import Facts, open_outputs
from cryoclass.particles import read_particles
from cryoclass.settings import Preparation
from cryoclass.star.tables import write_tables
from cryoclass.volumes.mrc import write_volume

BOX, ANGPIX, CLASSES = 32, 10.0, 6
SIZE = (32, 128, 128)


def make_particles(folder: Path, count: int) -> Path:
    """Write boxes of noise, and the STAR file that names them."""
    names = [folder / f"{number:06d}.mrc" for number in range(count)]
    rng = np.random.default_rng(0)
    for name in names:
        write_volume(name, rng.standard_normal((BOX,) * 3, dtype=np.float32), ANGPIX)
    star = folder / "particles.star"
    write_tables(
        star, {"particles": {"rlnImageName": [str(n) for n in names], "rlnPixelSize": [ANGPIX] * count}}
    )
    return star


def plain_way(network: torch.nn.Module, star: Path, device: torch.device) -> np.ndarray:
    """Predict one file after the other; return embeddings (n, 512)."""
    rows = []
    for name in read_particles(star).images:
        box = mrcfile.read(name).astype(np.float32)
        grey = (box - box.min()) / (box.max() - box.min())
        sized = ndimage.zoom(grey, [big / BOX for big in SIZE], order=1, mode="nearest", grid_mode=True)
        colour = torch.from_numpy(np.stack([sized] * 3))[None].to(device)
        with torch.no_grad():
            rows.append(network(colour)[0].cpu().numpy())
    return np.stack(rows)


def our_way(classifier: Classifier, star: Path, device: torch.device, precision: str) -> np.ndarray:
    """Predict with the pipeline; return embeddings (n, 512)."""
    source = FileSource(read_particles(star))
    card = ModelCard(
        backbone="r3d34",
        classes=tuple(map(str, range(CLASSES))),
        angpix=ANGPIX,
        box=(BOX,) * 3,
        contrast="unknown",
        preparation=Preparation(input_size=SIZE),
    )
    engine = TorchEngine(WholeModel(classifier, card), device, precision)  # type: ignore[arg-type]
    flow = Flow(batch_size=8 if device.type == "cpu" else 64, workers=2)
    with tempfile.TemporaryDirectory() as folder:
        facts = Facts(count=len(source), input="noise", model=precision)
        outputs = open_outputs(Path(folder), facts)
        compute(engine, source, outputs, flow)
        return np.array(outputs["embedding"])


def timed(work: Callable[[], np.ndarray], device: torch.device) -> tuple[float, np.ndarray]:
    """Run once to warm up, then once by the clock."""
    work()
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def main(count: int, device: torch.device) -> None:
    torch.manual_seed(0)
    colour = spec("r3d34").build(3).to(device).eval()
    classifier = Classifier("r3d34", CLASSES).eval()
    state = dict(colour.state_dict())
    state["conv1.weight"] = sum_channels(state["conv1.weight"])
    classifier.backbone.load_state_dict(state)
    with tempfile.TemporaryDirectory() as folder:
        star = make_particles(Path(folder), count)
        plain, wanted = timed(lambda: plain_way(colour, star, device), device)
        print(f"{count} particles on {device}, {torch.get_num_threads()} threads")
        print(f"{'plain way, fp32':20s} {count / plain:8.2f} particles/s")
        for precision in ("fp32", "bf16"):
            seconds, found = timed(lambda p=precision: our_way(classifier, star, device, p), device)
            off = np.linalg.norm(found - wanted, axis=1).max() / np.linalg.norm(wanted, axis=1).mean()
            print(
                f"{'cryoclass, ' + precision:20s} {count / seconds:8.2f} particles/s  ratio {plain / seconds:5.2f}  off by {off:.1e}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    main(arguments.count, torch.device(arguments.device))

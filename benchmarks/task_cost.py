"""What masks and densities cost beside classes: processor time and memory of a step and of a prediction, as ratios in one run.

Each network runs in a process of its own, so that its memory is its own. Usage::

    python benchmarks/task_cost.py [--backbones res32-species mtl-cect r3d34-k400] [--boxes 8]
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from cryoclass.backbones.registry import spec
from cryoclass.classifier import Classifier
from cryoclass.preparation import Preparer
from cryoclass.tasks import TASKS, task_named

CLASSES, SIDE = 4, 32
TRIES = 4  # of which the fastest counts
JOINT = ",".join(TASKS)


def seconds(work: Callable[[], object]) -> float:
    """Return the least processor time of several runs, after one that warms up."""
    work()
    taken = []
    for _ in range(TRIES):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def measure(backbone: str, tasks: str, boxes: int) -> dict[str, float]:
    """Return seconds of a step of training and of a prediction, MB of memory at most in training, and millions of weights."""
    torch.manual_seed(0)
    classifier = Classifier(backbone, CLASSES, [task_named(name) for name in tasks.split(",")])
    grey = torch.randn(boxes, 1, SIDE, SIDE, SIDE)
    x = Preparer(spec(backbone).resolve()).resize(grey)

    def predict() -> None:
        with torch.inference_mode():
            classifier.finish(classifier(x, grey))

    def step() -> None:
        said = classifier(x, grey)
        torch.stack([value.square().mean() for value in said.values()]).sum().backward()

    classifier.eval()
    prediction = seconds(predict)
    classifier.train()
    return {
        "step": seconds(step),
        "prediction": prediction,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "weights": sum(weight.numel() for weight in classifier.parameters()) / 1e6,
    }


def in_a_process(backbone: str, tasks: str, boxes: int) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--backbones", backbone, "--tasks", tasks, "--boxes", str(boxes)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def main() -> None:
    """Print a table in Markdown; with ``--tasks``, the figures of one network as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbones", nargs="+", default=["res32-species", "mtl-cect", "r3d34-k400"])
    parser.add_argument("--boxes", type=int, default=8, help="boxes of a batch")
    parser.add_argument("--tasks", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.tasks:
        print(json.dumps(measure(given.backbones[0], given.tasks, given.boxes)))
        return
    print("| network | tasks | step of training | prediction | memory in training | weights |")
    print("|---|---|--:|--:|--:|--:|")
    for backbone in given.backbones:
        alone = in_a_process(backbone, "classify", given.boxes)
        for tasks in ("classify", "segment", JOINT):
            found = in_a_process(backbone, tasks, given.boxes)
            ratios = [f"{found[name] / alone[name]:.2f}" for name in ("step", "prediction")]
            print(
                f"| `{backbone}` | {tasks} | {' | '.join(ratios)} | {found['memory']:.0f} MB | {found['weights']:.2f} M |"
            )


if __name__ == "__main__":
    main()

"""What the tests of the command line share: the project that they work on, and reading what was written."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import starfile

SPECIES = ["aldolase", "apoferritin", "beta_galactosidase"]
SIMULATE = "--species 3 --per-species 12 --tomograms 3 --size 32 96 96 --box 16 --angpix 20 --snr 2"
NETWORK = ["--backbone", "r3d10", "--input-size", "8", "16", "16", "--recipe", "quick", "--device", "cpu"]
EPOCHS = 5


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project folder: ``Simulated``, ``Extract``, ``Finetune`` and ``model.onnx``."""

    root: Path

    @property
    def coordinates(self) -> Path:
        return self.root / "Simulated" / "coordinates.star"

    @property
    def tomograms(self) -> Path:
        return self.root / "Simulated" / "tomograms"

    @property
    def particles(self) -> Path:
        return self.root / "Extract" / "particles.star"

    @property
    def model(self) -> Path:
        return self.root / "Finetune"

    @property
    def onnx(self) -> Path:
        return self.root / "model.onnx"


def table(path: Path) -> pd.DataFrame:
    """Read the rows of a STAR file, be they in ``data_particles`` or alone, with starfile: not what wrote them."""
    blocks = starfile.read(path, always_dict=True)
    return next(block for name, block in blocks.items() if name != "optics" and len(block))

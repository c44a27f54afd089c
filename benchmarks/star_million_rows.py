"""A million particles: read, append three columns, write. cryoclass against starfile, each in a process of its own.

    python benchmarks/star_million_rows.py [ROWS]

Prints seconds, peak memory and the ratio of one run.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROWS = 1_000_000
NAMES = ("rlnClassNumber", "rlnMaxValueProbDistribution", "cryoclassClassName")


def make(path: Path, rows: int) -> None:
    """Write a table of 25 columns, as RELION 3.1 pads them."""
    numbers = np.random.default_rng(0).uniform(0, 4000, (1000, 22))
    bodies = ["".join(f" {value:12.6f}" for value in row) for row in numbers]
    labels = ["rlnMicrographName", "rlnImageName", *(f"rlnColumn{i}" for i in range(22)), "rlnOpticsGroup"]
    with path.open("w") as out:
        out.write("\n# version 30001\n\ndata_particles\n\nloop_ \n")
        out.writelines(f"_{label} #{number} \n" for number, label in enumerate(labels, 1))
        for row in range(rows):
            tomogram = f"TS_{row // 1000:04d}"
            out.write(
                f"{tomogram}.mrc Extract/job001/{tomogram}/{tomogram}_{row:07d}.mrc{bodies[row % 1000]}            1 \n"
            )
        out.write("\n")


def columns(rows: int) -> dict[str, list[str]]:
    """Return what predict would append."""
    return dict(zip(NAMES, (["1"] * rows, ["0.987654"] * rows, ["ribosome"] * rows), strict=True))


def with_cryoclass(source: Path, target: Path) -> None:
    from cryoclass.particles import read_particles

    table = read_particles(source)
    table.with_columns(columns(len(table))).write(target)


def with_starfile(source: Path, target: Path) -> None:
    import starfile

    table = starfile.read(source)
    starfile.write(table.assign(**columns(len(table))), target)


def measure(how: str, source: Path, target: Path) -> tuple[float, float]:
    """Run one of the two in a fresh process; return seconds and peak gigabytes."""
    done = subprocess.run(
        [sys.executable, __file__, how, str(source), str(target)], check=True, capture_output=True, text=True
    )
    seconds, kilobytes = done.stdout.split()
    return float(seconds), float(kilobytes) / 1e6


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "particles.star"
        make(source, rows)
        print(f"{rows} rows x 25 columns, {source.stat().st_size / 1e6:.0f} MB")
        results = {}
        for how in ("cryoclass", "starfile"):
            results[how] = measure(how, source, Path(folder) / f"{how}.star")
            print(f"{how:10s} {results[how][0]:7.2f} s  peak {results[how][1]:.2f} GB")
        print(f"ratio      {results['starfile'][0] / results['cryoclass'][0]:7.1f}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        start = time.perf_counter()
        (with_cryoclass if sys.argv[1] == "cryoclass" else with_starfile)(
            Path(sys.argv[2]), Path(sys.argv[3])
        )
        print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    else:
        main(int(sys.argv[1]) if len(sys.argv) == 2 else ROWS)

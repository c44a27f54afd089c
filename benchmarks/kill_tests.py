"""Whether runs survive kills: each command is ended at random moments, typed again, and its files are compared with an unbroken run's.

    python benchmarks/kill_tests.py [--kills 30] [--others 10] [--commands extract predict ...] [--seed 0]

Every command first runs to its end, which takes T seconds. Then, again and again, it is started in a folder of its own, ended at a
moment drawn evenly from 0 to T, by SIGKILL, SIGTERM, SIGINT or a disk that is full after a drawn share of its bytes, and typed
again until it ends well. Survived: every end by a signal had the right status and words, the rerun ended with status 0, and nothing
half-written is left. Equal: every file has the bytes of the unbroken run's, all but ``times.csv`` and checkpoints. Twice: the time of both
runs together beyond T and one start of the program, as a share of T; it holds the seconds since the last checkpoint. All on one CPU thread.
Full disks need root, for a small disk to be mounted. The exit status is 1 where anything did not survive or is not equal.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryoclass.claims import LOCK
from cryoclass.files import TEMPORARY
from cryoclass.records import RECORD

PROGRAM = (sys.executable, "-m", "cryoclass")
NOT_COMPARED = re.compile(rf"times\.csv|checkpoint.*|{re.escape(RECORD)}|{re.escape(LOCK)}")
LONGEST = 600  # seconds of one run
PYTHON_STARTS = (
    0.5  # seconds in which Python itself answers Ctrl-C with a trace, before any line of ours runs
)
TRIES = 4  # of a rerun on a disk that grows

PRETRAIN = """
import sys
from pathlib import Path
from cryoclass.cli import console, streams
from cryoclass.errors import CryoclassError
from cryoclass.jobs.pretrain import PretrainRequest, pretrain
from cryoclass.settings import Invention, Pretraining, Yardsticks
from cryoclass.stopping import Stopped
streams.protect()
small = Yardsticks(reference=50, held_out_species=6, sharpening_species=4, sharpening_batches=(2, 2))
request = PretrainRequest(outdir=Path("Out"), device="cpu", num_workers=1, overwrite=True,
    pretraining=Pretraining(steps=60, species=4, views=2), invention=Invention(box=16), yardsticks=small)
try:
    pretrain(request, console.Heard())
except CryoclassError as problem:
    console.error(problem)
    sys.exit(problem.exit_status)
except KeyboardInterrupt:
    sys.exit(130)
"""

LINES = {
    "extract": "extract S/coordinates.star --tomograms S/tomograms --box 48 -j 1 -o Out",
    "predict": "predict E/particles.star --model M --split-classes --device cpu -j 1 -b 8 -o Out",
    "embed": "embed E/particles.star --model M --map pca --clusters 3 --device cpu -j 1 -b 8 -o Out",
    "finetune": "finetune E/particles.star --epochs 2 --device cpu -j 1 -b 8 -o Out",
    "freeze": "finetune E/particles.star --freeze --device cpu -j 1 -b 8 -o Out",
}
COMMANDS = {name: (*PROGRAM, *line.split()) for name, line in LINES.items()}
COMMANDS["pretrain"] = (sys.executable, "-c", PRETRAIN)
DATA = (
    "simulate -o S --species 3 --per-species 60 --tomograms 3 --size 96 200 200 --snr 1 --seed 1",
    "extract S/coordinates.star --tomograms S/tomograms --box 24 -o E",
    "finetune E/particles.star --freeze --device cpu -o M",
)
ENDS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
STATUS = {
    "SIGKILL": {-9},
    "SIGTERM": {143, -15},
    "SIGINT": {130, -2},
}  # negative: before the program had begun


@dataclass
class Tally:
    """What became of the runs of one command that were ended in one way."""

    runs: int = 0
    finished: int = 0
    survived: int = 0
    equal: int = 0
    twice: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Unbroken:
    """A run that nobody ended: its files, and the seconds that it took, and that the program takes to begin."""

    files: dict[str, bytes]
    seconds: float
    start: float


def start(command: tuple[str, ...], folder: Path) -> subprocess.Popen[str]:
    """Start a command in a folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process and return what it said on stderr."""
    try:
        return process.communicate(timeout=LONGEST)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return f"hung\n{process.communicate()[1]}"


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files that are compared, by their names within a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not NOT_COMPARED.fullmatch(path.name))
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(paths)}


def unbroken(command: tuple[str, ...], project: Path) -> Unbroken:
    """Run a command to its end, and refuse it once, which takes as long as it takes to begin."""
    with workplace(project) as here:
        began = time.monotonic()
        process = start(command, here)
        said = finish(process)
        if process.returncode:
            sys.exit(f"{' '.join(command)} fails without being ended:\n{said}")
        seconds, files = time.monotonic() - began, files_of(here / "Out")
    began = time.monotonic()
    finish(start((*PROGRAM, "backbones", "list"), project))
    return Unbroken(files=files, seconds=seconds, start=time.monotonic() - began)


@contextlib.contextmanager
def workplace(project: Path) -> Iterator[Path]:
    """Yield a folder that sees the data under the same names as every other one."""
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        for entry in project.iterdir():
            (Path(name) / entry.name).symlink_to(entry)
        yield Path(name)


def judge(tally: Tally, here: Path, whole: Unbroken, said: str, problem: str) -> None:
    """Write down how a run ended that was typed again."""
    out = here / "Out"
    left = [p.name for p in out.rglob("*") if p.name.startswith(TEMPORARY) or p.suffix == ".part"]
    if "Traceback" in said:
        problem = problem or f"a traceback: {said[said.index('Traceback') :][:3000]}"
    if left:
        problem = problem or f"left behind: {left[:3]}"
    found = files_of(out) if out.exists() else {}
    other = sorted({*found, *whole.files} - {n for n in found if whole.files.get(n) == found[n]})
    tally.runs += 1
    tally.survived += not problem
    tally.equal += not other
    tally.faults += [problem] if problem else []
    tally.faults += [f"other bytes: {', '.join(other[:4])}"] if other else []


def end_by_signal(command: tuple[str, ...], project: Path, whole: Unbroken, how: str, tally: Tally) -> None:
    """Start a command, end it at a drawn moment, and type it again."""
    with workplace(project) as here:
        began = time.monotonic()
        process = start(command, here)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=random.uniform(PYTHON_STARTS if how == "SIGINT" else 0, whole.seconds))
        process.send_signal(ENDS[how])
        said, problem = finish(process), ""
        first = time.monotonic() - began
        if process.returncode == 0:  # it was faster than the signal
            tally.finished += 1
            judge(tally, here, whole, said, "")
            return
        if process.returncode not in STATUS[how]:
            problem = f"status {process.returncode} after {how}: {said.strip()[-200:]}"
        elif process.returncode in (130, 143) and "same command" not in said and command[1] == "-m":
            problem = f"no words after {how}: {said.strip()[-200:]}"
        began = time.monotonic()
        process = start(command, here)
        again = finish(process)
        if "holds a finished run" in again:  # it was killed behind its last step
            tally.finished += 1
        elif process.returncode:
            problem = problem or f"status {process.returncode} of the rerun: {again.strip()[-300:]}"
        second = time.monotonic() - began
        tally.twice.append(max(0.0, first + second - whole.seconds - whole.start) / whole.seconds)
        judge(tally, here, whole, said + again, problem)


def end_by_full_disk(command: tuple[str, ...], project: Path, whole: Unbroken, tally: Tally) -> None:
    """Start a command on a disk that will be full at a drawn byte; give it more space and type it again."""
    needed = sum(map(len, whole.files.values()))
    with workplace(project) as here, small_disk(here / "Out", int(random.uniform(0.02, 1.2) * needed)):
        said, problem, process = "", "", start(command, here)
        said = finish(process)
        if process.returncode not in (0, 1) or (
            process.returncode and not re.search(r"disk is full|MB free|kB free|free in", said)
        ):
            problem = f"status {process.returncode} on a full disk: {said.strip()[-300:]}"
        tally.finished += process.returncode == 0
        subprocess.run(["mount", "-o", f"remount,size={4 * needed + 2**28}", here / "Out"], check=True)
        process = start(command, here)
        again = finish(process)
        if process.returncode and "holds a finished run" not in again:
            problem = problem or f"status {process.returncode} of the rerun: {again.strip()[-300:]}"
        judge(tally, here, whole, said + again, problem)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mount a disk of some bytes."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(size, 2**16)}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def can_mount() -> bool:
    """Say whether a small disk can be mounted here."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(subprocess.CalledProcessError):
        with small_disk(Path(name) / "d", 2**20):
            pass
        return True
    return False


def make_data(project: Path) -> None:
    """Simulate particles, extract them, and train a model."""
    for line in DATA:
        process = start((*PROGRAM, *line.split()), project)
        said = finish(process)
        if process.returncode:
            sys.exit(f"{line}\n{said}")


def say(command: str, how: str, tally: Tally) -> None:
    """Print a line of the table, and what went wrong."""
    twice = sorted(tally.twice)
    share = f"{100 * twice[len(twice) // 2]:4.0f} % {100 * twice[-1]:4.0f} %" if twice else "     -      -"
    row = f"{tally.runs:5} {tally.finished:6} {tally.survived:9} {tally.equal:6}   {share}"
    print(f"{command:9} {how:9} {row}", flush=True)
    for fault in tally.faults[:5]:
        print(f"    {fault}", flush=True)


def main() -> int:
    """Run everything and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30, help="SIGKILLs of each command")
    parser.add_argument(
        "--others", type=int, default=10, help="SIGTERMs, SIGINTs and full disks of each command"
    )
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=[*COMMANDS])
    parser.add_argument("--seed", type=int, default=0)
    wish = parser.parse_args()
    random.seed(wish.seed)
    bad = 0
    with tempfile.TemporaryDirectory(prefix="kill-data-") as name:
        make_data(Path(name))
        print("command   end        runs before  survived  equal   twice: median, most")
        for command in wish.commands:
            whole = unbroken(COMMANDS[command], Path(name))
            print(f"{command:9} unbroken: {whole.seconds:.1f} s, {len(whole.files)} files", flush=True)
            for how in (*ENDS, "full disk"):
                tally = Tally()
                for _ in range(wish.kills if how == "SIGKILL" else wish.others):
                    if how in ENDS:
                        end_by_signal(COMMANDS[command], Path(name), whole, how, tally)
                    elif can_mount():
                        end_by_full_disk(COMMANDS[command], Path(name), whole, tally)
                say(command, how, tally)
                bad += 2 * tally.runs - tally.survived - tally.equal
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

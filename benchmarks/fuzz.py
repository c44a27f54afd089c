"""Damaged and odd inputs, thousands of them: does a command say what is wrong, or give the right numbers?

    python benchmarks/fuzz.py [--cases 2000] [--seed 0] [--kinds card,onnx] [--keep FOLDER] [--case KIND:NUMBER]

Every case damages one thing of a small project that works (a card, weights, a checkpoint, an ONNX file, a volume, a table, a
name, an option) and types one command, in a folder of its own. The same seed gives the same cases. Cases run in processes of
their own, 150 after one another, so that one that waits for ever or dies by a signal is seen and named.

Prints a table, and each fault with the command that shows it. The exit status is 1 where there is any fault:

traceback   an error that is no words
hang        no end within a minute
crash       the process died by a signal
half        after a failure a new result, or at any time a temporary file, is there
wrong       exit status 0, and the numbers are not those of the sound input, though they have to be
"""

import argparse
import bz2
import contextlib
import gzip
import io
import json
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch comes in

PATIENCE = 60.0  # seconds for a case
BATCH = 150  # cases of one process
MEMORY = 6 * 2**30  # bytes of addresses that a process may take beyond what it has when it starts
NETWORK = "--backbone autoencoding3d --input-size 8 8 8 --recipe quick --epochs 1 --device cpu"
KEPT = ("outputs", "checkpoint", "history.csv", ".mrc")  # what a run that goes on later may leave
ODD = [
    "",
    "0",
    "-1",
    "1_0",
    "nan",
    "-inf",
    "0x10",
    "1e999",
    "٣",
    "None",
    "é" * 200,
    "x" * 5000,
    "a b",
    "'",
    '"',
    "\x1b[31m",
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command line, and what has to be true when it ends with 0."""

    argv: Sequence[object]
    right: Callable[[], str] = field(default=lambda: "")  # what is wrong; empty where nothing is


@dataclass(frozen=True, kw_only=True)
class Project:
    """The sound project that cases damage."""

    root: Path

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    @property
    def table(self) -> Path:
        return self.root / "Extract" / "particles.star"

    @property
    def coordinates(self) -> Path:
        return self.root / "Simulated" / "coordinates.star"


# ------------------------------------------------------------------------------------------- the project


def make_project(root: Path, kinds: Sequence[str]) -> None:
    """Make it with the commands themselves; what they say is shown only where one fails."""
    import torch
    from safetensors.torch import load_file

    sides = "--species 2 --per-species 6 --tomograms 2 --size 24 48 48 --box 12 --angpix 20 --snr 2"
    with contextlib.chdir(root):
        typed(f"simulate -o Simulated {sides}")
        typed("extract Simulated/coordinates.star --tomograms Simulated/tomograms --box 12 -o Extract")
        typed(f"finetune Extract/particles.star {NETWORK} -o Finetune")
        if EXPORTED.intersection(kinds):
            typed("export Finetune -o model.onnx")
        state = load_file("Finetune/model.safetensors")
        state = {name[9:]: value for name, value in state.items() if name.startswith("backbone.")}
        torch.save(state, "new.pth")
        torch.save({"state_dict": state}, "old.pth", _use_new_zipfile_serialization=False)
        rows = "".join(f"TS_0{n} Simulated/tomograms/TS_0{n}.mrc 20.0 1\n" for n in (1, 2))
        labels = (
            "rlnTomoName",
            "rlnTomoReconstructedTomogram",
            "rlnTomoTiltSeriesPixelSize",
            "rlnTomoTomogramBinning",
        )
        text = "".join(f"_{label} #{number}\n" for number, label in enumerate(labels, 1))
        Path("tomograms.star").write_text(f"\n# version 50001\n\ndata_global\n\nloop_\n{text}{rows}\n")
        Path("set.star").write_text(
            "\ndata_\n\n_rlnTomoParticlesFile Simulated/coordinates.star\n_rlnTomoTomogramsFile tomograms.star\n"
        )
        for name, extra in SOUND.items():
            if "onnx" in name and not Path("model.onnx").exists():
                continue
            typed(f"embed Extract/particles.star --map pca --device cpu {extra} -o {name}")


EXPORTED = {"onnx", "option"}  # kinds that need an exported model
SOUND = {
    "by_model": "--model Finetune",
    "by_onnx": "--onnx model.onnx",
    "by_weights": "--backbone autoencoding3d --weights new.pth --input-size 8 8 8",
}


def typed(words: str) -> None:
    from cryoclass.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(words.split())
    if status:
        sys.exit(f"the sound project cannot be made: {words}\n{said.getvalue()}")


def same_numbers(project: Project, name: str) -> Callable[[], str]:
    """Return what holds the embedding in O against that of the sound input."""

    def look() -> str:
        import numpy as np

        found, wanted = (np.load(folder / "embeddings.npy") for folder in (Path("O"), project / name))
        return "" if np.array_equal(found, wanted) else "other numbers"

    return look


# --------------------------------------------------------------------------------------- damaging things


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut off, take out, double or append some bytes."""
    data = bytearray(content)
    way = rng.choice(["flip", "flip", "zeros", "noise", "cut", "out", "double", "append", "header"])
    at = rng.randrange(len(data))
    some = rng.choice([1, 4, 64, 4096])
    if way == "flip":
        for _ in range(rng.choice([1, 1, 1, 20])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == "header":
        for _ in range(rng.choice([1, 4])):
            data[rng.randrange(min(len(data), 400))] = rng.randrange(256)
    elif way == "zeros":
        data[at : at + some] = bytes(len(data[at : at + some]))
    elif way == "noise":
        data[at : at + some] = rng.randbytes(len(data[at : at + some]))
    elif way == "cut":
        del data[at:]
    elif way == "out":
        del data[at : at + some]
    elif way == "double":
        data[at:at] = data[at : at + some]
    else:
        data += rng.randbytes(some)
    return bytes(data)


def copied(folder: Path, to: str, *, but: Sequence[str] = ()) -> Path:
    """Lay links to the files of a folder into a new one, but for some."""
    Path(to).mkdir()
    for path in folder.iterdir():
        if path.name not in but and path.is_file():
            Path(to, path.name).symlink_to(path)
    return Path(to)


def odd_text(rng: random.Random, text: str) -> str:
    """Change a text token by token: a table or a card stays nearly what it was."""
    lines = text.split("\n")
    for _ in range(rng.choice([1, 1, 2, 5])):
        number = rng.randrange(len(lines))
        words = lines[number].split(" ")
        way = rng.choice(["word", "word", "word", "drop", "twice", "line", "gone", "join"])
        if way == "word":
            words[rng.randrange(len(words))] = rng.choice(ODD)
        elif way == "drop":
            del words[rng.randrange(len(words))]
        elif way == "twice":
            words *= 2
        lines[number] = " ".join(words)
        if way == "line":
            lines.insert(
                number, rng.choice([lines[number], "loop_", "data_x", "_rlnNew #9", "#", "", "garbage"])
            )
        elif way == "gone" and len(lines) > 1:
            del lines[number]
        elif way == "join" and number + 1 < len(lines):
            lines[number] += lines.pop(number + 1)
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------- kinds


def card(project: Project, rng: random.Random) -> Case:
    folder = copied(project / "Finetune", "M", but=["model.json", "checkpoint.pt"])
    text = (project / "Finetune" / "model.json").read_text()
    way = rng.randrange(3)
    if way == 0:
        content = damaged(text.encode(), rng)
    elif way == 1:
        content = odd_text(rng, text).encode("utf-8", "replace")
    else:
        content = _odd_json(text, rng).encode("utf-8", "surrogatepass")
    (folder / "model.json").write_bytes(content)
    return Case(argv=embed(project, "--model", "M"))


def _odd_json(text: str, rng: random.Random) -> str:
    """Put another value into a field of a card."""
    fields = json.loads(text)
    inner = rng.choice([fields, fields, fields["preparation"], fields["outputs"], fields["learnt_from"]])
    name = rng.choice([*inner, "format", "new"])
    values = [
        None,
        True,
        -1,
        0,
        1e300,
        10**400,
        [],
        {},
        "",
        "\ud800",
        [[]] * 50,
        {"a": {}},
        "N" * 10**5,
        [1e999],
    ]
    if rng.random() < 0.2:
        inner.pop(name, None)
        return json.dumps(fields)
    inner[name] = "HERE"
    depth = rng.choice([50, 150, 250, 10**5])
    raw = rng.choice(
        [json.dumps(rng.choice(values)), "NaN", "1e999", "9" * 5000, "[" * depth + "]" * depth, "[" * depth]
    )
    return json.dumps(fields).replace('"HERE"', raw)


def weights(project: Project, rng: random.Random) -> Case:
    way = rng.choice(["model", "model", "new.pth", "new.pth", "old.pth", "backbone"])
    if way == "model":
        folder = copied(project / "Finetune", "M", but=["model.safetensors", "checkpoint.pt"])
        content = (project / "Finetune" / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(damaged(content, rng))
        return Case(argv=embed(project, "--model", "M"), right=same_numbers(project, "by_model"))
    size = ("--backbone", "autoencoding3d", "--input-size", 8, 8, 8)
    if way == "backbone":
        content = (project / "Finetune" / "model.safetensors").read_bytes()
        Path("weights.safetensors").write_bytes(damaged(content, rng))  # names of another network
        return Case(
            argv=embed(project, *size, "--weights", "weights.safetensors"), right=lambda: "they do not fit"
        )
    Path(way).write_bytes(damaged((project / way).read_bytes(), rng))
    right = (
        same_numbers(project, "by_weights") if way == "new.pth" else lambda: ""
    )  # the old kind has no checksums
    return Case(argv=embed(project, *size, "--weights", way), right=right)


def checkpoint(project: Project, rng: random.Random) -> Case:
    Path("O").mkdir()
    content = (project / "Finetune" / "checkpoint.pt").read_bytes()
    Path("O", "checkpoint.pt").write_bytes(damaged(content, rng))
    argv = ("finetune", project.table, *NETWORK.split(), "--resume", "-o", "O")
    return Case(argv=argv, right=lambda: _same_weights(project))


def _same_weights(project: Project) -> str:
    """Say whether a training that was at its end goes on to the same weights."""
    found, wanted = (folder / "model.safetensors" for folder in (Path("O"), project / "Finetune"))
    return "" if found.read_bytes() == wanted.read_bytes() else "other weights"


def onnx(project: Project, rng: random.Random) -> Case:
    Path("x.onnx").write_bytes(damaged((project / "model.onnx").read_bytes(), rng))
    return Case(argv=embed(project, "--onnx", "x.onnx"), right=same_numbers(project, "by_onnx"))


def volume(project: Project, rng: random.Random) -> Case:
    folder = copied(project / "Simulated" / "tomograms", "T", but=["TS_01.mrc"])
    content = (project / "Simulated" / "tomograms" / "TS_01.mrc").read_bytes()
    suffix, pack = rng.choice([("", bytes), ("", bytes), (".gz", _gz), (".bz2", bz2.compress)])
    way = rng.choice(["packed", "inside", "header", "other"])
    if way == "packed":
        content = damaged(pack(content), rng)
    elif way == "inside":
        content = pack(damaged(content, rng))
    elif way == "header":
        place = 4 * rng.randrange(56)
        word = rng.choice(
            [b"\0" * 4, b"\xff" * 4, rng.randbytes(4), b"\xff\xff\xff\x7f", b"\0\0\xc0\x7f", b"\x01\0\0\0"]
        )
        content = pack(content[:place] + word + content[place + 4 :])
    else:
        content = rng.choice(
            [b"", b"x", pack(b""), pack(content[:1024]), pack(content + bytes(10**7)), content[:500]]
        )
    (folder / f"TS_01.mrc{suffix}").write_bytes(content)
    return Case(argv=("extract", project.coordinates, "--tomograms", "T", "--box", 12, "-o", "O"))


def _gz(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


def table(project: Project, rng: random.Random) -> Case:
    Path("Simulated").symlink_to(project / "Simulated")
    name, argv = rng.choice(
        [
            (
                project.coordinates,
                ("extract", "x.star", "--tomograms", "Simulated/tomograms", "--box", 12, "-o", "O"),
            ),
            (project.table, embed(project, "--model", project / "Finetune", table="x.star")),
            (
                project / "tomograms.star",
                ("extract", project.coordinates, "--tomograms", "x.star", "--box", 12, "-o", "O"),
            ),
            (project / "set.star", ("extract", "x.star", "--tomograms", "x.star", "--box", 12, "-o", "O")),
        ]
    )
    if name == project / "set.star":
        Path("tomograms.star").symlink_to(project / "tomograms.star")
    text = name.read_text().replace("Extract/", f"{project.root}/Extract/")
    if rng.random() < 0.3:
        Path("x.star").write_bytes(damaged(text.encode(), rng))
    elif rng.random() < 0.3 and name == project.coordinates:
        return _odd_number(text, argv, rng)
    else:
        Path("x.star").write_text(odd_text(rng, text), "utf-8", "replace")
    return Case(argv=argv)


def _odd_number(text: str, argv: Sequence[object], rng: random.Random) -> Case:
    """Put what is no number into a column of coordinates: no command may read it as one."""
    lines = text.split("\n")
    label = f"_rlnCoordinate{rng.choice('XYZ')} "
    column = next(int(line.split("#")[1]) - 1 for line in lines if line.startswith(label))
    rows = [number for number, line in enumerate(lines) if len(line.split()) > column and ".mrc" in line]
    number = rng.choice(rows)
    cells = lines[number].split()
    cells[column] = rng.choice(["1_0", "2_0.5", "٣", "१२", "nan", "inf", "0x10", "1d1", "1,5", "³"])
    lines[number] = " ".join(cells)
    Path("x.star").write_text("\n".join(lines))
    return Case(argv=argv, right=lambda: f"{cells[column]} was taken for a number")


STRANGE = [
    *(
        "..",
        ".",
        "-",
        "--help",
        "a b",
        "a/../b",
        "../x",
        "/etc/x",
        "~",
        "$HOME",
        "`id`",
        "%s%n",
        "{0}",
        "[bold]x[/bold]",
    ),
    *(
        "=1+1",
        "+1",
        "-1+2",
        "@SUM(A1)",
        "</script><script>alert(1)</script>",
        "<b>",
        "&amp;",
        "a=b",
        "a@b",
        "1@2",
        "é",
        "é",
    ),
    *(
        "\x1b[2J",
        "\x07",
        "\x7f",
        "\u202e",
        "\u200b",
        "\ufeff",
        "𝕏" * 60,
        "x" * 255,
        "x" * 256,
        "x" * 4200,
        "CON",
        "a:b",
        "*",
    ),
    *("?", "|", ";", "'", '"', "\\", "C:\\x", "TS_01.mrc", ".x", "_x", "#x", "data_", "loop_", "\udcff"),
]


def name(project: Project, rng: random.Random) -> Case:
    odd = rng.choice(STRANGE) + rng.choice(["", "", "_1", ".mrc"])
    way = rng.choice(["tomogram", "tomogram", "class", "class", "file", "outdir"])
    if way == "tomogram":
        return _odd_tomogram(project, odd, rng)
    if way == "class":
        return _odd_class(project, odd)
    if way == "file":
        with contextlib.suppress(OSError, ValueError):
            shutil.copy(project.coordinates, os.path.basename(odd).strip(".") or "x")  # noqa: PTH119 - not a path yet
        return Case(
            argv=("extract", odd, "--tomograms", project / "Simulated" / "tomograms", "--box", 12, "-o", "O")
        )
    outdir = Path("D") / os.path.basename(odd)  # noqa: PTH119
    return Case(argv=embed(project, "--model", project / "Finetune", outdir=outdir))


def _odd_tomogram(project: Project, odd: str, rng: random.Random) -> Case:
    """Call a tomogram so in the table, and its file where a file can be called so: each particle gets a box of its own."""
    from cryoclass.star.document import quote

    with contextlib.suppress(OSError, ValueError):
        Path("T").mkdir()
        for old in ("TS_01.mrc", "TS_02.mrc"):
            new = os.path.basename(odd) if old == "TS_01.mrc" else old  # noqa: PTH119
            shutil.copy(
                project / "Simulated" / "tomograms" / old,
                Path("T", new if new.endswith(".mrc") else f"{new}.mrc"),
            )
    text = project.coordinates.read_bytes()
    cell = quote(odd)
    for spelling in (b"tomograms/TS_01.mrc", b"Simulated/tomograms/TS_01.mrc", b"TS_01.mrc"):
        if spelling in text:
            text = text.replace(spelling, cell)
            break
    Path("x.star").write_bytes(text)
    more = rng.choice([(), ("--skip-missing",)])
    return Case(
        argv=("extract", "x.star", "--tomograms", "T", "--box", 12, "-o", "O", *more), right=_one_box_each
    )


def _one_box_each() -> str:
    from cryoclass.particles import read_particles

    images = read_particles(Path("O/particles.star")).images
    missing = [image for image in images if not Path(str(image)).is_file()]
    return (
        "two particles have one box"
        if len(set(images)) < len(images)
        else f"no {missing[0]}"
        if missing
        else ""
    )


def _odd_class(project: Project, odd: str) -> Case:
    from cryoclass.star.document import quote

    text = project.table.read_bytes().replace(b"Extract/", os.fsencode(f"{project.root}/Extract/"))
    old = next(word for word in text.split() if word in (b"aldolase", b"apoferritin", b"ribosome"))
    Path("x.star").write_bytes(text.replace(old, quote(odd)))
    return Case(argv=("finetune", "x.star", *NETWORK.split(), "-o", "O"))


def option(project: Project, rng: random.Random) -> Case:
    from cryoclass.cli import app
    from cryoclass.cli.external import _options

    command, base = rng.choice(
        [
            (
                "extract",
                (
                    project.coordinates,
                    "--tomograms",
                    project / "Simulated" / "tomograms",
                    "--box",
                    12,
                    "-o",
                    "O",
                ),
            ),
            ("embed", embed(project, "--onnx", project / "model.onnx")[1:]),
            ("finetune", (project.table, *NETWORK.split(), "-o", "O")),
            ("predict", (project.table, "--onnx", project / "model.onnx", "-o", "O")),
            ("doctor", (project.table,)),
            ("export", (project / "Finetune", "-o", "O.onnx")),
        ]
    )
    options = {known: it for known, it in _options(app, command).items() if known not in ("--help", "-h")}
    words: list[object] = []
    for _ in range(rng.choice([1, 1, 2])):
        chosen = rng.choice(sorted(options))
        values = [
            rng.choice([*ODD, "1", "2", "8", "0.5", "auto", "cuda:99", "/dev/zero", "x", "1e-300", "yes"])
        ]
        count = (
            0 if getattr(options[chosen], "is_flag", False) else max(1, getattr(options[chosen], "nargs", 1))
        )
        words += [chosen, *values * count]
    if {"-n", "--epochs"} & set(words):
        words += ["--epochs", "1"]
    return Case(argv=(command, *base, *words))


def embed(project: Project, *words: object, table: object = None, outdir: object = "O") -> Sequence[object]:
    return ("embed", table or project.table, "--map", "pca", "--device", "cpu", *words, "-o", outdir)


KINDS = {kind.__name__: kind for kind in (card, weights, checkpoint, onnx, volume, table, name, option)}


# ------------------------------------------------------------------------------------------ running cases


def run_case(kind: str, number: int, seed: int, project: Project, folder: Path) -> dict[str, str]:
    """Run one case in a folder of its own; return what came out, and what is to be said of it."""
    folder.mkdir()
    with contextlib.chdir(folder):
        case = KINDS[kind](project, random.Random(f"{seed}/{kind}/{number}"))
        before = set(_files(folder))
        said = io.StringIO()
        outcome, detail = _type(case, said)
        faults = list(_halves(folder, before, failed=outcome != "0"))
        if outcome == "0" and (problem := case.right()):
            outcome, detail = "wrong", problem
        elif outcome != "traceback" and faults:
            outcome, detail = "half", ", ".join(faults)[:300]
    words = " ".join(repr(str(word))[:120] for word in case.argv)
    return {"outcome": outcome, "detail": detail, "command": words}


def _type(case: Case, said: io.StringIO) -> tuple[str, str]:
    from cryoclass.cli import main

    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = main([str(word) for word in case.argv])
    except BaseException:  # noqa: BLE001 - whatever comes through is the fault that is looked for
        return "traceback", traceback.format_exc(limit=-4)
    text = said.getvalue()
    if status and "error" not in text:
        return "traceback", f"status {status} without words: {text[-300:]}"
    return ("0", "") if not status else ("words", "")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _halves(folder: Path, before: set[Path], *, failed: bool) -> Iterator[str]:
    new = set(_files(folder)) - before
    incomplete = any(
        "incomplete" in path.name for path in new
    )  # all that could be read is kept, and called so
    for path in sorted(new):
        name = str(path.relative_to(folder))
        temporary = any(
            part.startswith(".cryoclass") and part.endswith(("lock", "breaking")) for part in path.parts
        )
        if temporary or path.name.startswith(".cryoclass-"):
            yield f"{name} is left"
        elif failed and not incomplete and not any(mark in name for mark in KEPT):
            yield f"{name} is there after a failure"


def batch(cases: Sequence[str], seed: int, project: Project, work: Path) -> None:
    """Run cases in this process; say of each, as a line of JSON, that it begins and how it ended."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    for case in cases:
        kind, number = case.split(":")
        print(json.dumps({"begins": case}), file=out, flush=True)
        folder = work / f"{kind}_{number}"
        found = run_case(kind, int(number), seed, project, folder)
        print(json.dumps({"case": case, **found}), file=out, flush=True)
        shutil.rmtree(folder, ignore_errors=True)


def watched(cases: Sequence[str], seed: int, project: Project, work: Path) -> Iterator[dict[str, str]]:
    """Run cases in processes of their own, and yield what came out; one that waits or dies costs its process."""
    left = list(cases)
    while left:
        command = [sys.executable, __file__, "--batch", ",".join(left[:BATCH]), "--seed", str(seed)]
        places = ["--project", str(project.root), "--work", str(work)]
        with subprocess.Popen(
            [*command, *places], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as child:
            for found in _listen(child, left[0]):
                left.remove(found["case"])
                yield found


def _listen(child: "subprocess.Popen[bytes]", first: str) -> Iterator[dict[str, str]]:
    """Yield what a process says of its cases; the one that it was at when it waited or died is named so."""
    stream = child.stdout.fileno() if child.stdout else 0
    current, ended, waited = first, False, b""
    while True:
        ready, _, _ = select.select([stream], [], [], 2 * PATIENCE if current == first else PATIENCE)
        chunk = os.read(stream, 1 << 16) if ready else b""
        *lines, waited = (waited + chunk).split(b"\n")
        for line in map(json.loads, lines):
            current, ended = line.get("begins", current), "case" in line
            if ended:
                yield line
        if not chunk:
            break
    if not ready:
        child.kill()
    status = child.wait()
    if not ended:
        yield {
            "case": current,
            "outcome": "crash" if ready else "hang",
            "detail": f"status {status}",
            "command": "",
        }


# ----------------------------------------------------------------------------------------------- the table

FAULTS = ("traceback", "hang", "crash", "half", "wrong")
COLUMNS = ("0", "words", *FAULTS)


def main(asked: argparse.Namespace) -> int:
    kinds = asked.kinds.split(",") if asked.kinds else list(KINDS)
    cases = (
        [asked.case]
        if asked.case
        else [f"{kinds[n % len(kinds)]}:{n // len(kinds)}" for n in range(asked.cases)]
    )
    start = time.monotonic()
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz") as scratch:
        project = Project(root=Path(asked.keep or scratch) / "project")
        if not project.root.exists():
            project.root.mkdir(parents=True)
            make_project(project.root, kinds)
        work = Path(scratch) / "work"
        work.mkdir()
        for found in watched(cases, asked.seed, project, work):
            counts[found["case"].split(":")[0], found["outcome"]] += 1
            if found["outcome"] in FAULTS or asked.case:
                print(
                    f"{found['outcome']}: {found['case']}: {found['command']}\n    {found['detail']}",
                    flush=True,
                )
    print_table(kinds, counts)
    print(f"{len(cases)} cases, seed {asked.seed}, {time.monotonic() - start:.0f} s")
    return int(any(outcome in FAULTS for _, outcome in counts))


def print_table(kinds: Sequence[str], counts: "Counter[tuple[str, str]]") -> None:
    print(
        " ".join([f"{'kind':11}", f"{'cases':>6}", *(f"{'exit 0' if c == '0' else c:>9}" for c in COLUMNS)])
    )
    for kind in kinds:
        numbers = [counts[kind, column] for column in COLUMNS]
        print(" ".join([f"{kind:11}", f"{sum(numbers):6}", *(f"{number:9}" for number in numbers)]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="", help=f"of {','.join(KINDS)}; all where left out")
    parser.add_argument("--case", default="", help="one case again, such as card:17")
    parser.add_argument(
        "--keep", default="", help="folder for the sound project, used again where it is there"
    )
    for inner in ("--batch", "--project", "--work"):
        parser.add_argument(inner, default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    if given.batch:
        batch(given.batch.split(","), given.seed, Project(root=Path(given.project)), Path(given.work))
    else:
        sys.exit(main(given))

"""Every mistake that these commands can meet, as a user makes it: what is said, how it ends, and that nothing is left."""

import bz2
import csv
import gzip
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import onnx
import pytest
import torch
from cli_helpers import NETWORK, Project, table

from cryoclass.claims import claim
from cryoclass.files import TEMPORARY
from cryoclass.records import RECORD, Writes
from cryoclass.volumes.mrc import write_volume

pytestmark = pytest.mark.usefixtures("here")

BOX = 16
ANGPIX = 20.0
TRAIN = " ".join([*NETWORK, "--epochs", "1"])


# -------------------------------------------------------------------------------------- making mistakes


def voxels(seed: int, side: int = BOX) -> np.ndarray:
    """Whole numbers, so that every number type holds them exactly."""
    return np.random.default_rng(seed).integers(-90, 90, (side,) * 3).astype(np.float32)


def boxes(count: int, angpix: float = ANGPIX, side: int = BOX) -> list[str]:
    """Write good subtomograms into the current folder."""
    names = [f"box_{number:02d}.mrc" for number in range(count)]
    for number, name in enumerate(names):
        write_volume(Path(name), voxels(number, side), angpix)
    return names


def star(columns: Mapping[str, Sequence[object]], path: str = "bad.star", optics: str = "") -> None:
    """Write a table of one loop, after the lines ``optics``."""
    labels = "".join(f"_{name} #{number}\n" for number, name in enumerate(columns, 1))
    rows = "".join(" ".join(map(str, cells)) + "\n" for cells in zip(*columns.values(), strict=True))
    Path(path).write_text(f"{optics}\ndata_{'particles' if optics else ''}\n\nloop_\n{labels}{rows}\n")


def optics(dimensions: int = 3, angpix: float = ANGPIX) -> str:
    labels = ["rlnOpticsGroup", "rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality"]
    loop = "".join(f"_{name} #{number}\n" for number, name in enumerate(labels, 1))
    return f"\n# version 30001\n\ndata_optics\n\nloop_\n{loop}1 {angpix} {BOX} {dimensions}\n"


def images(*, count: int = 6, labels: Sequence[str] = ("a", "b"), **more: Sequence[object]) -> None:
    """Write ``bad.star`` with good boxes and labels in turn; ``more`` adds or replaces columns."""
    columns: dict[str, Sequence[object]] = {
        "rlnImageName": boxes(count),
        "rlnPixelSize": [ANGPIX] * count,
        "cryoclassLabel": [labels[number % len(labels)] for number in range(count)],
    }
    star({name: cells for name, cells in {**columns, **more}.items() if len(cells)})


def picks(
    positions: Sequence[tuple[object, object, object]], tomogram: str = "TS_01.mrc", **more: str
) -> None:
    """Write ``bad.star`` with coordinates in a tomogram."""
    names = {"rlnMicrographName": [tomogram] * len(positions)}
    xyz = {f"rlnCoordinate{axis}": [p[i] for p in positions] for i, axis in enumerate("XYZ")}
    star({**names, **xyz, **{name: [cell] * len(positions) for name, cell in more.items()}})


def tomogram(name: str = "TS_01.mrc", angpix: float = ANGPIX, data: np.ndarray | None = None) -> None:
    Path("T").mkdir(exist_ok=True)
    data = np.random.default_rng(1).normal(size=(24, 40, 40)) if data is None else data
    write_volume(Path("T", name), data, angpix)


def cut_off(path: str | Path, keep: float = 0.5) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(keep * len(content))])


def copy_model(project: Project) -> Path:
    Path("M").mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(project.model / name, "M")
    return Path("M")


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A command line that cannot work, and what the user is told.

    ``argv`` may name things of the project in braces; ``make`` writes the bad files into the current folder; ``left``
    are the only files that may be new afterwards.
    """

    argv: str
    says: Sequence[str]
    make: Callable[[Project], object] = lambda _project: None
    status: int = 1
    left: frozenset[str] = frozenset()


WRITERS = ("extract", "finetune", "predict", "embed")
ALL = ("--max-unreadable", 1)


def files() -> set[str]:
    """Return all files below the current folder; links to the project are not followed."""
    return {str(Path(where, name)) for where, _, names in os.walk(".") for name in names if name != RECORD}


def belongs_to(command: str, folder: str = "Out") -> None:
    """Let a folder hold an interrupted run of a command, as far as that command can tell."""
    Path(folder).mkdir()
    with claim(
        Path(folder), Writes(command=command, last="x", kept=("checkpoint*.pt",)), overwrite=False
    ) as place:
        place.begin()
        (place.folder / "checkpoint.pt").touch()


def assert_fails(cryoclass: Callable, project: Project, mistake: Mistake) -> str:
    """Run it and hold what is the same for every mistake; return what was said."""
    mistake.make(project)
    before = files()
    things = {
        name: getattr(project, name) for name in ("coordinates", "tomograms", "particles", "model", "onnx")
    }
    argv = mistake.argv.format(train=TRAIN, **things).split()
    if argv[0] in WRITERS and "-o" not in argv:
        argv += ["-o", "Out"]
    ran = cryoclass(*argv)
    assert ran.status == mistake.status, ran.err
    errors = [line for line in ran.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, ran.err
    last = ran.err.splitlines()[-1]
    assert last.startswith(("error:", "hint:")), "the message comes last"
    for words in mistake.says:
        assert words in ran.err
    assert "Traceback" not in ran.err
    assert files() - before == mistake.left
    return ran.err


# ----------------------------------------------------------------------------------------- STAR files

MODEL_READERS = ("predict {star} --model {{model}}", "embed {star} --model {{model}} --map pca")
READERS = ("extract {star} --tomograms {{tomograms}} --box 16", "finetune {star} {{train}}", *MODEL_READERS)

STAR_MISTAKES = {
    "no such file": Mistake(argv="nothere.star", says=["nothere.star: no such file", "hint:"]),
    "no such folder": Mistake(
        argv="no/such.star", says=["no/such.star: no such file", "folder no does not exist"]
    ),
    "misspelt": Mistake(
        argv="partcles.star",
        make=lambda _: Path("particles.star").write_text("data_"),
        says=["partcles.star: no such file", "Did you mean particles.star?"],
    ),
    "a folder": Mistake(
        argv="F", make=lambda _: Path("F").mkdir(), says=["F cannot be read: it is a folder"]
    ),
    "empty": Mistake(
        argv="bad.star",
        make=lambda _: Path("bad.star").touch(),
        says=["bad.star is not a STAR file: it is empty", "hint:"],
    ),
    "other text": Mistake(
        argv="bad.star",
        make=lambda _: Path("bad.star").write_text("hello\nworld\n"),
        says=["bad.star is not a STAR file: no line starts with data_"],
    ),
    "a volume": Mistake(
        argv="box_00.mrc",
        make=lambda _: boxes(1),
        says=["box_00.mrc is not a STAR file: it is an MRC volume"],
    ),
    "a job": Mistake(
        argv="job.star",
        make=lambda _: Path("job.star").write_text("data_job\n\n_rlnJobType 99\n"),
        says=["job.star holds no particles: it is a RELION job", "rlnImageName"],
    ),
    "no rows": Mistake(
        argv="bad.star",
        make=lambda _: star({"rlnImageName": []}),
        says=["bad.star has no particles: its table is empty", "at least one row"],
    ),
    "a short row": Mistake(
        argv="bad.star",
        make=lambda _: Path("bad.star").write_text(
            "data_\n\nloop_\n_rlnImageName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n_rlnCoordinateZ #4\n"
            "_rlnMicrographName #5\n_cryoclassLabel #6\nx.mrc 1 2 3 TS_01.mrc a\ny.mrc 1 2 TS_01.mrc b\n"
        ),
        says=["bad.star, line 11: 5 values for 6 columns", "Mend that line"],
    ),
}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.split()[0])
@pytest.mark.parametrize("name", STAR_MISTAKES)
def test_no_command_takes_a_bad_star_file(cryoclass, trained, name, reader):
    mistake = STAR_MISTAKES[name]
    argv = reader.format(star=mistake.argv)
    assert_fails(cryoclass, trained, Mistake(argv=argv, says=mistake.says, make=mistake.make))


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.split()[0])
def test_no_star_file_at_all(cryoclass, trained, reader):
    says = ["no STAR file given, and there is no particles.star here", "hint:"]
    assert_fails(cryoclass, trained, Mistake(argv=reader.format(star=""), says=says, status=2))


def with_crlf(star: Path, to: str) -> None:
    Path(to).write_bytes(star.read_bytes().replace(b"\n", b"\r\n"))


def test_windows_line_ends_are_taken_and_mended(cryoclass, trained):
    """RELION refuses them, so what is written has none."""
    with_crlf(trained.coordinates, "coords.star")
    with_crlf(trained.particles, "windows.star")
    shutil.copy(trained.particles, "unix.star")  # beside it, so that both lead to the same files
    cut = ("--tomograms", trained.tomograms, "--box", 16)
    assert cryoclass("extract", "coords.star", *cut, "-o", "X").status == 0
    for path, out in (("unix.star", "P"), ("windows.star", "Q")):
        assert cryoclass("predict", path, "--model", trained.model, "-o", out).status == 0
    for path in ("X/particles.star", "Q/particles.star"):
        assert b"\r" not in Path(path).read_bytes()
    assert Path("Q/particles.star").read_bytes() == Path("P/particles.star").read_bytes()
    assert cryoclass("finetune", "windows.star", *TRAIN.split(), "-o", "F").status == 0


# ------------------------------------------------------------------------------------------ one by one

MISTAKES = {
    # columns and cells
    "a missing coordinate": Mistake(
        argv="extract bad.star --tomograms T --box 8",
        make=lambda _: (
            tomogram(),
            star({"rlnMicrographName": ["TS_01.mrc"], "rlnCoordinateX": [1], "rlnCoordinateY": [1]}),
        ),
        says=["bad.star", "no column rlnCoordinateZ", "hint:"],
    ),
    "a misspelt column": Mistake(
        argv="extract bad.star --tomograms T --box 8",
        make=lambda _: (
            tomogram(),
            star(
                {
                    "rlnMicrographName": ["a"],
                    "rlnCoordinateX": [1],
                    "rlnCoordinateY": [1],
                    "rlnCordinateZ": [1],
                }
            ),
        ),
        says=["no column rlnCoordinateZ", "Did you mean rlnCordinateZ?"],
    ),
    "no coordinates": Mistake(
        argv="extract bad.star --tomograms T --box 8",
        make=lambda _: (tomogram(), images()),
        says=["bad.star has no coordinates (rlnCoordinateX/Y/Z"],
    ),
    "a coordinate in words": Mistake(
        argv="extract bad.star --tomograms T --box 8",
        make=lambda _: (tomogram(), picks([(1, 2, 3), (1, "two", 3)])),
        says=["bad.star, line 10, column rlnCoordinateY: 'two' is not a finite number", "Mend that line"],
    ),
    "a coordinate that is no number": Mistake(
        argv="extract bad.star --tomograms T --box 8",
        make=lambda _: (tomogram(), picks([("nan", 2, 3)])),
        says=["line 9, column rlnCoordinateX: 'nan' is not a finite number"],
    ),
    "an optics group that is not there": Mistake(
        argv="predict bad.star --model {model}",
        make=lambda _: star({"rlnImageName": boxes(1), "rlnOpticsGroup": [7]}, optics=optics()),
        says=["bad.star, line 18: optics group 7 is not in data_optics, which has 1"],
    ),
    "no images": Mistake(
        argv="predict bad.star --model {model}",
        make=lambda _: picks([(1, 2, 3)]),
        says=["bad.star names no images (no column rlnImageName)", "--tomograms", "cryoclass extract"],
    ),
    # labels
    "no labels": Mistake(
        argv="finetune bad.star {train}",
        make=lambda _: images(cryoclassLabel=[]),
        says=[
            "bad.star has no labels: no column cryoclassLabel or rlnClassNumber",
            "--label-column",
            "ribosome=a.star",
        ],
    ),
    "a misspelt label column": Mistake(
        argv="finetune bad.star {train} --label-column cryoclasslabl",
        make=lambda _: images(),
        says=["no column cryoclasslabl", "Did you mean cryoclassLabel?"],
    ),
    "a misspelt label column to predict": Mistake(
        argv="predict bad.star --model {model} --label-column cryoclasslabl",
        make=lambda _: images(),
        says=["no column cryoclasslabl", "Did you mean cryoclassLabel?"],
    ),
    "nobody labelled": Mistake(
        argv="finetune bad.star {train}",
        make=lambda _: images(labels=["unlabelled"]),
        says=["bad.star: no particle has a label in column cryoclassLabel", "hint:"],
    ),
    "one class": Mistake(
        argv="finetune bad.star {train}",
        make=lambda _: images(labels=["a"]),
        says=[
            "All 6 labelled particles are of class 'a'; training needs at least two classes",
            "Add particles",
        ],
    ),
    "a class too small": Mistake(
        argv="finetune bad.star {train}",
        make=lambda _: images(labels=["a", "b", "a"]),
        says=["Class 'b' has 2 labelled particles; each class needs at least 3", "--test-fraction 0"],
    ),
    "too few tomograms to keep whole": Mistake(
        argv="finetune bad.star {train} --split tomogram",
        make=lambda _: images(count=8, rlnMicrographName=["TS_01.mrc"] * 8),
        says=["the labelled particles lie in 1 tomogram", "--split particle"],
    ),
    "two plain files": Mistake(
        argv="finetune {particles} {particles} {train}",
        says=["2 STAR files given; it must be one, or one per class", "ribosome=a.star"],
        status=2,
    ),
    "a class without a name": Mistake(
        argv="finetune a={particles} {particles} {train}",
        says=["particles.star has no class name, but others have", "Write it as name="],
        status=2,
    ),
    "the file of a class is missing": Mistake(
        argv="finetune a={particles} b=nothere.star {train}", says=["nothere.star: no such file"]
    ),
    "classes of different boxes": Mistake(
        argv="finetune a={particles} b=bad.star {train}",
        make=lambda _: star({"rlnImageName": boxes(6, side=12), "rlnPixelSize": [ANGPIX] * 6}),
        says=["16 pixels of 20 A, and 12 pixels of 20 A", "the same --box"],
    ),
    "nothing left to train on": Mistake(
        argv="finetune {particles} {train} --val-fraction 0.5 --test-fraction 0.5",
        says=["--val-fraction 0.5 and --test-fraction 0.5 leave nothing to train on"],
        status=2,
    ),
    # images
    "2D stacks": Mistake(
        argv="finetune bad.star {train}",
        make=lambda _: star(
            {
                "rlnImageName": [f"{n}@a.mrcs" for n in range(1, 7)],
                "rlnOpticsGroup": [1] * 6,
                "cryoclassLabel": ["a", "b"] * 3,
            },
            optics=optics(dimensions=2),
        ),
        says=["its images are 2D stacks", "Extract again with 3D volumes", "cryoclass extract"],
    ),
    "2D stacks of RELION 5": Mistake(
        argv="predict bad.star --model {model}",
        make=lambda _: star(
            {"rlnTomoName": ["TS_01"], "rlnImageName": ["TS_01/1_stack2d.mrcs"]},
            optics="\n# version 50001\n\ndata_general\n\n_rlnTomoSubTomosAre2DStacks 1\n",
        ),
        says=["its images are 2D stacks", "'Write output as 2D stacks? No'", "WarpTools: --3d"],
    ),
    "sections of a stack": Mistake(
        argv="embed bad.star --model {model}",
        make=lambda _: star({"rlnImageName": [f"1@{boxes(1)[0]}"], "rlnPixelSize": [ANGPIX]}),
        says=["1@box_00.mrc is one section of a volume, no box", "Extract again with 3D volumes"],
    ),
    "no image is there": Mistake(
        argv="predict bad.star --model {model}",
        make=lambda _: star({"rlnImageName": ["gone/1.mrc", "gone/2.mrc"], "rlnPixelSize": [ANGPIX] * 2}),
        says=["none of its 2 images can be read; the first: gone/1.mrc: no such volume", "hint:"],
    ),
    "every image is damaged": Mistake(
        argv="finetune bad.star {train}",
        make=lambda _: (images(), [cut_off(path) for path in Path().glob("box_*.mrc")]),
        says=["none of its 6 images can be read; the first:", "box_00.mrc is truncated", "hint:"],
    ),
    "every image is constant": Mistake(
        argv="predict bad.star --model {model}",
        make=lambda _: (
            images(),
            [write_volume(p, np.ones((16,) * 3), 20) for p in Path().glob("box_*.mrc")],
        ),
        says=["none of 6 particles can be read; the first: box_00.mrc is constant: every voxel is 1"],
    ),
    "every image is constant, embedded": Mistake(
        argv="embed bad.star --model {model}",
        make=lambda _: (
            images(),
            [write_volume(p, np.ones((16,) * 3), 20) for p in Path().glob("box_*.mrc")],
        ),
        says=["none of 6 particles can be read; the first: box_00.mrc is constant: every voxel is 1"],
    ),
    "a class whose images are all bad": Mistake(
        argv="finetune bad.star {train} --test-fraction 0 --max-unreadable 1",
        make=lambda _: (images(count=8), [cut_off(path) for path in sorted(Path().glob("*.mrc"))[1::2]]),
        says=["No readable particle is left for b", "4 could not be read", "truncated"],
    ),
    "boxes that are no cubes": Mistake(
        argv="predict bad.star --model {model}",
        make=lambda _: (
            images(),
            [write_volume(p, np.ones((8, 16, 16)), 20) for p in Path().glob("box_*.mrc")],
        ),
        says=["box_00.mrc is 16 x 16 x 8 voxels; a subtomogram is a cube"],
    ),
    # pixel size
    "pixel size nowhere": Mistake(
        argv="predict bad.star --model {model}",
        make=lambda _: star({"rlnImageName": boxes(2, angpix=1.0)}),
        says=["bad.star: the pixel size stands neither in the STAR file nor in the volumes", "--angpix"],
    ),
    "pixel size zero": Mistake(
        argv="predict bad.star --model {model}",
        make=lambda _: star({"rlnImageName": boxes(2, angpix=1.0), "rlnPixelSize": [0, 0]}),
        says=["bad.star: the pixel size stands neither in the STAR file nor in the volumes", "--angpix"],
    ),
    "pixel sizes mixed": Mistake(
        argv="finetune bad.star {train}",
        make=lambda _: images(rlnPixelSize=[20, 20, 20, 20, 20, 10]),
        says=["its images have pixel sizes from 10 to 20 A", "one --angpix"],
    ),
    "pixel size unlike the headers'": Mistake(
        argv="predict bad.star --model {model}",
        make=lambda _: star({"rlnImageName": boxes(2, angpix=20.0), "rlnPixelSize": [10, 10]}),
        says=["bad.star says 10 A per pixel, but its volumes' headers 20 A", "--angpix"],
    ),
    "pixel size unlike the model's": Mistake(
        argv="predict bad.star --model {model}",
        make=lambda _: star({"rlnImageName": boxes(2, angpix=10.0), "rlnPixelSize": [10, 10]}),
        says=["16 pixels of 10 A, but the model learnt from 16 pixels of 20 A", "--rescale", "--angpix"],
    ),
    "pixel size unlike the ONNX model's": Mistake(
        argv="embed bad.star --onnx {onnx}",
        make=lambda _: star({"rlnImageName": boxes(2, angpix=10.0), "rlnPixelSize": [10, 10]}),
        says=["16 pixels of 10 A, but the model learnt from 16 pixels of 20 A", "--rescale", "--angpix"],
    ),
    "contrast unlike the model's": Mistake(
        argv="predict bad.star --model M",
        make=lambda project: (bright_model(project), dark_balls()),
        says=[
            "these particles are dark, but the model learnt from bright ones",
            "--invert yes",
            "--invert no",
        ],
    ),
    # tomograms
    "no such tomogram folder": Mistake(
        argv="extract {coordinates} --tomograms nowhere --box 16",
        says=["--tomograms nowhere: no such file or folder", "hint:"],
        status=2,
    ),
    "an empty tomogram folder": Mistake(
        argv="extract {coordinates} --tomograms T --box 16",
        make=lambda _: Path("T").mkdir(),
        says=["T holds no tomogram (.mrc", "hint:"],
        status=2,
    ),
    "no tomogram fits": Mistake(
        argv="extract bad.star --tomograms T --box 16",
        make=lambda _: (tomogram("TS_010.mrc"), tomogram("other.mrc"), picks([(9, 9, 9)], "TS_01.mrc")),
        says=["1 of 1 tomograms have no volume in T, the first is TS_01.mrc", "nearest file is TS_010.mrc"],
    ),
    "one tomogram is missing": Mistake(
        argv="predict bad.star --tomograms T --model {model}",
        make=lambda _: (
            tomogram(),
            tomogram("TS_03.mrc"),
            star(
                {
                    "rlnMicrographName": ["TS_01.mrc", "TS_02.mrc"],
                    **{f"rlnCoordinate{axis}": [12.5, 12] for axis in "XYZ"},
                }
            ),
        ),
        says=["1 of 2 tomograms have no volume in T, the first is TS_02.mrc", "--skip-missing"],
    ),
    "paths that lead nowhere": Mistake(
        argv="extract bad.star --box 16",
        make=lambda _: picks([(9, 9, 9)]),
        says=["1 of 1 tomograms have no volume, the first is TS_01.mrc", "Give --tomograms"],
    ),
    "a truncated tomogram": Mistake(
        argv="extract bad.star --tomograms T --box 16",
        make=lambda _: (tomogram(), cut_off("T/TS_01.mrc"), picks([(9, 9, 9)])),
        says=["T/TS_01.mrc is truncated", "bytes", "hint:"],
    ),
    "a tomogram that is text": Mistake(
        argv="extract bad.star --tomograms T --box 16",
        make=lambda _: (Path("T").mkdir(), Path("T/TS_01.mrc").write_text("no" * 999), picks([(9, 9, 9)])),
        says=["T/TS_01.mrc is not an MRC volume", "hint:"],
    ),
    "a git-lfs pointer": Mistake(
        argv="extract bad.star --tomograms T --box 16",
        make=lambda _: (Path("T").mkdir(), Path("T/TS_01.mrc").write_text("version 1"), picks([(9, 9, 9)])),
        says=["T/TS_01.mrc has only 9 bytes", "git-lfs"],
    ),
    "a tomogram of unknown pixel size": Mistake(
        argv="extract bad.star --tomograms T --box 16",
        make=lambda _: (tomogram(angpix=1.0), picks([(9, 9, 9)])),
        says=["T/TS_01.mrc does not say its pixel size", "--tomogram-angpix"],
    ),
    "tomograms of different pixel sizes": Mistake(
        argv="extract bad.star --tomograms T --box 16",
        make=lambda _: (
            tomogram(),
            tomogram("TS_02.mrc", angpix=10),
            star(
                {
                    "rlnMicrographName": ["TS_01.mrc", "TS_02.mrc"],
                    **{f"rlnCoordinate{axis}": [12.5, 12] for axis in "XYZ"},
                }
            ),
        ),
        says=["different pixel sizes: TS_02.mrc 10 A, TS_01.mrc 20 A", "Give --angpix"],
    ),
    "every coordinate outside": Mistake(
        argv="extract bad.star --tomograms T --box 16",
        make=lambda _: (tomogram(), picks([(500, 9, 9), (9, -80, 9)])),
        says=[
            "2 of 2 boxes would lie outside their tomograms",
            "pixels of the tomogram, from its first voxel",
            "--coords-angpix",
        ],
    ),
    "nothing in the tomogram": Mistake(
        argv="extract bad.star --tomograms T --box 16 -o Out",
        make=lambda _: (tomogram(data=np.full((24, 40, 40), 7)), picks([(20, 20, 12), (9, 9, 9)])),
        says=["none of 2 particles can be read; the first: the box is constant: every voxel is 7"],
        left=frozenset({"Out/skipped.csv"}),
    ),
    "tomograms without a box": Mistake(
        argv="finetune {coordinates} --tomograms {tomograms} {train}",
        says=["--tomograms needs --box", "Add --box"],
        status=2,
    ),
    # options
    "no box": Mistake(argv="extract {coordinates}", says=["Missing option '--box'", "extract -h"], status=2),
    "an odd box": Mistake(
        argv="extract {coordinates} --box 15", says=["--box is 15", "even", "Use --box 16"], status=2
    ),
    "a box in words": Mistake(
        argv="extract {coordinates} --box big", says=["'--box'", "'big' is no whole number"], status=2
    ),
    "a radius beyond the box": Mistake(
        argv="extract {coordinates} --box 16 --bg-radius 9",
        says=["--bg-radius is 9 pixels; it must be at most half the box of 16", "--bg-radius 6"],
        status=2,
    ),
    "a pixel size of zero": Mistake(
        argv="extract {coordinates} --box 16 --angpix 0",
        says=["--angpix is 0", "must be at least 0.01"],
        status=2,
    ),
    "an option that is not there": Mistake(
        argv="extract {coordinates} --bocks 16", says=["No such option: --bocks", "extract -h"], status=2
    ),
    "a command that is not there": Mistake(
        argv="clasify", says=["No such command 'clasify'", "-h"], status=2
    ),
    "the folder is a file": Mistake(
        argv="predict {particles} --model {model} -o Out",
        make=lambda _: Path("Out").touch(),
        says=["--outdir Out is a file", "Name a folder"],
        status=2,
    ),
    "a folder below a file": Mistake(
        argv="simulate -o file/Out --species 1 --per-species 1 --tomograms 1 --size 16 32 32 --box 16 --angpix 20",
        make=lambda _: Path("file").touch(),
        says=["file/Out", "cannot be written: Not a directory", "hint:"],
    ),
    "a device that is not there": Mistake(
        argv="predict {particles} --model {model} --device gpu", says=["--device is 'gpu'", "cuda"], status=2
    ),
    "a device that is not there, ONNX": Mistake(
        argv="predict {particles} --onnx {onnx} --device gpu", says=["--device is 'gpu'", "cuda"], status=2
    ),
    "an impossible share": Mistake(
        argv="predict {particles} --model {model} --min-probability 2", says=["--min-probability"], status=2
    ),
    "a map that is not installed": Mistake(
        argv="embed {particles} --model {model} --map umap",
        says=["--map umap needs the package umap-learn"],
        status=2,
    ),
    "a misspelt label column to embed": Mistake(
        argv="embed {particles} --model {model} --label-column cryoclasslabl",
        says=["no column cryoclasslabl", "Did you mean cryoclassLabel?"],
    ),
    "more clusters than particles": Mistake(
        argv="embed {particles} --model {model} --clusters 99 -o Out",
        says=["--clusters is 99", "36"],
        status=2,
    ),
    "likeness to a row that is not there": Mistake(
        argv="embed {particles} --like 2 --like 37",
        says=["--like is 37; the table has 36 particles, counted from 1"],
        status=2,
    ),
    "likeness to row 0": Mistake(
        argv="embed {particles} --like 0", says=["--like is 0; it must be at least 1"], status=2
    ),
    "likeness to a row that cannot be read": Mistake(
        argv="embed bad.star --map pca --device cpu --like 1 --like 3",
        make=lambda _: (images(), Path("box_02.mrc").unlink()),
        says=["--like 3: that particle cannot be read"],
        status=2,
    ),
    "likeness to a row and to a table": Mistake(
        argv="embed {particles} --like 1 --query {particles}",
        says=["give one of --query and --like"],
        status=2,
    ),
    "likeness to a table that is not there": Mistake(
        argv="embed {particles} --query nothere.star", says=["nothere.star: no such file", "hint:"]
    ),
    "likeness to particles that are not there": Mistake(
        argv="embed {particles} --device cpu --query bad.star",
        make=lambda _: star({"rlnImageName": ["gone/1.mrc"], "rlnPixelSize": [ANGPIX]}),
        says=["bad.star: none of its 1 images can be read; the first: gone/1.mrc: no such volume"],
    ),
    "likeness to particles of which none can be read": Mistake(
        argv="embed {particles} --device cpu --query bad.star",
        make=lambda _: (
            images(),
            [write_volume(p, np.ones((16,) * 3), 20) for p in Path().glob("box_*.mrc")],
        ),
        says=["none of 6 particles can be read; the first: box_00.mrc is constant"],
    ),
    # simulate
    "too many species": Mistake(
        argv="simulate -o Out --species 99",
        says=["--species is 99, but there are only 12", "hint:"],
        status=2,
    ),
    "no noise at all": Mistake(
        argv="simulate -o Out --snr 0", says=["--snr is 0", "must be above 0"], status=2
    ),
    "too few particles": Mistake(
        argv="simulate -o Out --species 1 --per-species 2 --tomograms 3",
        says=["--tomograms is 3, but there are only 2 particles", "--tomograms 2"],
        status=2,
    ),
    "a tomogram smaller than a box": Mistake(
        argv="simulate -o Out --size 16 64 64 --box 32", says=["--size is 16 x 64 x 64", "--box 32"], status=2
    ),
    "a range the wrong way round": Mistake(
        argv="simulate -o Out --defocus 5 2.5", says=["--defocus is 5 2.5", "Use --defocus 2.5 5"], status=2
    ),
    "a seed beyond all generators": Mistake(
        argv="simulate -o Out --seed 4294967296", says=["--seed is 4294967296; it must be at most"], status=2
    ),
    "an embedding with such a seed": Mistake(
        argv="embed {particles} --model {model} --seed 4294967296",
        says=["--seed is 4294967296", "4294967295"],
        status=2,
    ),
    "an endless pixel size": Mistake(
        argv="extract {coordinates} --box 16 --tomogram-angpix inf",
        says=["'--tomogram-angpix': 'inf' is no number"],
        status=2,
    ),
    "no folder of maps": Mistake(
        argv="simulate -o Out --maps nowhere", says=["nowhere: no such folder", "--maps"], status=2
    ),
    "a folder without maps": Mistake(
        argv="simulate -o Out --maps T",
        make=lambda _: Path("T").mkdir(),
        says=["T holds no density map"],
        status=2,
    ),
    "a damaged map": Mistake(
        argv="simulate -o Out --maps T",
        make=lambda _: (tomogram(), cut_off("T/TS_01.mrc")),
        says=["truncated"],
    ),
    "a dialect that is not there": Mistake(
        argv="simulate -o Out --dialect relion9", says=["'relion9' is not one of 'relion30'"], status=2
    ),
    # models
    "no model": Mistake(argv="predict {particles}", says=["one of --model and --onnx", "hint:"], status=2),
    "two models": Mistake(
        argv="predict {particles} --model {model} --onnx {onnx}", says=["one of --model and --onnx"], status=2
    ),
    "two models to embed with": Mistake(
        argv="embed {particles} --model {model} --onnx {onnx}", says=["one of --model"], status=2
    ),
    "a model and a backbone to embed with": Mistake(
        argv="embed {particles} --model {model} --backbone r3d10", says=["one of --model"], status=2
    ),
    "no model folder": Mistake(
        argv="predict {particles} --model nowhere",
        says=["There is no model folder nowhere", "cryoclass finetune"],
    ),
    "an ONNX file for a model folder": Mistake(
        argv="predict {particles} --model {onnx}", says=["is an ONNX file", "--onnx"]
    ),
    "a model folder for an ONNX file": Mistake(
        argv="predict {particles} --onnx {model}", says=["is a folder, no ONNX file", "--model"]
    ),
    "a particle table for a list of tomograms": Mistake(
        argv="extract {coordinates} --tomograms {coordinates} --box 16", says=["is a table of particles"]
    ),
    "a folder without a model": Mistake(
        argv="export {tomograms} -o x.onnx", says=["model.json cannot be read", "cryoclass finetune"]
    ),
    "a card that is no JSON": Mistake(
        argv="predict {particles} --model M",
        make=lambda project: cut_off(copy_model(project) / "model.json"),
        says=["M/model.json is not valid JSON", "hint:"],
    ),
    "a card without its fields": Mistake(
        argv="export M -o x.onnx",
        make=lambda project: (copy_model(project) / "model.json").write_text('{"backbone": "r3d10"}'),
        says=["M/model.json: the field 'preparation' is missing", "hint:"],
    ),
    "weights cut off": Mistake(
        argv="predict {particles} --model M",
        make=lambda project: cut_off(copy_model(project) / "model.safetensors"),
        says=["M/model.safetensors is damaged or altered: its sha256", "Copy the whole model folder again"],
    ),
    "weights missing": Mistake(
        argv="embed {particles} --model M",
        make=lambda project: (copy_model(project) / "model.safetensors").unlink(),
        says=["M/model.safetensors cannot be read: No such file", "hint:"],
    ),
    "weights with one bit flipped": Mistake(
        argv="export M -o x.onnx",
        make=lambda project: flip_bit(copy_model(project) / "model.safetensors"),
        says=["sha256"],
    ),
    "no ONNX file": Mistake(
        argv="predict {particles} --onnx nothere.onnx", says=["no file nothere.onnx", "--onnx"]
    ),
    "an ONNX file cut off": Mistake(
        argv="predict {particles} --onnx bad.onnx",
        make=lambda project: (shutil.copy(project.onnx, "bad.onnx"), cut_off("bad.onnx")),
        says=["bad.onnx is not an ONNX file, or is damaged", "cryoclass export"],
    ),
    "an ONNX file of text": Mistake(
        argv="embed {particles} --onnx bad.onnx",
        make=lambda _: Path("bad.onnx").write_text("hello"),
        says=["bad.onnx is not an ONNX file, or is damaged"],
    ),
    "an ONNX file from elsewhere": Mistake(
        argv="predict {particles} --onnx other.onnx",
        make=lambda _: foreign_onnx("other.onnx"),
        says=[
            "other.onnx is an ONNX file without cryoclass's seal: not made by cryoclass",
            "cryoclass export",
        ],
    ),
    "precision of ONNX": Mistake(
        argv="predict {particles} --onnx {onnx} --precision bf16",
        says=["--precision bf16", "export"],
        status=2,
    ),
    "export to another kind of file": Mistake(
        argv="export {model} -o model.pt", says=["--out model.pt must end in .onnx"], status=2
    ),
    # starting points
    "a backbone that is not there": Mistake(
        argv="finetune {particles} --backbone r3d43",
        says=["no backbone named 'r3d43'", "Did you mean r3d34?"],
        status=2,
    ),
    "a recipe that is not there": Mistake(
        argv="finetune {particles} --backbone r3d10 --recipe fast",
        says=["There is no recipe 'fast'; the recipes are paper, quick, few", "hint:"],
        status=2,
    ),
    "video weights of a backbone that has none": Mistake(
        argv="finetune {particles} {train} --init video",
        says=["r3d10 has no weights from video", "r3d34-k400"],
        status=2,
    ),
    "a start that is not there": Mistake(
        argv="finetune {particles} {train} --init nowhere", says=["--init nowhere is neither auto"], status=2
    ),
    "weights that are not there": Mistake(
        argv="finetune {particles} {train} --weights nothere.pth",
        says=["nothere.pth cannot be read: No such file"],
    ),
    "weights that are no weights": Mistake(
        argv="finetune {particles} {train} --weights {particles}",
        says=["is damaged, or no weight file", "state_dict"],
    ),
    "weights that run code": Mistake(
        argv="embed {particles} --backbone r3d10 --weights evil.pth",
        make=lambda _: torch.save({"conv1.weight": Evil()}, "evil.pth"),
        says=[
            "evil.pth is damaged, or no weight file, or asks to run code, which is refused",
            "tensors only",
        ],
    ),
    "weights of something else": Mistake(
        argv="finetune {particles} {train} --weights other.pth",
        make=lambda _: torch.save({"layer.weight": torch.zeros(3)}, "other.pth"),
        says=["other.pth lacks the tensor conv1.weight", "r3d10"],
    ),
    "a file to import that is not there": Mistake(
        argv="backbones import r3d34-k400 nothere.pth", says=["nothere.pth cannot be read: No such file"]
    ),
    "fetching what was never published": Mistake(
        argv="backbones fetch r3d10", says=["r3d10 has no pretrained weights", "backbones list"], status=2
    ),
    "importing what comes with cryoclass": Mistake(
        argv="backbones import res32-species bad.pth",
        says=["weights of res32-species come with cryoclass", "hint:", "--weights bad.pth"],
        status=2,
    ),
    # going on
    "a damaged checkpoint": Mistake(
        argv="finetune {particles} {train} -o Out --resume",
        make=lambda _: (belongs_to("finetune"), Path("Out/checkpoint.pt").write_bytes(b"PK\3\4 nonsense")),
        says=["Out/checkpoint.pt is damaged", "--overwrite"],
    ),
}


class Evil:
    """Would write a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("hacked"),)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def foreign_onnx(path: str) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    same = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [same])
    onnx.save(
        onnx.helper.make_model(graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 18)]), path
    )


def bright_model(project: Project) -> None:
    card = copy_model(project) / "model.json"
    card.write_text(re.sub(r'"contrast": "\w+"', '"contrast": "bright"', card.read_text()))


def dark_balls() -> None:
    """Write ``bad.star`` with boxes that hold a dark ball each."""
    images()
    distance = np.sqrt(sum(axis**2.0 for axis in np.ogrid[-8:8, -8:8, -8:8]))
    for number, path in enumerate(sorted(Path().glob("box_*.mrc"))):
        write_volume(path, voxels(number) / 90 - 3.0 * (distance < 4), ANGPIX)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_explained(cryoclass, exported, name):
    assert_fails(cryoclass, exported, MISTAKES[name])


def test_a_map_needs_no_labels_and_predict_no_known_ones(cryoclass, trained):
    images(labels=["unlabelled"])
    for command in ("embed bad.star --map pca -o E", "predict bad.star -o P"):
        ran = cryoclass(*command.split(), "--model", trained.model)
        assert ran.status == 0, ran.err
    assert "labelled" not in ran.out


def test_invert_settles_a_contrast_unlike_the_models(cryoclass, trained):
    """The same as when the boxes had been inverted before."""
    bright_model(trained)
    dark_balls()
    for invert in ("yes", "no"):
        ran = cryoclass("predict", "bad.star", "--model", "M", "--invert", invert, "-o", invert)
        assert ran.status == 0, ran.err
    for path in Path().glob("box_*.mrc"):
        write_volume(path, -mrcfile.read(path), ANGPIX)
    assert cryoclass("predict", "bad.star", "--model", "M", "-o", "mended").status == 0
    assert Path("yes/particles.star").read_bytes() == Path("mended/particles.star").read_bytes()
    assert Path("no/particles.star").read_bytes() != Path("mended/particles.star").read_bytes()


def test_rescale_settles_a_pixel_size_unlike_the_models(cryoclass, trained):
    star({"rlnImageName": boxes(3, angpix=10, side=32), "rlnPixelSize": [10] * 3})
    ran = cryoclass("predict", "bad.star", "--model", trained.model, "-o", "A")
    assert ran.status == 1
    assert "32 pixels of 10 A, but the model learnt from 16 pixels of 20 A" in ran.err
    ran = cryoclass("predict", "bad.star", "--model", trained.model, "--rescale", "-o", "B")
    assert ran.status == 0, ran.err
    assert (table(Path("B/particles.star"))["rlnClassNumber"] > 0).all()


def test_a_wrong_pixel_size_can_be_corrected(cryoclass, trained):
    star({"rlnImageName": boxes(3), "rlnPixelSize": [7] * 3})
    ran = cryoclass("predict", "bad.star", "--model", trained.model, "--angpix", 20, "-o", "A")
    assert ran.status == 0, ran.err


# ------------------------------------------------------------------- volumes of all kinds, good and bad


def with_mrcfile(path: str, data: np.ndarray) -> None:
    with mrcfile.new(path, overwrite=True) as volume:
        volume.set_data(data)
        volume.voxel_size = ANGPIX


GOOD = {
    "float32": with_mrcfile,
    "float16": lambda path, data: with_mrcfile(path, data.astype(np.float16)),
    "int8": lambda path, data: with_mrcfile(path, data.astype(np.int8)),
    "int16": lambda path, data: with_mrcfile(path, data.astype(np.int16)),
    "big-endian": lambda path, data: with_mrcfile(path, data.astype(">f4")),
    "gz": lambda path, data: (
        with_mrcfile(path, data),
        Path(path).write_bytes(gzip.compress(Path(path).read_bytes())),
    ),
    "bz2": lambda path, data: (
        with_mrcfile(path, data),
        Path(path).write_bytes(bz2.compress(Path(path).read_bytes())),
    ),
}


def test_every_kind_of_volume_is_read_alike(cryoclass, trained):
    """The same voxels in every number type, byte order and compression: the same probabilities."""
    names = []
    for number, write in enumerate(GOOD.values()):
        names.append(f"kind_{number}.mrc")
        write(names[-1], voxels(5))
    star({"rlnImageName": names, "rlnPixelSize": [ANGPIX] * len(names)}, "good.star")
    ran = cryoclass("predict", "good.star", "--model", trained.model, "-b", 1, "-o", "P")
    assert ran.status == 0, ran.err
    found = table(Path("P/particles.star"))
    for column in ("cryoclassProbability1", "cryoclassProbability2", "cryoclassProbability3"):
        assert dict(zip(GOOD, found[column] == found[column][0], strict=True)) == dict.fromkeys(GOOD, True)
    assert (found["rlnClassNumber"] > 0).all()


def raw(path: str | Path, data: np.ndarray) -> None:
    """Write any numbers, which no writer would: the header of a volume of that shape, then the voxels."""
    write_volume(Path(path), np.zeros_like(data), ANGPIX)
    with Path(path).open("r+b") as file:
        file.seek(1024)
        file.write(data.astype("<f4").tobytes())


def spoilt(path: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    raw(path, change(voxels(3)))


def with_one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data[3, 4, 5] = value
        return data

    return change


BAD = {
    "is truncated": lambda path: (spoilt(path, np.array), cut_off(path)),
    "is empty": lambda path: Path(path).touch(),
    "no such volume": lambda _path: None,
    "is not an MRC volume": lambda path: Path(path).write_bytes(b"not a volume" * 1000),
    "fewer than an MRC header": lambda path: Path(path).write_bytes(b"\0" * 100),
    "holds 1 voxels that are NaN or infinite": lambda path: spoilt(path, with_one(np.nan)),
    "holds 2 voxels that are NaN": lambda path: spoilt(
        path, lambda data: with_one(np.inf)(with_one(np.nan)(data).T)
    ),
    "is constant: every voxel is 0": lambda path: spoilt(path, lambda data: 0 * data),
    "is 16 x 16 x 8 voxels; a subtomogram is a cube": lambda path: spoilt(path, lambda data: data[:8]),
    "has a box of 12, the others have 16 pixels": lambda path: spoilt(path, lambda data: data[:12, :12, :12]),
    "is a 2D image": lambda path: spoilt(path, lambda data: data[:1]),
    "is a CTF or weights volume": lambda path: spoilt(path, lambda data: data[:, :, :9]),
    "has MRC mode 4": lambda path: with_mrcfile(path, voxels(3).astype(np.complex64)),
    "cannot be read": lambda path: (
        spoilt(path, np.array),
        Path(path).write_bytes(gzip.compress(Path(path).read_bytes())[:-200]),
    ),
}


@pytest.fixture
def half_bad(here) -> list[str]:
    """``mixed.star``: good boxes of two classes, and after them one of every bad kind; returns the reasons."""
    names = boxes(8)
    for number, spoil in enumerate(BAD.values()):
        names.append(f"bad_{number:02d}.mrc")
        spoil(names[-1])
    labels = ["a", "b"] * 4 + ["a"] * len(BAD)
    star(
        {"rlnImageName": names, "rlnPixelSize": [ANGPIX] * len(names), "cryoclassLabel": labels},
        str(here / "mixed.star"),
    )
    return list(BAD)


def test_predict_passes_over_bad_volumes_and_says_why(cryoclass, trained, half_bad):
    ran = cryoclass(
        "predict", "mixed.star", "--model", trained.model, "--split-classes", "-b", 3, *ALL, "-o", "P"
    )
    assert ran.status == 0, ran.err
    assert f"{len(BAD)} unreadable" in ran.out
    found = table(Path("P/particles.star"))
    assert (found["rlnClassNumber"][:8] > 0).all()
    assert (found["rlnClassNumber"][8:] == 0).all()
    assert (found["rlnMaxValueProbDistribution"][8:] == 0).all()
    assert (found["cryoclassClassName"][8:] == "unreadable").all()
    lines = Path("mixed.star").read_text().splitlines()
    with Path("P/skipped.csv").open() as file:
        skipped = list(csv.DictReader(file))
    assert len(skipped) == len(BAD)
    for number, (row, reason) in enumerate(zip(skipped, half_bad, strict=True)):
        assert reason in row["reason"]
        assert lines[int(row["star_line"]) - 1].startswith(f"bad_{number:02d}.mrc")


@pytest.mark.usefixtures("half_bad")
def test_embed_leaves_bad_volumes_out_of_the_map(cryoclass, trained):
    ran = cryoclass(
        "embed", "mixed.star", "--model", trained.model, "--clusters", 2, "-b", 3, *ALL, "-o", "E"
    )
    assert ran.status == 0, ran.err
    embedding = np.load("E/embeddings.npy")
    assert np.isfinite(embedding[:8]).all()
    assert np.isnan(embedding[8:]).all()
    found = table(Path("E/particles.star"))
    assert (found["cryoclassCluster"][8:] == 0).all()
    assert set(found["cryoclassCluster"][:8]) == {1, 2}


@pytest.mark.usefixtures("half_bad")
def test_finetune_learns_from_what_can_be_read(cryoclass):
    ran = cryoclass("finetune", "mixed.star", *TRAIN.split(), "--split", "particle", *ALL, "-o", "F")
    assert ran.status == 0, ran.err
    assert f"{len(BAD)} unreadable" in ran.out


@pytest.mark.usefixtures("half_bad")
def test_finetune_does_not_learn_where_too_many_are_lost(cryoclass):
    ran = cryoclass("finetune", "mixed.star", *TRAIN.split(), "--split", "particle", "-o", "F")
    assert ran.status == 1
    assert (
        "14 of 22 particles cannot be read: 63.6 %, and --max-unreadable allows 5 %. The first, in row "
        in ran.err
    )
    assert "epoch" not in ran.err
    assert not Path("F").exists() or not list(Path("F").glob("*.*"))


def test_extract_leaves_bad_places_out_and_says_why(cryoclass):
    data = np.random.default_rng(0).normal(size=(40, 60, 60)).astype(np.float32)
    data[20, 30, 10] = np.nan
    data[:, :, 40:] = 7.0
    tomogram()
    raw("T/TS_01.mrc", data)
    picks([(26, 30, 20), (10, 30, 20), (52, 30, 20), (26, 30, 200), (26, -40, 20), (26, 30, 38)])
    ran = cryoclass("extract", "bad.star", "--tomograms", "T", "--box", 16, *ALL, "-o", "X")
    assert ran.status == 0, ran.err
    assert list(table(Path("X/particles.star"))["rlnCoordinateZ"]) == [20, 38]
    with Path("X/skipped.csv").open() as file:
        skipped = list(csv.DictReader(file))
    reasons = ["1 voxels that are NaN", "constant: every voxel is 7", "x=26 y=30 z=200 lies outside", "y=-40"]
    assert [int(row["star_line"]) for row in skipped] == [10, 11, 12, 13]
    for row, reason in zip(skipped, reasons, strict=True):
        assert reason in row["reason"]
    ran = cryoclass("extract", "bad.star", "--tomograms", "T", "--box", 16, "--edge", "skip", *ALL, "-o", "Y")
    assert ran.status == 0, ran.err
    assert list(table(Path("Y/particles.star"))["rlnCoordinateZ"]) == [20]
    assert "sticks out of the tomogram" in Path("Y/skipped.csv").read_text()


def test_skip_missing_goes_on_without_a_tomogram(cryoclass, trained):
    Path("T").mkdir()
    for name in ("TS_01.mrc", "TS_03.mrc"):
        (Path("T") / name).symlink_to(trained.tomograms / name)
    argv = (trained.coordinates, "--tomograms", "T", "--skip-missing")
    assert cryoclass("extract", *argv, "--box", 16, "-o", "X").status == 0
    assert cryoclass("predict", *argv, "--model", trained.model, "-o", "P").status == 0
    assert len(table(Path("X/particles.star"))) == 24
    found = table(Path("P/particles.star"))
    lost = found["rlnMicrographName"].str.contains("TS_02")
    assert (found["rlnClassNumber"][lost] == 0).all()
    assert (found["rlnClassNumber"][~lost] > 0).all()
    for folder in ("X", "P"):
        with Path(folder, "skipped.csv").open() as file:
            skipped = list(csv.DictReader(file))
        assert len(skipped) == 12
        assert all("TS_02" in row["tomogram"] and "has no volume" in row["reason"] for row in skipped)


# ------------------------------------------------------------------ the machine says no: disk, GPU, network


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITING = {
    "simulate": (
        "simulate --species 1 --per-species 2 --tomograms 1 --size 24 64 64 --box 16 --angpix 20 -o Out",
        50_000,
    ),
    "extract": ("extract {coordinates} --tomograms {tomograms} --box 16 -o Out", 9_000),
    "finetune": ("finetune {particles} {train} -o Out", 1_000_000),
    "predict": ("predict {particles} --model {model} -o Out", 4_000),
    "embed": ("embed {particles} --model {model} --map pca -o Out", 4_000),
    "export": ("export {model} -o Out/model.onnx", 1_000_000),
}


@pytest.mark.parametrize("command", WRITING)
def test_a_file_that_cannot_be_written_leaves_nothing_behind(cryoclass, exported, command):
    """A limit on the size of files stands for the full disk: the kernel refuses the write in the same place."""
    line, size = WRITING[command]
    things = {name: getattr(exported, name) for name in ("coordinates", "tomograms", "particles", "model")}
    with files_no_larger_than(size):
        ran = cryoclass(*line.format(train=TRAIN, **things).split())
    assert ran.status == 1, ran.err
    assert re.search(r"(?m)^error: Out/\S+ cannot be written: File too large\.$", ran.err), ran.err
    assert ran.err.splitlines()[-1].startswith("hint:")
    assert not [name for name in files() if name.startswith("Out") and Path(name).name.startswith(".")]
    for result in ("Out/particles.star", "Out/model.json", "Out/truth.star", "Out/model.onnx"):
        assert not Path(result).exists()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 1 MB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_named(cryoclass, extracted, small_disk):
    where = ("--tomograms", extracted.tomograms, "--box", 16)
    needed = 36 * (1024 + 4 * 16**3)
    (small_disk / "filler").write_bytes(
        bytes(2**20 - needed - 50_000)
    )  # each file takes some more than its bytes
    ran = cryoclass("extract", extracted.coordinates, *where, "-o", small_disk / "X")
    assert ran.status == 1
    assert re.search(r"(?m)^error: \S+: the disk is full\.$", ran.err)
    assert "hint:  Free some space, or choose another --outdir." in ran.err
    assert not (small_disk / "X" / "particles.star").exists()
    volumes = list(small_disk.rglob("*.mrc"))
    assert volumes
    assert all(mrcfile.read(path).shape == (16, 16, 16) for path in volumes), "whole volumes only"
    assert not list(small_disk.rglob(f"{TEMPORARY}*"))


def test_a_disk_too_small_is_refused_before_any_work(cryoclass, extracted, small_disk):
    where = ("--tomograms", extracted.tomograms, "--box", 32)
    ran = cryoclass("extract", extracted.coordinates, *where, "-o", small_disk / "X")
    assert ran.status == 1
    assert re.search(r"(?m)^error: 1.0\d MB free in \S+/X, 4.76 MB to be written\.$", ran.err), ran.err
    assert not (small_disk / "X").exists()


@pytest.mark.parametrize("verb", ["predict", "embed", "simulate"])
def test_every_command_tries_the_space_before_its_work(verb, cryoclass, trained, small_disk):
    (small_disk / "filler").write_bytes(bytes(1_030_000))
    argv = {
        "predict": (trained.particles, "--model", trained.model),
        "embed": (trained.particles, "--model", trained.model),
        "simulate": ("--species", 2, "--per-species", 2, "--tomograms", 1, "--size", 40, 64, 64),
    }[verb]
    ran = cryoclass(verb, *argv, "-o", small_disk / "X")
    assert ran.status == 1
    assert re.search(r"(?m)^error: \S+ kB free in \S+/X, \S+ [kM]B to be written\.$", ran.err), ran.err
    assert not (small_disk / "X").exists()


def test_a_disk_that_fills_up_under_an_embedding(console_script, trained, here, small_disk):
    """In a process of its own: what is mapped into memory ends in a signal where the disk is full."""
    (small_disk / "filler").write_bytes(bytes(920_000))  # room for the outputs, and for little else
    argv = ("embed", trained.particles, "--model", trained.model, "--map", "pca", "-o", small_disk / "E")
    process = console_script(*argv, cwd=here)
    _, err = process.communicate()
    assert process.returncode == 1, err
    assert re.search(r"(?m)^error: \S+/E/\S+: the disk is full\.$", err), err
    left = {path.name for path in (small_disk / "E").iterdir()} - {RECORD}
    assert left == {"outputs"}, "nothing that is half written"


GPU_WISHES = (
    "finetune {particles} {train} --device cuda",
    "predict {particles} --model {model} --device cuda:1",
    "predict {particles} --onnx {onnx} --device cuda",
    "embed {particles} --onnx {onnx} --device cuda:0",
    "embed {particles} --backbone r3d10 --input-size 8 16 16 --device cuda",
)


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="this machine has a GPU, so asking for it is no mistake"
)
@pytest.mark.parametrize("argv", GPU_WISHES)
def test_a_gpu_that_is_not_there(cryoclass, exported, argv):
    status = 1 if "--onnx" in argv else 2
    said = assert_fails(cryoclass, exported, Mistake(argv=argv, says=["--device is cuda"], status=status))
    assert "--device cpu" in said


@pytest.fixture
def no_network(monkeypatch, tmp_path_factory):
    """Every download goes to a port where nobody listens, and the cache is empty."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CRYOCLASS_CACHE", str(cache))
    return cache


@pytest.mark.parametrize(
    "argv",
    [
        "finetune {particles} --backbone r3d34-k400",
        "embed {particles} --backbone r3d34-k400",
        "backbones fetch r3d34-k400",
    ],
)
def test_pretrained_weights_without_a_network(cryoclass, extracted, no_network, argv):
    said = assert_fails(
        cryoclass,
        extracted,
        Mistake(argv=argv, says=["weights of r3d34-k400 cannot be downloaded", "254 MB", "--weights FILE"]),
    )
    assert f"cryoclass backbones import r3d34-k400 FILE to keep it in {no_network}" in said
    assert not list(no_network.iterdir())


@pytest.mark.usefixtures("no_network")
def test_weights_that_were_never_fetched_cannot_be_verified(cryoclass, extracted):
    says = ["r3d34-k400 is not in the cache", "cryoclass backbones fetch r3d34-k400"]
    assert_fails(cryoclass, extracted, Mistake(argv="backbones verify r3d34-k400", says=says, status=2))


def test_resuming_with_other_settings_is_refused(cryoclass, trained):
    belongs_to("finetune")
    shutil.copy(trained.model / "checkpoint.pt", "Out")
    argv = "finetune {particles} {train} --epochs 9 -o Out --resume"
    says = ["Out/checkpoint.pt belongs to another run: epochs was 5, now 9", "hint:"]
    assert_fails(cryoclass, trained, Mistake(argv=argv, says=says, status=2))

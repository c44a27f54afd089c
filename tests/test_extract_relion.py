"""Extraction against a real RELION: the same boxes, voxel by voxel, and files that RELION reads."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile

from cryoclass.volumes.mrc import write_volume

pytestmark = pytest.mark.skipif(
    shutil.which("relion_preprocess") is None,
    reason="needs RELION's programs (apt-get install relion); relion_preprocess is not on the PATH",
)

ANGPIX = 10.0
BOX = 16
SHAPE = (40, 60, 70)  # z, y, x
INSIDE = [(35, 30, 20), (20.4, 33.6, 19.9), (41.2, 28.7, 15.5)]
AT_EDGES = [(8, 8, 8), (62, 52, 32), (3, 30, 20), (69, 59, 39), (0, 0, 0), (-2.7, 30.3, 41.9), (35, 66, -6.2)]

OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
opticsGroup1 1 10.000000 300.000000 2.700000 0.070000

"""


@dataclass(frozen=True)
class Tomogram:
    """A folder with ``TS_01.mrc``, and a real RELION to cut boxes out of it."""

    folder: Path

    def relion(self, coordinates, *options: object) -> list[np.ndarray]:
        """Return the boxes that relion_preprocess cuts; ``coordinates`` are x, y, z in pixels."""
        loop = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n"
        rows = "".join(f"{x} {y} {z}\n" for x, y, z in coordinates)
        (self.folder / "TS_01_coords.star").write_text(loop + rows + "\n")
        mics = "# version 30001\n\ndata_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\nTS_01.mrc 1\n\n"
        (self.folder / "mics.star").write_text(OPTICS + mics)
        run = ["relion_preprocess", "--i", "mics.star", "--coord_dir", "./", "--coord_suffix", "_coords.star"]
        run += ["--part_dir", "Peer/", "--part_star", "Peer.star", "--extract", *map(str, options)]
        subprocess.run(run, cwd=self.folder, check=True, capture_output=True)
        return [
            self.read(name) for name in starfile.read(self.folder / "Peer.star")["particles"]["rlnImageName"]
        ]

    def ours(self, cryoclass, star: str, *options: object) -> list[np.ndarray]:
        """Return the boxes that cryoclass extract writes."""
        ran = cryoclass("extract", star, "--tomograms", ".", "-o", "Ours", "--overwrite", *options)
        assert ran.status == 0, ran.err
        return [self.read(name) for name in images(self.folder / "Ours" / "particles.star")]

    def read(self, name: str) -> np.ndarray:
        return mrcfile.read(self.folder / name)


def images(star: Path) -> list[str]:
    tables = starfile.read(star, always_dict=True)
    return next(list(table["rlnImageName"]) for table in tables.values() if "rlnImageName" in table)


@pytest.fixture
def tomogram(tmp_path, monkeypatch) -> Tomogram:
    rng = np.random.default_rng(7)
    write_volume(tmp_path / "TS_01.mrc", rng.normal(5, 3, SHAPE).astype(np.float32), ANGPIX)
    monkeypatch.chdir(tmp_path)
    return Tomogram(tmp_path)


def relion31(coordinates) -> str:
    head = "# version 30001\n\ndata_particles\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"
    columns = "_rlnCoordinateX #3\n_rlnCoordinateY #4\n_rlnCoordinateZ #5\n"
    rows = "".join(f"TS_01.mrc 1 {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in coordinates)
    return OPTICS + head + columns + rows + "\n"


def single_table(name: str, coordinates, last: dict[str, float]) -> str:
    """Return a table without optics groups, as RELION 3.0 and Warp write it: each row says everything."""
    last = last | {"Voltage": 300.0, "SphericalAberration": 2.7, "AmplitudeContrast": 0.07}
    columns = ["MicrographName", "CoordinateX", "CoordinateY", "CoordinateZ", *last]
    head = "\ndata_\n\nloop_\n" + "".join(f"_rln{name} #{n}\n" for n, name in enumerate(columns, 1))
    tail = " ".join(f"{value:.6f}" for value in last.values())
    return head + "".join(f"{name} {x:.6f} {y:.6f} {z:.6f} {tail}\n" for x, y, z in coordinates) + "\n"


def relion30(coordinates) -> str:
    return single_table("TS_01.mrc", coordinates, {"Magnification": 10000.0, "DetectorPixelSize": ANGPIX})


def warp(coordinates) -> str:
    """As Warp exports at 5 A: the coordinates count pixels of that size, whatever the tomogram's."""
    finer = np.array(coordinates) * (ANGPIX / 5)
    return single_table("TS_01.mrc.tomostar", finer, {"Magnification": 10000.0, "PixelSize": 5.0})


DIALECTS = {"RELION 3.0": relion30, "RELION 3.1": relion31, "Warp 3D": warp}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_plain_boxes_are_relions_to_the_last_bit(tomogram, cryoclass, dialect):
    Path("coords.star").write_text(DIALECTS[dialect](INSIDE))
    expected = tomogram.relion(INSIDE, "--extract_size", BOX)
    boxes = tomogram.ours(
        cryoclass, "coords.star", "--box", BOX, "--no-norm", "--invert", "no", "--relion-rounding"
    )
    assert len(boxes) == len(INSIDE)
    np.testing.assert_array_equal(boxes, expected)


def test_boxes_that_stick_out_repeat_the_same_voxels(tomogram, cryoclass):
    Path("coords.star").write_text(relion31(AT_EDGES))
    expected = tomogram.relion(AT_EDGES, "--extract_size", BOX)
    boxes = tomogram.ours(
        cryoclass, "coords.star", "--box", BOX, "--no-norm", "--invert", "no", "--relion-rounding"
    )
    np.testing.assert_array_equal(boxes, expected)


def test_relion_truncates_and_so_do_we_when_asked(tomogram, cryoclass):
    """x, y, z are the first voxel's place in the box, since its value tells where it came from."""
    z, y, x = np.indices(SHAPE)
    write_volume(tomogram.folder / "TS_01.mrc", (x + 100 * y + 10000 * z).astype(np.float32), ANGPIX)
    Path("coords.star").write_text(relion31([(20.4, 33.6, 19.9)]))
    plain = ("--box", BOX, "--no-norm", "--invert", "no")
    half = BOX // 2
    truncated = [(20 - half) + 100 * (33 - half) + 10000 * (19 - half)]
    nearest = [(20 - half) + 100 * (34 - half) + 10000 * (20 - half)]
    [theirs] = tomogram.relion([(20.4, 33.6, 19.9)], "--extract_size", BOX)
    [asked] = tomogram.ours(cryoclass, "coords.star", *plain, "--relion-rounding")
    [default] = tomogram.ours(cryoclass, "coords.star", *plain)
    assert [theirs[0, 0, 0]] == [asked[0, 0, 0]] == truncated
    assert [default[0, 0, 0]] == nearest


def test_inverted_boxes_are_relions_to_the_last_bit(tomogram, cryoclass):
    Path("coords.star").write_text(relion31(INSIDE + AT_EDGES))
    expected = tomogram.relion(INSIDE + AT_EDGES, "--extract_size", BOX, "--invert_contrast")
    boxes = tomogram.ours(
        cryoclass, "coords.star", "--box", BOX, "--no-norm", "--invert", "yes", "--relion-rounding"
    )
    np.testing.assert_array_equal(boxes, expected)


@pytest.mark.parametrize("radius", [5, 6, 8])
def test_normalised_boxes_are_relions(tomogram, cryoclass, radius):
    Path("coords.star").write_text(relion31(INSIDE + AT_EDGES))
    options = ("--extract_size", BOX, "--norm", "--no_ramp", "--bg_radius", radius)
    expected = tomogram.relion(INSIDE + AT_EDGES, *options)
    boxes = tomogram.ours(
        cryoclass, "coords.star", "--box", BOX, "--bg-radius", radius, "--invert", "no", "--relion-rounding"
    )
    np.testing.assert_allclose(boxes, expected, rtol=0, atol=1e-5)


def test_defaults_are_what_relion_users_click(tomogram, cryoclass):
    """Normalised with a background radius of 75 % of the box, and inverted."""
    Path("coords.star").write_text(relion31(INSIDE))
    options = ("--extract_size", BOX, "--norm", "--no_ramp", "--bg_radius", 6, "--invert_contrast")
    boxes = tomogram.ours(cryoclass, "coords.star", "--box", BOX, "--relion-rounding")
    np.testing.assert_allclose(boxes, tomogram.relion(INSIDE, *options), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "scaled"), [(16, 8), (16, 12), (24, 16), (18, 6), (12, 16), (16, 20)])
def test_rescaled_boxes_are_relions(tomogram, cryoclass, size, scaled):
    """RELION cuts, then crops or pads the Fourier transform; the same voxels to float32 rounding."""
    positions = INSIDE + AT_EDGES[:4]
    Path("coords.star").write_text(relion31(positions))
    expected = tomogram.relion(positions, "--extract_size", size, "--scale", scaled)
    angpix = ANGPIX * size / scaled
    boxes = tomogram.ours(
        cryoclass,
        "coords.star",
        *("--box", scaled, "--angpix", angpix, "--no-norm", "--invert", "no", "--relion-rounding"),
    )
    assert boxes[0].shape == (scaled,) * 3
    np.testing.assert_allclose(boxes, expected, rtol=0, atol=1e-5)


def test_rescaled_normalised_inverted_boxes_are_relions(tomogram, cryoclass):
    """The order of the three steps, and that the radius counts pixels after scaling."""
    Path("coords.star").write_text(relion31(INSIDE))
    options = (
        "--extract_size",
        24,
        "--scale",
        16,
        "--norm",
        "--no_ramp",
        "--bg_radius",
        5,
        "--invert_contrast",
    )
    boxes = tomogram.ours(
        cryoclass,
        "coords.star",
        *("--box", 16, "--angpix", 15, "--bg-radius", 5, "--invert", "yes", "--relion-rounding"),
    )
    np.testing.assert_allclose(boxes, tomogram.relion(INSIDE, *options), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_relion_selects_from_our_table(tomogram, cryoclass, dialect):
    Path("coords.star").write_text(DIALECTS[dialect](INSIDE))
    tomogram.ours(cryoclass, "coords.star", "--box", BOX)
    select = ["--select", "rlnCoordinateX", "--minval", "0", "--maxval", "30"]
    ran = subprocess.run(
        ["relion_star_handler", "--i", "Ours/particles.star", "--o", "chosen.star", *select],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ERROR" not in ran.stderr.upper()
    assert images(Path("chosen.star")) == images(Path("Ours/particles.star"))[1:2]


def test_relion_reads_our_volumes(tomogram, cryoclass):
    Path("coords.star").write_text(relion31(INSIDE))
    boxes = tomogram.ours(cryoclass, "coords.star", "--box", BOX, "--angpix", 20)
    for name, box in zip(images(Path("Ours/particles.star")), boxes, strict=True):
        ran = subprocess.run(
            ["relion_image_handler", "--i", name, "--stats"], capture_output=True, text=True, check=True
        )
        said = dict(re.findall(r"(avg|stddev|minval|maxval|angpix)\s*=\s*([-.e0-9+]+)", ran.stdout))
        assert "16 x 16 x 16 x 1" in ran.stdout
        assert float(said["angpix"]) == 20
        assert float(said["avg"]) == pytest.approx(box.mean(dtype=np.float64), abs=1e-5)
        assert float(said["stddev"]) == pytest.approx(box.std(dtype=np.float64), abs=1e-4)
        assert float(said["minval"]) == pytest.approx(box.min(), abs=1e-4)
        assert float(said["maxval"]) == pytest.approx(box.max(), abs=1e-4)


def test_relion_extracts_again_from_our_table(tomogram, cryoclass):
    """Our table as the input of RELION's own re-extraction: coordinates, optics and names are as it wants them."""
    Path("coords.star").write_text(relion31(INSIDE))
    plain = ("--box", BOX, "--no-norm", "--invert", "no", "--relion-rounding")
    boxes = tomogram.ours(cryoclass, "coords.star", *plain)
    tomogram.relion(INSIDE, "--extract_size", BOX)  # writes mics.star
    again = [
        "relion_preprocess",
        "--i",
        "mics.star",
        "--reextract_data_star",
        "Ours/particles.star",
        "--extract",
    ]
    again += ["--part_dir", "Again/", "--part_star", "Again.star", "--extract_size", str(BOX)]
    subprocess.run(again, check=True, capture_output=True)
    found = [tomogram.read(name) for name in images(Path("Again.star"))]
    np.testing.assert_array_equal(boxes, found)


def test_relion_selects_a_class_of_our_predictions(cryoclass, trained, here):
    argv = ("predict", trained.particles, "--model", trained.model, "--split-classes", "-o", "P")
    assert cryoclass(*argv).status == 0
    whole = starfile.read("P/particles.star")["particles"]
    for part in Path("P").glob("class0*.star"):
        number = int(part.name[5:8])
        select = ["--select", "rlnClassNumber", "--minval", str(number), "--maxval", str(number)]
        run = ["relion_star_handler", "--i", "P/particles.star", "--o", "chosen.star", *select]
        subprocess.run(run, check=True, capture_output=True)
        chosen = starfile.read("chosen.star")["particles"]
        assert list(chosen["rlnImageName"]) == list(whole["rlnImageName"][whole["rlnClassNumber"] == number])
        assert list(chosen["rlnImageName"]) == list(starfile.read(part)["particles"]["rlnImageName"])
        np.testing.assert_allclose(
            chosen["rlnMaxValueProbDistribution"],
            whole["rlnMaxValueProbDistribution"][whole["rlnClassNumber"] == number],
        )
    assert (here / "chosen.star").exists()

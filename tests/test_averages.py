"""Averages of classes: what is summed, how it is turned back, and what ``predict --averages`` writes."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import table

from cryoclass.averages import WrittenVolumes, class_averages
from cryoclass.cli import main
from cryoclass.cutting import TomogramSource
from cryoclass.errors import VolumeError
from cryoclass.images import FileSource
from cryoclass.particles import Particles, read_particles
from cryoclass.poses import Poses, axes_unknown, poses_of
from cryoclass.settings import Extraction, Simulation
from cryoclass.simulation.phantoms import phantom_densities
from cryoclass.simulation.rotations import random_rotations, relion_angles
from cryoclass.tomograms import find_tomograms
from cryoclass.volumes.mrc import read_map

BOX, ANGPIX = 24, 10.0
SPECIES = ("aldolase", "apoferritin", "beta_galactosidase")
ANGLES, ORIGINS, OFFSETS = (
    [name.format(axis) for axis in axes]
    for name, axes in (
        ("rlnAngle{}", ("Rot", "Tilt", "Psi")),
        ("rlnOrigin{}Angst", "XYZ"),
        ("cryoclassOffset{}Angst", "XYZ"),
    )
)
SUBTOMOGRAM = [f"rlnTomoSubtomogram{axis}" for axis in ("Rot", "Tilt", "Psi")]
CLEAR = "--snr 1000 --defocus 0 0 --spherical-aberration 0 --tilt 90"
needs_relion = pytest.mark.skipif(
    shutil.which("relion_refine") is None, reason="RELION is not installed (apt-get install relion)"
)


def columns(labels: list[str], values: np.ndarray) -> dict[str, list[str]]:
    return {name: [f"{value:.6f}" for value in values[:, i]] for i, name in enumerate(labels)}


def with_cells(path: Path, cells: dict[str, list[str]], name: str = "posed.star") -> Particles:
    """Return a table with columns added, as it is read from a file of its own beside it."""
    read_particles(path).with_columns(cells).write(path.with_name(name))
    return read_particles(path.with_name(name))


def simulated(folder: Path, *what: object) -> Path:
    size = f"--box {BOX} --angpix {ANGPIX:g} --size 32 96 96 --tomograms 2"
    argv = ("simulate", "-o", folder, "--truth", *CLEAR.split(), *size.split(), *what)
    assert main([str(word) for word in argv]) == 0
    return folder


def true_poses(folder: Path, star: str) -> tuple[np.ndarray, np.ndarray]:
    """Return angles, and where the particles lie from where they were picked, in angstroms."""
    truth, picked = table(folder / "truth.star"), table(folder / star)
    at = [f"rlnCoordinate{axis}" for axis in "XYZ"]
    return truth[ANGLES].to_numpy(float), ANGPIX * (truth[at] - picked[at]).to_numpy(float)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


# ------------------------------------------------------------------------------------------------ turning back


@pytest.fixture(scope="module")
def particles(tmp_path_factory) -> Path:
    """Three species without tomograms, in a folder with their clean densities."""
    return simulated(tmp_path_factory.mktemp("particles"), "--particles", "--species", 3, "--per-species", 10)


def posed(folder: Path, column: str) -> Particles:
    """Return the simulated table with its true angles, and offsets in one of the columns that may hold them."""
    angles, offsets = true_poses(folder, "particles.star")
    cells = {
        "offset": columns(OFFSETS, offsets),
        "origin": columns(ORIGINS, -offsets),
        "old origin": columns([f"rlnOrigin{axis}" for axis in "XYZ"], -offsets / ANGPIX),
        "both": columns(ORIGINS, -offsets) | columns(OFFSETS, 5 - offsets),  # after RELION refined our boxes
        "none": {},
    }
    return with_cells(folder / "particles.star", columns(ANGLES, angles) | cells[column])


def densities(folder: Path) -> WrittenVolumes:
    names = table(folder / "truth.star")["cryoclassDensityName"]
    return WrittenVolumes([folder / name for name in names], BOX, ANGPIX)


def found(folder: Path, poses: Poses) -> list[float]:
    """Return how well the turned mean of each species' clean densities agrees with the phantom."""
    phantoms = phantom_densities(Simulation(species=3, box=BOX, angpix=ANGPIX))
    assigned = np.array([SPECIES.index(name) for name in table(folder / "truth.star")["cryoclassLabel"]])
    averages = class_averages({"density": densities(folder)}, assigned, poses)
    assert [average.count for average in averages] == [10, 10, 10]
    return [
        correlation(average.volumes["density_turned"], phantoms[name])
        for average, name in zip(averages, SPECIES, strict=True)
    ]


@pytest.mark.parametrize("column", ["offset", "origin", "old origin", "both"])
def test_particles_turned_back_make_the_phantom(particles, column):
    rows = posed(particles, column)
    poses = poses_of(rows, FileSource(rows))
    assert min(found(particles, poses)) > 0.98


def test_another_sign_of_rotation_or_offset_does_not(particles):
    rows = posed(particles, "offset")
    poses = poses_of(rows, FileSource(rows))
    right = found(particles, poses)
    wrong = {
        "angles": Poses(rotations=poses.rotations.transpose(0, 2, 1), offsets=poses.offsets),
        "offsets": Poses(rotations=poses.rotations, offsets=-poses.offsets),
        "no offsets": Poses(rotations=poses.rotations, offsets=0 * poses.offsets),
        "order": Poses(rotations=poses.rotations, offsets=poses.offsets[:, ::-1]),
    }
    for what, other in wrong.items():
        worse = np.array(right) - found(particles, other)
        assert (worse > (0.05 if what in ("angles", "offsets") else 0.01)).all(), (what, worse)
    # Apoferritin looks alike from most sides; the others do not.
    assert max(found(particles, wrong["angles"])[::2]) < 0.9


def test_raw_boxes_are_turned_back_too(particles):
    rows = posed(particles, "offset")
    source = FileSource(rows)
    assigned = np.array([SPECIES.index(name) for name in rows.cells("cryoclassLabel")])
    phantoms = phantom_densities(Simulation(species=3, box=BOX, angpix=ANGPIX))
    for average in class_averages({"raw": source}, assigned, poses_of(rows, source)):
        phantom = phantoms[SPECIES[average.number]]
        plain, turned = (correlation(average.volumes[name], phantom) for name in ("raw", "raw_turned"))
        assert turned > 0.95
        assert turned > plain


def test_without_angles_nothing_is_turned(particles):
    rows = read_particles(particles / "particles.star")
    source = FileSource(rows)
    assert poses_of(rows, source) is None
    (average,) = class_averages({"raw": source}, np.zeros(len(rows), int), None)
    assert [*average.volumes] == ["raw"]


def test_threads_do_not_change_a_bit_and_rows_without_class_do_not_count(particles):
    rows = posed(particles, "offset")
    source = FileSource(rows)
    assigned = np.arange(len(rows)) % 4 - 1
    assigned[assigned == 1] = 5
    one, many = (
        class_averages({"raw": source}, assigned, poses_of(rows, source), workers) for workers in (1, 5)
    )
    assert [(average.number, average.count) for average in one] == [(0, 8), (2, 7), (5, 7)]
    for first, second in zip(one, many, strict=True):
        boxes = [source.read(row) for row in np.flatnonzero(assigned == first.number)]
        assert first.volumes["raw"] == pytest.approx(np.mean(boxes, axis=0, dtype=np.float64), abs=1e-6)
        for name, volume in first.volumes.items():
            assert volume.tobytes() == second.volumes[name].tobytes()


def test_a_box_that_is_gone_ends_it(particles):
    lost = WrittenVolumes([particles / "nowhere.mrc"], BOX, ANGPIX)
    with pytest.raises(VolumeError, match=r"row 1 cannot be averaged: .*no such volume"):
        class_averages({"raw": lost}, np.array([0]))


# ---------------------------------------------------------------------------------------- cut on the fly


@pytest.fixture(scope="module")
def tomograms(tmp_path_factory) -> Path:
    """Two species in tomograms; particles lie between voxels."""
    return simulated(tmp_path_factory.mktemp("tomograms"), "--species", 2, "--per-species", 6)


def cut(rows: Particles, folder: Path, **settings) -> TomogramSource:
    volumes = find_tomograms(rows.tomograms, folder / "tomograms", rows.path)
    return TomogramSource(rows, volumes, Extraction(box=BOX, **settings))


def phantom_found(rows: Particles, source: TomogramSource) -> float:
    assigned = np.array([SPECIES.index(name) for name in rows.cells("cryoclassLabel")])
    phantoms = phantom_densities(Simulation(species=2, box=BOX, angpix=ANGPIX))
    averages = class_averages({"raw": source}, assigned, poses_of(rows, source))
    return min(correlation(a.volumes["raw_turned"], phantoms[SPECIES[a.number]]) for a in averages)


@pytest.mark.parametrize("shifts", [True, False])
def test_boxes_cut_on_the_fly_leave_what_rounding_leaves_over(tomograms, shifts):
    """Coordinates two voxels off, which origins make good again, whether they move the box or not."""
    angles, _ = true_poses(tomograms, "coordinates.star")
    plain = read_particles(tomograms / "coordinates.star")
    away = np.tile([1.75, -2.0, 1.5], (len(plain), 1))
    moved = columns([f"rlnCoordinate{axis}" for axis in "XYZ"], plain.coordinates + away)
    cells = columns(ANGLES, angles) | moved | columns(ORIGINS, ANGPIX * away)
    rows = with_cells(plain.path, cells)
    source = cut(rows, tomograms, shifts=shifts)
    offsets = poses_of(rows, source).offsets / ANGPIX
    assert (np.abs(offsets).max() > 0.55) is not shifts
    assert phantom_found(rows, source) > 0.85
    centres, where = np.zeros((2, len(rows), 3))
    for placement in source.placements:
        centres[placement.rows], where[placement.rows] = placement.centres, plain.coordinates[placement.rows]
    assert centres + offsets == pytest.approx(where, abs=1e-5)


def test_boxes_of_another_pixel_size_and_table_from_extract_agree(
    cryoclass, tomograms, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    argv = ("extract", tomograms / "coordinates.star", "--tomograms", tomograms / "tomograms", "--box", BOX)
    assert cryoclass(*argv, "-o", "Extract").status == 0
    angles, _ = true_poses(tomograms, "coordinates.star")
    written, given = (
        read_particles(path).with_columns(columns(ANGLES, angles))
        for path in (Path("Extract/particles.star"), tomograms / "coordinates.star")
    )
    files = poses_of(written, FileSource(written))
    crops = poses_of(given, cut(given, tomograms))
    coarse = poses_of(given, cut(given, tomograms, angpix=2 * ANGPIX))
    for poses in (crops, coarse):
        assert files.offsets == pytest.approx(poses.offsets, abs=1e-5)
    assert np.abs(files.offsets).max() > 2


def test_rotated_subtomograms(tomograms, particles):
    """Angles count from the subtomogram; crops lie as the tomogram does, and of files nobody knows."""
    whole = random_rotations(12, np.random.default_rng(1))
    subtomogram = random_rotations(12, np.random.default_rng(2))
    angles = relion_angles(subtomogram.transpose(0, 2, 1) @ whole)
    cells = columns(SUBTOMOGRAM, relion_angles(subtomogram)) | columns(ANGLES, angles)
    rows = with_cells(tomograms / "coordinates.star", cells)
    assert poses_of(rows, cut(rows, tomograms)).rotations == pytest.approx(whole, abs=1e-5)
    files = posed(particles, "none")
    for turns, unknown in ((np.zeros((30, 3)), False), (np.full((30, 3), 10.0), True)):
        rows = with_cells(files.path, columns(SUBTOMOGRAM, turns), "rotated.star")
        assert axes_unknown(rows, FileSource(rows)) is unknown
        assert (poses_of(rows, FileSource(rows)) is None) is unknown


# -------------------------------------------------------------------------------------------- predict --averages


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A model that classifies and recovers, and ``posed.star``, the particles with angles."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        simulated(Path("Sim"), "--particles", "--species", 2, "--per-species", 12, "--tomograms", 3)
        network = "--backbone res32 --input-size 16 16 16 --recipe quick --epochs 2 --device cpu"
        argv = f"finetune Sim/particles.star {network} --tasks classify,recover -o Finetune"
        assert main(argv.split()) == 0
        posed(Path("Sim"), "offset")
    return root


@pytest.fixture
def predicted(project, tmp_path, monkeypatch, cryoclass):
    """Run predict on the particles with angles, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*more: object, tasks: str = "classify,recover", star: str = "posed.star"):
        argv = ("predict", project / "Sim" / star, "--model", project / "Finetune", "--device", "cpu")
        return cryoclass(*argv, "--tasks", tasks, "-o", "Predict", *more)

    return run


def written(folder: Path = Path("Predict/Averages")) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*"))}


def members() -> dict[str, np.ndarray]:
    rows = table(Path("Predict/particles.star"))
    return {name: np.flatnonzero(rows["cryoclassClassName"] == name) for name in SPECIES[:2]}


def test_predict_writes_the_mean_of_each_class(predicted):
    ran = predicted("--averages")
    assert ran.status == 0, ran.err
    rows = read_particles(Path("Predict/particles.star"))
    source = FileSource(rows)
    filled = {name: chosen for name, chosen in members().items() if len(chosen)}
    kinds = ("raw", "raw_turned", "density", "density_turned")
    stems = {name: f"Predict/Averages/class{SPECIES.index(name) + 1:03d}_{name}" for name in filled}
    assert {*written()} == {f"{Path(stem).name}_{kind}.mrc" for stem in stems.values() for kind in kinds}
    assert re.search(rf"averages\s+{4 * len(filled)} in Predict/Averages", ran.out)
    page = Path("Predict/report.html").read_text()
    assert "The average of each class" in page
    for name, chosen in filled.items():
        assert f"{name}: {len(chosen)} particles" in page
        boxes = [source.read(row) for row in chosen]
        cells = rows.cells("cryoclassDensityName")
        said = [read_map(rows.find(cells[row])).data for row in chosen]
        for kind, volumes in (("raw", boxes), ("density", said)):
            mean = read_map(Path(f"{stems[name]}_{kind}.mrc"))
            assert mean.angpix == ANGPIX
            assert mean.data == pytest.approx(np.mean(volumes, axis=0, dtype=np.float64), abs=1e-5)
            assert not np.allclose(read_map(Path(f"{stems[name]}_{kind}_turned.mrc")).data, mean.data)


@pytest.fixture
def own_threads():
    """Give torch its threads back: -j holds for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("own_threads")
def test_their_bytes_are_those_of_any_number_of_threads(predicted):
    assert predicted("--averages", "-j", 1).status == 0
    one = written()
    assert predicted("--averages", "-j", 3, "--overwrite").status == 0
    assert written() == one


def test_what_does_not_belong_there_any_more_goes(predicted):
    assert predicted("--averages").status == 0
    before = {*written()}
    assert predicted("--averages", "--overwrite", star="particles.star").status == 0  # without angles
    assert {*written()} == {name for name in before if "turned" not in name}
    assert predicted("--averages", "--overwrite", tasks="classify").status == 0
    assert {name.rpartition("_")[2] for name in written()} == {"raw.mrc", "turned.mrc"}
    assert not any("density" in name for name in written())
    assert predicted("--overwrite").status == 0
    assert not Path("Predict/Averages").exists()
    assert "The average of each class" not in Path("Predict/report.html").read_text()


def test_a_class_without_particles_has_none(predicted):
    assert predicted().status == 0
    sure = table(Path("Predict/particles.star"))["rlnMaxValueProbDistribution"].astype(float)
    assert predicted("--averages", "--overwrite", "--min-probability", sure.max() - 1e-6).status == 0
    filled = [name for name, chosen in members().items() if len(chosen)]
    assert len(filled) == 1
    assert len(written()) == 4
    assert all(filled[0] in name for name in written())
    assert predicted("--averages", "--overwrite", "--min-probability", 1).status == 0
    assert not Path("Predict/Averages").exists()


def test_averages_need_classes_and_angles_that_are_numbers(predicted, project):
    ran = predicted("--averages", tasks="recover")
    assert (ran.status, Path("Predict").exists()) == (2, False)
    assert "--averages needs classes. hint: Add classify to --tasks." in " ".join(ran.err.split())
    with_cells(project / "Sim" / "posed.star", {"rlnAngleRot": ["what"] * 24}, "bad.star")
    ran = predicted("--averages", star="bad.star")
    assert ran.status == 1
    assert "rlnAngleRot" in ran.err
    assert not Path("Predict/outputs").exists()  # said before anything was computed


def test_files_of_rotated_subtomograms_are_not_turned_and_that_is_said(predicted, project):
    turns = columns(SUBTOMOGRAM, np.full((24, 3), 30.0))
    with_cells(project / "Sim" / "posed.star", turns, "turned.star")
    ran = predicted("--averages", star="turned.star")
    assert ran.status == 0
    assert "averages are not turned back" in " ".join(ran.err.split())
    assert not any("turned" in name for name in written())


# ------------------------------------------------------------------------------------------------------- RELION


@needs_relion
def test_relion_reads_them(predicted):
    assert predicted("--averages").status == 0
    for name in written():
        path = Path("Predict/Averages") / name
        ran = subprocess.run(
            ["relion_image_handler", "--stats", "--i", path], capture_output=True, text=True, check=True
        )
        said = dict(re.findall(r"(avg|stddev|angpix)\s*=\s*([-.e0-9+]+)", ran.stdout))
        data = read_map(path).data.astype(np.float64)
        assert f"{BOX} x {BOX} x {BOX} x 1" in ran.stdout
        assert float(said["angpix"]) == ANGPIX
        assert float(said["avg"]) == pytest.approx(data.mean(), abs=1e-5)
        assert float(said["stddev"]) == pytest.approx(data.std(), abs=1e-4)


@needs_relion
def test_relion_refines_against_one(predicted):
    assert predicted("--averages").status == 0
    reference = max(Path("Predict/Averages").glob("*_raw_turned.mrc"))
    options = (
        "--K 1 --iter 1 --particle_diameter 200 --ini_high 60 --pad 1 --sym C1 --firstiter_cc --zero_mask"
    )
    sampling = (
        "--healpix_order 0 --oversampling 0 --offset_range 2 --offset_step 2 --dont_combine_weights_via_disc"
    )
    command = ["relion_refine", "--i", "Predict/particles.star", "--o", "./run", "--ref", reference]
    ran = subprocess.run(
        [*command, *options.split(), *sampling.split()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    refined = read_map(Path("run_it001_class001.mrc"))
    assert (refined.data.shape, refined.angpix) == ((BOX,) * 3, ANGPIX)
    assert refined.data.std() > 0

"""What the doctor finds: each fault is provoked once, on a small simulated project."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoclass.backbones import packaged
from cryoclass.card import ModelCard
from cryoclass.checks.disk import check_disk, extraction_bytes
from cryoclass.checks.findings import duration, size
from cryoclass.classifier import Classifier, save_model
from cryoclass.cli import main
from cryoclass.particles import read_particles
from cryoclass.settings import Extraction, Preparation
from cryoclass.star.document import StarFile
from cryoclass.volumes.mrc import read_map, write_volume

SIMULATE = "--species 2 --per-species 12 --tomograms 2 --size 32 80 80 --box 16 --angpix 20 --snr 5"
BOX = 16
SMALL = ("--backbone", "r3d10")  # which is quick to measure
MACHINE = {"computer", "torch", "GPU", "onnxruntime", "weights", "disk"}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Simulated/ with tomograms, Extract/ with boxes and Model/, as paths from their folder."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["simulate", "-o", "Simulated", *SIMULATE.split()]) == 0
        cut = f"extract Simulated/coordinates.star --tomograms Simulated/tomograms --box {BOX} -o Extract"
        assert main(cut.split()) == 0
    write_model(folder / "Model")
    return folder


@pytest.fixture
def project(simulated, tmp_path, monkeypatch):
    """A copy of the project that a test may spoil, but for the model; the test runs in it."""
    folder = tmp_path / "project"
    shutil.copytree(simulated, folder, ignore=shutil.ignore_patterns("Model"))
    (folder / "Model").symlink_to(simulated / "Model")
    monkeypatch.chdir(folder)
    return folder


def write_model(folder, angpix=20.0, contrast="bright"):
    torch.manual_seed(0)
    card = ModelCard(
        backbone="r3d10",
        classes=("aldolase", "apoferritin"),
        angpix=angpix,
        box=(BOX, BOX, BOX),
        contrast=contrast,
        preparation=Preparation(input_size=(8, 16, 16)),
    )
    save_model(folder, Classifier("r3d10", 2), card)


@dataclass(frozen=True)
class Visit:
    status: int
    findings: list[dict[str, str]]

    def __getitem__(self, topic):
        """Level and words of the only finding on a topic."""
        (found,) = [f for f in self.findings if f["topic"] == topic]
        return found["level"], found["words"]

    def all(self, topic):
        return [f for f in self.findings if f["topic"] == topic]

    @property
    def troubles(self):
        return [f for f in self.findings if f["level"] != "ok"]


@pytest.fixture
def doctor(capsys, project):  # noqa: ARG001 - whose folder the visit takes place in
    """Visit the doctor with some options, and read the JSON."""

    def visit(*argv):
        capsys.readouterr()
        status = main(["doctor", *map(str, argv), "--json"])
        return Visit(status, json.loads(capsys.readouterr().out))

    return visit


def cut(*more):
    return ("Simulated/coordinates.star", "--tomograms", "Simulated/tomograms", "--box", BOX, *more)


COORDINATES = Path("Simulated/coordinates.star")
PARTICLES = Path("Extract/particles.star")


def set_cells(path, label, change):
    """Change every cell of a column, as text, with a function of row number and cell."""
    table = read_particles(path)
    cells = table.cells(label)
    table.with_columns({label: [change(row, cell) for row, cell in enumerate(cells)]}).write(path)


def scale_coordinates(path, factor):
    for axis in "XYZ":
        set_cells(path, f"rlnCoordinate{axis}", lambda _, cell: f"{float(cell) * factor:.3f}")


# ----------------------------------------------------------------------------------------------- health


def test_a_sound_project_is_all_right_up_to_the_next_step(doctor):
    visit = doctor(*cut())
    assert visit.status == 0
    assert not visit.troubles
    assert visit["table"] == ("ok", "RELION 3.1, 24 particles in 2 tomograms")
    assert "pixels of the tomogram" in visit["coordinates"][1]
    assert visit["labels"] == ("ok", "cryoclassLabel: aldolase (12), apoferritin (12)")
    assert visit["tomograms"] == ("ok", "2 of 2 names have a volume")
    assert "20 A, headers 20 A" in visit["pixel size"][1]
    assert "bright, flipped from dark" in visit["contrast"][1]
    assert "extract 24 particles" in visit["next step"][1]
    assert {finding["topic"] for finding in visit.findings} > MACHINE


def test_a_model_that_fits_gets_an_estimate(doctor):
    visit = doctor(PARTICLES, "--model", "Model")
    assert visit.status == 0
    assert not visit.troubles
    assert "r3d10 for 2 classes (aldolase, apoferritin)" in visit["model"][1]
    assert visit["pixel size"] == ("ok", "STAR file 20 A, headers 20 A")
    assert visit["model's size"] == ("ok", "16 pixels of 20 A")
    assert visit["boxes"] == ("ok", "16 pixels of 20 A; 24 were read, and none is damaged")
    assert "predict 24 particles" in visit["next step"][1]


def test_without_a_backbone_the_usual_one_is_measured(doctor):
    visit = doctor(PARTICLES, "--device", "cpu")
    assert visit.status == 0
    assert not visit.troubles
    assert "finetune res32-species on 24 labelled particles" in visit["next step"][1]
    assert visit["weights"][1].startswith("res32-species with cryoclass, ")
    assert "would be fetched" not in visit["weights"][1]


def test_boxes_are_held_against_what_the_packaged_weights_have_learnt_from(doctor):
    level, words = doctor(PARTICLES, "--device", "cpu")["network"]  # 16 pixels of 20 A: voxels of 10 A
    assert level == "ok"
    assert "res32-species has learnt from boxes of this pixel size" in words
    level, words = doctor(PARTICLES, "--device", "cpu", "--angpix", "4")["network"]
    assert level == "warning"
    assert "in voxels of 2 A" in words
    assert "network" not in {finding["topic"] for finding in doctor(PARTICLES, *SMALL).findings}


def test_damage_to_the_weights_in_the_package_is_found(doctor, tmp_path, monkeypatch):
    shutil.copytree(packaged.FOLDER, tmp_path / "packaged")
    (tmp_path / "packaged" / "res32-species.safetensors").write_bytes(b"cut short")
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "packaged")
    visit = doctor()
    assert visit.status == 1
    level, words = visit["weights"]
    assert level == "error"
    assert "is not the file that its card describes" in words


def test_without_arguments_the_machine_alone(doctor):
    visit = doctor()
    assert visit.status == 0
    assert {finding["topic"] for finding in visit.findings} == MACHINE
    assert f"{torch.__version__}" in visit["torch"][1]
    assert "CPU" in visit["onnxruntime"][1]


def test_an_onnx_model_is_measured_without_particles(doctor, exported):
    visit = doctor("--onnx", exported.onnx)
    assert visit.status == 0
    assert "onnxruntime" in visit["model"][1]
    assert "predict" in visit["next step"][1]
    assert "table" not in {finding["topic"] for finding in visit.findings}


@pytest.mark.usefixtures("project")
def test_people_get_one_line_per_check_and_the_next_command(capsys):
    assert main(["doctor", *map(str, cut())]) == 0
    *lines, verdict, command = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "warning", "error") for line in lines)
    assert len({line.split()[1] for line in lines}) == len(lines) > 15
    assert verdict == "all is well"
    assert command == f"next: cryoclass extract {COORDINATES} --tomograms Simulated/tomograms --box {BOX}"


@pytest.mark.usefixtures("project")
def test_two_models_are_a_usage_error():
    assert main(["doctor", "--model", "Model", "--onnx", "model.onnx"]) == 2


# ---------------------------------------------------------------------------------------- STAR file


def test_a_file_without_particles_is_said_in_words_and_the_rest_goes_on(doctor):
    path = Path("job.star")
    path.write_text("data_job\n\n_rlnJobTypeLabel relion.class3d\n")
    visit = doctor(path)
    assert visit.status == 1
    assert visit["table"] == ("error", f"{path} holds no particles: it is a RELION job")
    assert {finding["topic"] for finding in visit.findings} > MACHINE


def test_windows_line_ends(doctor):
    COORDINATES.write_bytes(COORDINATES.read_bytes().replace(b"\n", b"\r\n"))
    visit = doctor(*cut())
    assert visit.status == 0
    assert visit["RELION"][0] == "warning"
    assert "CR+LF" in visit["RELION"][1]


RULES = {
    "version without optics": (
        "# version 50001\n\ndata_particles\n\nloop_\n_rlnTomoName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n"
        "_rlnCoordinateZ #4\nTS_01 1 2 3\n",
        "'# version 50001' without a data_optics block",
    ),
    "no blank before #": (
        "data_\n\nloop_\n_rlnCoordinateX#1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n1 2 3\n",
        "line 4: no blank before #",
    ),
    "comment among rows": (
        "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n1 2 3\n# mine\n4 5 6\n",
        "line 8: a comment among the rows",
    ),
    "no number for a class": (
        "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n_rlnClassNumber #4\n1 2 3 1\n"
        "4 5 6 nan\n",
        "rlnClassNumber is 'nan' in 1 row,",
    ),
    "no optics": (
        "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n_rlnOpticsGroup #4\n1 2 3 1\n",
        "rlnOpticsGroup without a data_optics block",
    ),
    "no voltage": (
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n_rlnSphericalAberration #3\n1 10 2.7\n\n"
        "data_particles\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n_rlnOpticsGroup #4\n"
        "1 2 3 1\n",
        "data_optics lacks rlnVoltage",
    ),
    "block twice": (
        "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n1 2 3\n\ndata_\n\n_rlnA 1\n",
        "the block data_ occurs twice",
    ),
}


@pytest.mark.parametrize(("text", "words"), RULES.values(), ids=RULES)
def test_what_relion_would_refuse(doctor, text, words):
    path = Path("particles.star")
    path.write_text(text)
    level, said = doctor(path)["RELION"]
    assert level == "warning"
    assert words in said


def test_a_cell_that_is_no_number_is_an_error_with_its_line(doctor):
    set_cells(COORDINATES, "rlnCoordinateY", lambda row, cell: "n/a" if row == 3 else cell)
    visit = doctor(*cut())
    assert visit.status == 1
    assert visit["table"][0] == "error"
    assert "column rlnCoordinateY: 'n/a' is not a finite number" in visit["table"][1]


def test_classes_too_small_to_learn(doctor):
    set_cells(
        COORDINATES, "cryoclassLabel", lambda row, _: "junk" if row < 2 else "unlabelled" if row < 9 else "x"
    )
    level, words = doctor(*cut())["labels"]
    assert level == "warning"
    assert words == (
        "cryoclassLabel: x (15), junk (2); 7 without; too little for finetune: Class 'junk' has 2 labelled particles; "
        "each class needs at least 3, one for each of train, val, test"
    )
    visit = doctor(*cut("--for", "finetune"))
    assert (visit.status, visit["labels"][0]) == (1, "error")


def test_one_class_is_none(doctor):
    set_cells(COORDINATES, "cryoclassLabel", lambda *_: "ribosome")
    level, words = doctor(*cut())["labels"]
    assert level == "warning"
    assert words.startswith(
        "cryoclassLabel: ribosome (24); too little for finetune: All 24 labelled particles are of"
    )


def test_a_misspelt_label_column(doctor):
    visit = doctor(*cut("--label-column", "cryoclassLable"))
    assert visit.status == 1
    (finding,) = visit.all("labels")
    assert finding["way_out"] == "Did you mean cryoclassLabel?"


def test_stacks_of_2d_images(doctor):
    set_cells(PARTICLES, "rlnImageName", lambda _, cell: cell.replace(".mrc", "_stack2d.mrcs"))
    visit = doctor(PARTICLES, *SMALL)
    assert visit.status == 1
    (finding,) = visit.all("boxes")
    assert "2D stacks" in finding["words"]
    assert "--3d" in finding["way_out"]
    assert doctor(PARTICLES, "--tomograms", "Simulated/tomograms", "--box", BOX).status == 0


# ---------------------------------------------------------------------------------------- tomograms


def test_names_without_a_volume_are_told_with_the_nearest_file(doctor):
    set_cells(COORDINATES, "rlnMicrographName", lambda _, cell: cell.replace("TS_02", "TS_20"))
    visit = doctor(*cut())
    assert visit.status == 1
    level, words = visit["tomograms"]
    assert level == "error"
    assert words == (
        "1 of 2 tomograms have no volume in Simulated/tomograms, the first is tomograms/TS_20.mrc. The nearest file is "
        "TS_02.mrc"
    )
    assert "--skip-missing" in visit.all("tomograms")[0]["way_out"]
    assert doctor(*cut("--skip-missing")).status == 0


def test_a_folder_that_does_not_exist(doctor):
    visit = doctor(COORDINATES, "--tomograms", "Tomograms")
    assert visit.status == 1
    assert "Tomograms: no such file or folder" in visit["tomograms"][1]


def test_a_tomogram_that_is_truncated_leaves_the_others_to_be_looked_at(doctor):
    path = Path("Simulated/tomograms/TS_01.mrc")
    path.write_bytes(path.read_bytes()[:5000])
    visit = doctor(*cut())
    assert visit.status == 1
    (names, damage) = visit.all("tomograms")
    assert names["level"] == "ok"
    assert "TS_01.mrc is truncated" in damage["words"]
    assert "12 particles" in visit["inside"][1]


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (7.0, "is constant")])
def test_a_tomogram_without_an_image(doctor, value, word):
    path = Path("Simulated/tomograms/TS_01.mrc")
    raw = bytearray(path.read_bytes())
    raw[1024:] = np.full((len(raw) - 1024) // 4, value, "<f4").tobytes()
    path.write_bytes(raw)
    visit = doctor(*cut())
    assert visit.status == 1
    assert word in visit.all("tomograms")[1]["words"]


# -------------------------------------------------------------------------------------- coordinates


def test_a_wrong_frame_is_an_error_that_names_a_better_one(doctor):
    scale_coordinates(COORDINATES, 20)  # pixels of 20 A become angstroms
    visit = doctor(*cut())
    assert visit.status == 1
    (finding,) = visit.all("inside")
    assert finding["level"] == "error"
    assert "24 boxes would lie outside" in finding["words"]
    assert "taken as pixels of the tomogram, from its first voxel (RELION 3.1)" in finding["words"]
    assert "Taken as angstroms from the first voxel, they would lie inside" in finding["words"]
    assert finding["way_out"] == "Say what they count with --coords-angpix 1."
    assert doctor(*cut("--coords-angpix", 1)).status == 0


COMMANDS = {
    "extract": ["extract", *map(str, cut()), "-o", "Out"],
    "finetune": ["finetune", *map(str, cut()), "--backbone", "r3d10", "--device", "cpu", "-o", "Out"],
    "predict": ["predict", *map(str, cut()[:3]), "--model", "Model", "--device", "cpu", "-o", "Out"],
}


@pytest.mark.parametrize("argv", COMMANDS.values(), ids=COMMANDS)
def test_a_wrong_frame_stops_every_command_before_work(capsys, project, argv):
    scale_coordinates(COORDINATES, 20)
    assert main(argv) == 1
    said = capsys.readouterr().err
    assert "taken as pixels of the tomogram" in said
    assert "--coords-angpix 1" in said
    assert not (project / "Out").exists()


def test_few_boxes_outside_are_a_warning_and_are_skipped(doctor, capsys):
    set_cells(COORDINATES, "rlnCoordinateX", lambda row, cell: "400" if row == 5 else cell)
    visit = doctor(*cut())
    assert visit.status == 0
    level, words = visit["inside"]
    assert level == "warning"
    assert words.startswith(
        "1 of 24 boxes lie outside their tomograms and will be skipped; 95.8 % of 24 particles lie in their tomograms; "
        "boxes of 16 pixels that stick out: "
    )
    assert main(["extract", *map(str, cut()), "-o", "Out"]) == 0
    assert "1 of 24 boxes lie outside their tomograms and will be skipped" in capsys.readouterr().err
    assert Path("Out/skipped.csv").read_text().count("lies outside the tomogram") == 1


def test_doubles(doctor):
    table = read_particles(COORDINATES)
    table.select([*range(24), 0, 0]).write(COORDINATES)
    level, words = doctor(*cut())["duplicates"]
    assert level == "warning"
    assert words.startswith("3 of 26 particles have another within 107 A (a third of the box)")
    assert "closest pair, 0.0 A" in words


def test_doubles_are_found_without_the_tomograms_and_at_a_diameter_of_ones_own(doctor):
    assert doctor(PARTICLES, *SMALL)["duplicates"][0] == "ok"
    level, words = doctor(PARTICLES, "--diameter", 2000, *SMALL)["duplicates"]
    assert level == "warning"
    assert "24 of 24 particles have another within 2000 A (--diameter)" in words


# -------------------------------------------------------------------------------------------- boxes


def images():
    return [Path(name) for name in read_particles(PARTICLES).images]


def test_damaged_boxes_are_counted_with_a_reason(doctor):
    whole = read_map(images()[0]).data
    raw = bytearray(images()[1].read_bytes())
    raw[2000:2004] = np.float32(np.nan).tobytes()
    images()[1].write_bytes(raw)
    write_volume(images()[2], np.zeros_like(whole), 20)
    write_volume(images()[3], whole[:10], 20)
    write_volume(images()[4], whole[:12, :12, :12], 20)
    images()[5].unlink()
    visit = doctor(PARTICLES, *SMALL)
    level, words = visit["boxes"]
    assert (visit.status, level) == (0, "warning")
    assert words.startswith("5 of 24 sampled boxes cannot be used, such as: Extract/")


def test_damaged_boxes_are_an_error_where_there_is_nothing_else(doctor):
    for path in images()[1:]:
        path.write_bytes(path.read_bytes()[:1500])
    visit = doctor(PARTICLES, *SMALL)
    assert (visit.status, visit["boxes"][0]) == (0, "warning")
    write_volume(images()[0], np.ones((BOX,) * 3), 20)
    visit = doctor(PARTICLES, *SMALL)
    assert (visit.status, visit["boxes"][0]) == (1, "error")
    assert visit["boxes"][1].startswith("none of 24 particles can be read; the first: Extract/")


def test_images_that_are_not_there(doctor):
    shutil.rmtree("Extract/Subtomograms")
    visit = doctor(PARTICLES, *SMALL)
    assert visit.status == 1
    assert "none of its 24 images can be read" in visit["boxes"][1]


def test_pixel_sizes_of_star_file_and_headers_are_held_against_each_other(doctor):
    star = StarFile.read(PARTICLES)
    star.with_columns(star.block("optics"), {"rlnImagePixelSize": ["13.5"]}).write(PARTICLES)
    visit = doctor(PARTICLES, "--model", "Model")
    assert visit.status == 1
    words = "Extract/particles.star says 13.5 A per pixel, but its volumes' headers 20 A"
    assert visit["pixel size"] == ("error", words)
    assert doctor(PARTICLES, "--model", "Model", "--angpix", 20)["pixel size"][0] == "ok"


def test_a_model_of_another_pixel_size(doctor):
    write_model(Path("Other"), angpix=12.0)
    visit = doctor(PARTICLES, "--model", "Other")
    assert visit.status == 1
    words = "the boxes are 16 pixels of 20 A, but the model learnt from 16 pixels of 12 A"
    assert visit["model's size"] == ("error", words)
    assert doctor(PARTICLES, "--model", "Other", "--rescale").status == 0
    assert doctor(*cut()[:3], "--model", "Other")["pixel size"][0] == "warning"  # cut finer than the tomogram


def test_tomograms_of_another_pixel_size_than_the_star_file_says(doctor):
    for path in Path("Simulated/tomograms").iterdir():
        write_volume(path, read_map(path).data, 5)
    visit = doctor(*cut())
    assert (visit.status, visit["pixel size"][0]) == (1, "error")
    assert "STAR file 20 A, headers 5 A" in visit["pixel size"][1]
    assert doctor(*cut("--tomogram-angpix", 20)).status == 0


def test_flipped_contrast(doctor):
    for path in Path("Simulated/tomograms").iterdir():
        write_volume(path, -read_map(path).data, 20)
    visit = doctor(*cut())
    (finding,) = visit.all("contrast")
    assert (visit.status, finding["level"]) == (0, "warning")
    assert "is dark, flipped from dark" in finding["words"]
    assert finding["way_out"] == "Add --invert no."
    assert doctor(*cut("--invert", "no"))["contrast"][0] == "ok"
    visit = doctor(*cut("--model", "Model"))
    assert (visit.status, visit["contrast"][0]) == (1, "error")


# ---------------------------------------------------------------------------------- model and machine


def test_a_damaged_model(doctor):
    shutil.copytree("Model", "Damaged")
    path = Path("Damaged/model.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    visit = doctor(PARTICLES, "--model", "Damaged", *SMALL)
    assert visit.status == 1
    (finding,) = visit.all("model")
    assert "is damaged or altered" in finding["words"]
    assert finding["way_out"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_asked_for_and_not_there(doctor):
    visit = doctor("--device", "cuda")
    assert visit.status == 1
    assert "no CUDA GPU to use" in visit["GPU"][1]
    assert visit["torch"][0] == "ok"


def test_a_torchvision_that_cannot_be_imported(doctor, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    level, words = doctor()["torch"]
    assert level == "warning"
    assert "torchvision cannot be imported" in words


def test_a_disk_too_small(tmp_path):
    settings = Extraction(box=64)
    assert extraction_bytes(10, settings) == 10 * (1024 + 4 * 64**3)
    (crowded,) = check_disk(tmp_path, 0, files=10**15)
    assert (crowded.level == "error") == bool(os.statvfs(tmp_path).f_files)
    (fits,) = check_disk(tmp_path / "new" / "folder", extraction_bytes(1, settings))
    (full,) = check_disk(tmp_path / "new" / "folder", extraction_bytes(10**12, settings))
    assert (fits.level, full.level) == ("ok", "error")
    assert "1.05e+03" not in full.words


def test_a_file_in_place_of_the_output_folder(tmp_path):
    (tmp_path / "Out").write_text("")
    (finding,) = check_disk(tmp_path / "Out", 0)
    assert finding.level == "error"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.01, "1 s"), (75, "75 s"), (600, "10 min"), (7200, "2.0 h"), (400_000, "4.6 days")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(12, "12 bytes"), (999_600, "1 MB"), (16.4e9, "16.4 GB"), (2e15, "2000 TB")]
)
def test_sizes_in_words(count, words):
    assert size(count) == words

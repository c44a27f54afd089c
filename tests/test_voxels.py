"""Masks and densities from the simulated truth to the files that predict writes, typed as users do."""

import csv
import json
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import table

from cryoclass.classifier import Classifier, load_model
from cryoclass.cli import main
from cryoclass.errors import UsageError, VolumeError
from cryoclass.particles import read_particles
from cryoclass.settings import Augmentation, Preparation, Recipe
from cryoclass.sources import Source
from cryoclass.tasks import CLASSIFY, RECOVER, SEGMENT
from cryoclass.training.augmentation import draw
from cryoclass.training.balance import Balance
from cryoclass.training.checkpoint import Keeping
from cryoclass.training.loop import LabelledBoxes, Run, _shown, fit
from cryoclass.truths import NamedVolumes
from cryoclass.volumes.mrc import open_volume, write_volume
from cryoclass.volumes.normalise import standard_density

EVERY = "classify,segment,recover"
NETWORK = ["--backbone", "res32", "--input-size", "16", "16", "16", "--recipe", "quick", "-n", "2", "-b", "8"]
SIMULATED = "--particles --truth --species 2 --per-species 12 --tomograms 3 --box 16 --angpix 20 --snr 1"
COLUMNS = {"mask": "cryoclassMaskName", "density": "cryoclassDensityName"}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Particles with their truth, and a model that has learnt all tasks from them."""
    folder = tmp_path_factory.mktemp("voxels")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["simulate", "-o", "S", *SIMULATED.split()]) == 0
        assert main(["finetune", "S/particles.star", *NETWORK, "--tasks", EVERY, "-o", "F"]) == 0
    return folder


@pytest.fixture
def here(project, tmp_path, monkeypatch) -> Path:
    """A folder of its own that holds copies of both."""
    for name in ("S", "F"):
        shutil.copytree(project / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def volumes(star, column):
    particles = read_particles(Path(star))
    return [open_volume(particles.find(cell)) for cell in particles.cells(column)]


def without(star: str, *columns: str) -> Path:
    """Write a table anew that lacks columns; beside the other, so that it finds its files."""
    lines = Path(star).read_text().splitlines()
    labels = [line.split()[0] for line in lines if line.startswith("_")]
    start = next(number for number, line in enumerate(lines) if line.startswith("data_particles"))
    head, body = lines[:start], [line for line in lines[start:] if line.strip()]
    labels = [line.split()[0][1:] for line in body if line.startswith("_")]
    kept = [number for number, label in enumerate(labels) if label not in columns]
    rows = [line.split() for line in body if not line.startswith(("_", "data_", "loop_", "#"))]
    new = [*head, "data_particles", "", "loop_", *(f"_{labels[k]} #{n}" for n, k in enumerate(kept, 1))]
    new += [" ".join(row[k] for k in kept) for row in rows]
    path = Path(star).with_name("plain.star")
    path.write_text("\n".join(new) + "\n")
    return path


# ------------------------------------------------------------------------------------------- what is written


def test_a_joint_training_writes_down_every_task(project):
    lines = list(csv.DictReader((project / "F" / "history.csv").read_text().splitlines()))
    assert len(lines) == 2
    for task in EVERY.split(","):
        assert all(
            float(line[f"train_loss_{task}"]) > 0 and float(line[f"weight_{task}"]) == 1 for line in lines
        )
    losses = sum(float(lines[-1][f"train_loss_{task}"]) for task in EVERY.split(","))
    assert float(lines[-1]["train_loss"]) == pytest.approx(losses, rel=1e-5)
    assert 0 <= float(lines[-1]["val_iou"]) <= 1
    scores = json.loads((project / "F" / "metrics.json").read_text())["test"]
    assert scores["count"] == scores["segment"]["count"] == scores["recover"]["count"] == 8
    assert scores["segment"]["dice"]["low"] <= scores["segment"]["dice"]["mean"]
    assert scores["recovery"]["count"] == 8
    assert scores["recovery"]["correlation"].keys() == {"raw", "low_passed", "recovered"}
    recovered = scores["recovery"]["correlation"]["recovered"]["mean"]
    assert recovered == pytest.approx(scores["recover"]["correlation"]["mean"], abs=1e-5)
    held_out = table(project / "F" / "predictions.star")
    assert held_out["cryoclassCorrelation"].between(-1, 1).all()
    page = (project / "F" / "report.html").read_text()
    assert all(words in page for words in ("true mask", "density, as recognised", "<dt>IoU</dt>"))


def test_predict_writes_what_was_asked_for_and_no_more(here, cryoclass):
    ran = cryoclass("predict", "S/particles.star", "--model", "F", "--tasks", EVERY, "-o", "P")
    assert ran.status == 0, ran.err
    assert "24 of them in P/Masks" in ran.out
    for name, column in COLUMNS.items():
        written = volumes("P/particles.star", column)
        assert len({volume.path for volume in written}) == 24
        assert {volume.data.shape for volume in written} == {(16, 16, 16)}
        assert {round(volume.angpix, 3) for volume in written} == {20.0}
        assert not (here / "P" / "outputs" / f"{name}.npy").exists()  # it stands in the files
    masks = volumes("P/particles.star", COLUMNS["mask"])
    assert all(0 <= mask.data.min() <= mask.data.max() <= 1 for mask in masks)
    assert table("P/particles.star")["cryoclassClassName"].notna().all()

    assert cryoclass("predict", "S/particles.star", "--model", "F", "-o", "C").status == 0
    assert not (here / "C" / "Masks").exists()
    plain = cryoclass("predict", "S/particles.star", "--model", "F", "--tasks", "recover", "-o", "D")
    assert plain.status == 0, plain.err
    assert "classes.star" not in {path.name for path in (here / "D").iterdir()}
    for one, other in zip(*(volumes(f"{to}/particles.star", COLUMNS["density"]) for to in "PD"), strict=True):
        np.testing.assert_allclose(one.data, other.data, atol=1e-5)


@pytest.mark.usefixtures("here")
def test_real_relion_reads_masks_and_densities(cryoclass):
    ran = cryoclass("predict", "S/particles.star", "--model", "F", "--tasks", "segment,recover", "-o", "P")
    assert ran.status == 0, ran.err
    for column in COLUMNS.values():
        path = str(volumes("P/particles.star", column)[0].path)
        stats = subprocess.run(
            ["relion_image_handler", "--stats", "--i", path], capture_output=True, text=True, check=True
        )
        assert "16 x 16 x 16" in stats.stdout
        assert "angpix = 20" in stats.stdout


@pytest.mark.usefixtures("here")
def test_a_mask_serves_relion_refine_as_its_solvent_mask(cryoclass):
    ran = cryoclass(
        "predict", "S/particles.star", "--model", "F", "--tasks", "classify,segment", "--averages", "-o", "P"
    )
    assert ran.status == 0, ran.err
    mask = volumes("P/particles.star", COLUMNS["mask"])[0].path
    reference = next(Path("P/Averages").glob("*_raw.mrc"))
    options = "--K 1 --iter 1 --particle_diameter 240 --ini_high 80 --pad 1 --sym C1 --firstiter_cc --healpix_order 0"
    quick = "--oversampling 0 --offset_range 1 --offset_step 1 --dont_combine_weights_via_disc"
    command = ["relion_refine", "--i", "P/particles.star", "--o", "./run", "--ref", reference]
    ran = subprocess.run(
        [*command, "--solvent_mask", mask, *options.split(), *quick.split()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert open_volume(Path("run_it001_class001.mrc")).data.shape == (16, 16, 16)


@pytest.mark.usefixtures("here")
def test_an_exported_file_gives_the_same_masks(cryoclass):
    exported = cryoclass("export", "F", "-o", "m.onnx")
    assert exported.status == 0, exported.err
    assert ran_next(exported.out).endswith("--onnx m.onnx --tasks classify,segment,recover")
    asked = ("--tasks", "segment,recover")
    assert cryoclass("predict", "S/particles.star", "--model", "F", *asked, "-o", "P").status == 0
    assert cryoclass("predict", "S/particles.star", "--onnx", "m.onnx", *asked, "-o", "O").status == 0
    for column in COLUMNS.values():
        pairs = zip(*(volumes(f"{to}/particles.star", column) for to in "PO"), strict=True)
        assert max(np.abs(one.data - other.data).max() for one, other in pairs) < 1e-4


@pytest.mark.usefixtures("here")
def test_a_lost_file_alone_is_made_again(cryoclass):
    typed = ("predict", "S/particles.star", "--model", "F", "--tasks", "segment", "-o", "P", "-b", "4")
    assert cryoclass(*typed).status == 0
    masks = [volume.path for volume in volumes("P/particles.star", COLUMNS["mask"])]
    before = {path: path.read_bytes() for path in masks}
    times = {path: path.stat().st_mtime_ns for path in masks}
    masks[5].unlink()
    masks[6].write_bytes(before[masks[6]][:1500])
    ran = cryoclass(*typed, "--overwrite")
    assert ran.status == 0, ran.err
    assert "22 of 24 rows are there already" in ran.err
    assert {path: path.read_bytes() for path in masks} == before
    again = {path for path in masks if path.stat().st_mtime_ns != times[path]}
    assert masks[5] in again
    assert len(again) <= 8  # their batches, which are computed whole


@pytest.mark.usefixtures("here")
def test_masks_that_do_not_fit_on_the_disk_are_refused_before_any_work(cryoclass, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 200_000, 200_000)
    )
    ran = cryoclass("predict", "S/particles.star", "--model", "F", "--tasks", "segment,recover", "-o", "P")
    assert ran.status == 1
    assert "to be written" in ran.err
    assert "without segment or recover" in ran.err
    assert not Path("P/Masks").exists()
    assert cryoclass("predict", "S/particles.star", "--model", "F", "-o", "P").status == 0


def test_a_map_of_particles_needs_no_masks(here, cryoclass):
    ran = cryoclass("embed", "S/particles.star", "--model", "F", "-o", "E")
    assert ran.status == 0, ran.err
    stored = {path.stem for path in (here / "E" / "outputs").glob("*.npy")}
    assert stored == {"status", "embedding", "logits", "unknown_score"}


@pytest.mark.usefixtures("here")
def test_volumes_of_an_earlier_run_do_not_stay_beside_a_table_that_is_not_theirs(cryoclass):
    typed = ("predict", "S/particles.star", "--model", "F", "-o", "P", "--tasks")
    assert cryoclass(*typed, "segment,recover").status == 0
    ran = cryoclass(*typed, "segment", "--overwrite")
    assert ran.status == 0, ran.err
    assert not Path("P/Densities").exists()
    fewer = read_particles(Path("S/particles.star")).select(range(10))
    fewer.write(Path("S/fewer.star"))
    ran = cryoclass("predict", "S/fewer.star", "--model", "F", "-o", "P", "--tasks", "segment", "--overwrite")
    assert ran.status == 0, ran.err
    named = {volume.path.resolve() for volume in volumes("P/particles.star", COLUMNS["mask"])}
    assert named == {path.resolve() for path in Path("P/Masks").rglob("*.mrc")}


@pytest.mark.usefixtures("here")
def test_what_speaks_for_a_class_is_written_beside_it(cryoclass):
    typed = ("predict", "S/particles.star", "--model", "F", "--tasks", "classify,segment", "-o", "P")
    ran = cryoclass(*typed, "--explain", "auto")
    assert ran.status == 0, ran.err
    written = volumes("P/particles.star", "cryoclassExplanationName")
    assert {volume.data.shape for volume in written} == {(16, 16, 16)}
    assert {float(volume.data.max()) for volume in written} <= {0.0, 1.0}
    assert min(float(volume.data.min()) for volume in written) == 0
    assert "explanation" in Path("P/report.html").read_text()
    ran = cryoclass(*typed, "--explain", "layer9", "--overwrite")
    assert (ran.status, "--explain is layer9, which is no layer of this network" in ran.err) == (2, True)
    assert "blocks.1" in ran.err
    assert cryoclass("export", "F", "-o", "m.onnx").status == 0
    ran = cryoclass("predict", "S/particles.star", "--onnx", "m.onnx", "--explain", "auto", "-o", "O")
    assert (ran.status, "Use --model" in ran.err) == (2, True)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.usefixtures("here")
def test_a_task_that_the_model_has_not_learnt_is_refused(cryoclass):
    typed = ("finetune", "S/particles.star", *NETWORK, "--tasks", "recover", "-n", "1", "-o", "R")
    learnt = cryoclass(*typed)
    assert learnt.status == 0, learnt.err
    assert load_model(Path("R"))[1].classes == ()
    ran = cryoclass("predict", "S/particles.star", "--model", "R", "--tasks", "segment", "-o", "P")
    assert (ran.status, "does not segment: it has learnt to recover" in ran.err) == (2, True)
    ran = cryoclass(*shlex.split(ran_next(learnt.out)), "-o", "P")  # as printed, which asks for no task
    assert ran.status == 0, ran.err
    assert "24 of them in P/Densities" in ran.out


def ran_next(out: str) -> str:
    """Return the first command that is printed as the next one, without the program's name."""
    return next(line for line in out.splitlines() if line.startswith("next: ")).removeprefix(
        "next: cryoclass "
    )


@pytest.mark.usefixtures("here")
def test_densities_are_learnt_without_any_label(cryoclass):
    star = without("S/particles.star", "cryoclassLabel")
    ran = cryoclass("finetune", star, *NETWORK, "--tasks", "segment,recover", "-n", "1", "-o", "R")
    assert ran.status == 0, ran.err
    assert "The masks hold next to nothing of the particles (IoU 0." in ran.err  # after one epoch
    assert {"correlation", "IoU"} <= {line.split()[0] for line in ran.out.splitlines() if line.strip()}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("tasks", ["classify,segment", "segment"])
def test_particles_without_a_label_teach_masks(cryoclass, tasks):
    """Every other one of 24 is labelled."""
    particles = read_particles(Path("S/particles.star"))
    labels = [None if row % 2 else label for row, label in enumerate(particles.labels("cryoclassLabel"))]
    few = particles.with_columns({"cryoclassLabel": [label or "None" for label in labels]})
    few.write(Path("S/few.star"))
    network = [word for word in NETWORK if word != "res32"]
    network.insert(1, "res32-species")  # whose head for classes is fitted first, to those that have one
    ran = cryoclass(
        "finetune", "S/few.star", *network, "-n", "1", "--tasks", tasks, "--split", "particle", "-o", "R"
    )
    assert ran.status == 0, ran.err
    assert "mask: known of 24 of 24 particles" in ran.err
    assert "12 particles without a label teach mask" in ran.err


@pytest.mark.usefixtures("here")
def test_a_table_without_truth_cannot_teach_it(cryoclass):
    star = without("S/particles.star", *COLUMNS.values())
    ran = cryoclass("finetune", star, *NETWORK, "--tasks", EVERY, "-o", "R")
    assert (ran.status, "no particle names a mask (column cryoclassMaskName)" in ran.err) == (2, True)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("--tasks", "classify,draw"), "--tasks is classify,draw; it must be one or more of"),
        (("--tasks", EVERY, "--loss-weights", "segment=-1"), "--loss-weights is segment=-1"),
        (("--tasks", "classify", "--loss-weights", "recover=1"), "--loss-weights is recover=1"),
    ],
)
def test_wishes_that_nobody_can_fulfil_are_refused_in_words(cryoclass, typed, words):
    ran = cryoclass("finetune", "S/particles.star", *NETWORK, *typed, "-o", "R")
    assert ran.status == 2
    assert words in ran.err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (np.zeros((8, 8, 8)), "has a box of 8, its particle has 16 pixels"),
        (np.full((16, 16, 16), 7.0), "those of a mask must lie between 0 and 1"),
        (None, "no such volume"),
    ],
)
def test_a_mask_that_is_none_makes_its_particle_unreadable(volume, words):
    particles = read_particles(Path("S/particles.star"))
    path = particles.find(particles.cells(COLUMNS["mask"])[0])
    path.unlink()
    if volume is not None:
        write_volume(path, volume.astype(np.float32), 20.0)
    with pytest.raises(VolumeError, match=words):
        NamedVolumes(particles, "mask", Cube(16, 20.0)).read(0)


@pytest.mark.usefixtures("here")
def test_a_mask_of_another_pixel_size_is_none_of_this_particle():
    particles = read_particles(Path("S/particles.star"))
    with pytest.raises(VolumeError, match="has pixels of 20 A, its particle of 10 A"):
        NamedVolumes(particles, "mask", Cube(16, 10.0)).read(0)


@pytest.mark.usefixtures("here")
def test_a_run_does_not_go_on_with_other_masks(cryoclass):
    """The same names, other voxels."""
    typed = ("finetune", "S/particles.star", *NETWORK, "--tasks", EVERY, "-o", "R")
    assert cryoclass(*typed).status == 0
    assert cryoclass(*typed, "--resume").status == 0
    for mask in volumes("S/particles.star", COLUMNS["mask"]):
        write_volume(mask.path, 1 - np.array(mask.data), 20.0)
    ran = cryoclass(*typed, "--resume")
    assert ran.status != 0
    assert "mask" in ran.err
    assert "another run" in ran.err or "differ" in ran.err, ran.err


# -------------------------------------------------------------------------------------------------- training


class Cube:
    """Boxes of noise with a ball somewhere in each."""

    def __init__(self, box=16, angpix=20.0, count=12, seed=0):
        self.box, self.angpix, self.order = box, angpix, np.arange(count)
        random = np.random.default_rng(seed)
        axis = np.arange(box) - box // 2
        places = random.integers(-3, 4, (count, 3))
        distance = [
            sum((axis - at).reshape(np.roll((-1, 1, 1), k)) ** 2 for k, at in enumerate(place))
            for place in places
        ]
        self.balls = (np.array(distance) < 16).astype(np.float32)
        self.voxels = self.balls + random.normal(0, 1, self.balls.shape).astype(np.float32)

    def __len__(self):
        return len(self.voxels)

    def read(self, index):
        return self.voxels[index]

    def fingerprint(self):
        return "cubes"


class Truth(Cube):
    def read(self, index):
        return self.balls[index] if index % 4 else np.full_like(self.balls[index], np.nan)


RECIPE = Recipe(
    name="joint",
    epochs=2,
    lr=1e-3,
    batch_size=4,
    tasks=("classify", "segment", "recover"),
    preparation=Preparation(input_size=(8, 16, 16), intensity="standard"),
)


def examples() -> LabelledBoxes:
    labels = np.arange(12) % 2
    parts = np.array(["train", "train", "val"])[np.arange(12) // 2 % 3]
    truths: dict[str, Source] = {"mask": Truth(), "density": Truth()}
    return LabelledBoxes(source=Cube(), labels=labels, parts=parts, classes=("a", "b"), truths=truths)


def joint(seed=0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier("res32", 2, (CLASSIFY, SEGMENT, RECOVER))


def test_a_joint_training_that_is_ended_goes_on_to_the_same_weights(tmp_path):
    recipe = RECIPE.replace(loss_weights="learned")
    unbroken, broken, resumed = joint(), joint(), joint(9)
    whole = fit(unbroken, examples(), recipe, Run(device=torch.device("cpu")))

    def end(_record):
        raise KeyboardInterrupt

    run = Run(device=torch.device("cpu"), keeping=Keeping(folder=tmp_path, seconds=0))
    with pytest.raises(KeyboardInterrupt):
        fit(broken, examples(), recipe, replace(run, on_record=end))
    went_on = fit(resumed, examples(), recipe, run)
    assert went_on.records == whole.records
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    weights = [whole.records[-1].figures[f"weight_{task}"] for task in recipe.tasks]
    assert all(weight != 1 for weight in weights)  # they were learnt


def test_particles_without_a_truth_still_teach_the_others():
    history = fit(joint(), examples(), RECIPE, Run(device=torch.device("cpu")))
    known = np.isfinite(history.said["iou"])
    assert (known == (history.rows % 4 != 0)).all()
    assert np.isfinite(history.probabilities).all()


def test_with_frozen_features_the_decoder_alone_learns():
    classifier = joint()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    fit(
        classifier,
        examples(),
        RECIPE.replace(freeze=True, head_first=True),
        Run(device=torch.device("cpu"), keep_last=True),
    )
    after = classifier.state_dict()
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"decoder", "heads"}


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_voxels_and_what_is_known_of_them_are_moved_by_the_same_draw(axis):
    """The density is the box itself here: whatever is drawn, it stays the box itself."""
    preparation = Preparation(input_size=(8, 16, 16), intensity="standard", beam_axis=axis)
    augmentation = Augmentation(probability=1.0, half_turns=True)
    recipe = RECIPE.replace(preparation=preparation, augmentation=augmentation)
    bench = Bench(joint(), recipe)
    drawn = draw(6, augmentation, torch.Generator().manual_seed(3))
    boxes = torch.from_numpy(Cube().voxels[:6])
    boxes = (boxes - boxes.mean((1, 2, 3), keepdim=True)) / boxes.std((1, 2, 3), keepdim=True, correction=0)
    shown = _shown(bench, torch.arange(6), torch.stack([boxes, boxes], 1), drawn)
    torch.testing.assert_close(shown.grey[:, 0], shown.truth["density"], atol=1e-5, rtol=1e-5)
    still = _shown(bench, torch.arange(6), torch.stack([boxes, boxes], 1))
    assert not torch.allclose(shown.grey, still.grey)
    torch.testing.assert_close(still.grey[:, 0], still.truth["density"], atol=1e-5, rtol=1e-5)


class Bench:
    """What :func:`_shown` needs of a bench."""

    def __init__(self, classifier, recipe):
        from cryoclass.preparation import Preparer

        self.classifier, self.recipe, self.run = classifier, recipe, Run(device=torch.device("cpu"))
        self.preparer, self.truths = Preparer(recipe.preparation), ("density",)
        self.labels = torch.zeros(6, dtype=torch.int64)


def test_weights_of_losses_are_typed_or_learnt():
    losses = {"classify": torch.tensor(1.0), "segment": torch.tensor(2.0)}
    assert Balance((CLASSIFY, SEGMENT), "segment=0.25")(losses) == 1.5
    learnt = Balance((CLASSIFY, SEGMENT), "learned")
    assert learnt(losses) == 3  # all variances are 1 at first
    learnt(losses).backward()
    assert [float(value.grad) for value in learnt.parameters()] == [0.0, -1.0]
    for typed in ("segment", "segment=x", "draw=1", "segment=-1", "classify=0,segment=0"):
        with pytest.raises(UsageError, match="--loss-weights is"):
            Balance((CLASSIFY, SEGMENT), typed)


def test_a_standard_density_has_its_background_at_0():
    density = np.zeros((16, 16, 16), np.float32) + 5
    density[6:10, 6:10, 6:10] = 9
    found = standard_density(density)
    assert found[0, 0, 0] == pytest.approx(0, abs=1e-6)
    assert found.std() == pytest.approx(1, abs=1e-5)
    with pytest.raises(VolumeError, match="constant"):
        standard_density(np.ones((8, 8, 8), np.float32))

"""The main job as a user types it: simulate, extract, finetune, predict, embed, export; every file and what it holds."""

import csv
import json
import random
import re
import shutil
import signal
import time
from pathlib import Path

import mrcfile
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import starfile
from cli_helpers import EPOCHS, NETWORK, SPECIES, table

from cryoclass import __version__
from cryoclass.records import RECORD

pytestmark = pytest.mark.usefixtures("here")

NEW_COLUMNS = [
    "rlnClassNumber",
    "rlnMaxValueProbDistribution",
    "cryoclassClassName",
    "cryoclassStatus",
    *(f"cryoclassProbability{n}" for n in (1, 2, 3)),
    "cryoclassUnknownScore",
]


def probabilities(path: Path) -> np.ndarray:
    return table(path)[[f"cryoclassProbability{n}" for n in (1, 2, 3)]].to_numpy()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {RECORD}


def shuffled(star: Path, to: Path, seed: int = 3) -> list[int]:
    """Write a table with its rows in another order; return which row each was."""
    lines = star.read_text().splitlines(keepends=True)
    rows = [n for n, line in enumerate(lines) if "TS_0" in line]
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    mixed = [lines[rows[n]] for n in order]
    for place, line in zip(rows, mixed, strict=True):
        lines[place] = line
    to.write_text("".join(lines))
    return order


# -------------------------------------------------------------------------------- simulate and extract


def test_simulate_writes_tomograms_coordinates_and_truth(extracted):
    folder = extracted.root / "Simulated"
    assert names(folder) == {"coordinates.star", "truth.star", "tomograms"}
    assert names(folder / "tomograms") == {"TS_01.mrc", "TS_02.mrc", "TS_03.mrc"}
    with mrcfile.open(folder / "tomograms" / "TS_02.mrc") as volume:
        assert volume.data.shape == (32, 96, 96)
        assert float(volume.voxel_size.x) == 20
    seen, truth = table(folder / "coordinates.star"), table(folder / "truth.star")
    assert list(seen["cryoclassLabel"]) == list(truth["cryoclassLabel"])
    assert seen["cryoclassLabel"].value_counts().to_dict() == dict.fromkeys(SPECIES, 12)


def test_simulate_repeats_itself_with_the_same_seed(cryoclass, tmp_path):
    small = "--species 2 --per-species 3 --tomograms 1 --size 24 64 64 --box 16 --angpix 20"
    for folder, seed in (("A", 5), ("B", 5), ("C", 6)):
        ran = cryoclass("simulate", "-o", tmp_path / folder, *small.split(), "--seed", seed)
        assert ran.status == 0
    contents = [[path.read_bytes() for path in sorted((tmp_path / folder).rglob("*.*"))] for folder in "ABC"]
    assert contents[0] == contents[1] != contents[2]


def test_simulate_writes_particles_that_predict_takes(cryoclass, trained):
    small = "--species 2 --per-species 3 --tomograms 1 --box 16 --angpix 20 --particles"
    assert cryoclass("simulate", "-o", "S", *small.split()).status == 0
    assert len(list(Path("S/Subtomograms/TS_01").glob("*.mrc"))) == 6
    ran = cryoclass("predict", "S/particles.star", "--model", trained.model, "-o", "P")
    assert ran.status == 0, ran.err


def test_extract_writes_one_volume_per_particle(extracted):
    folder = extracted.root / "Extract"
    assert names(folder) == {"particles.star", "Subtomograms", "skipped.csv", "extract.html"}
    found = table(folder / "particles.star")
    counts: dict[str, int] = {}
    for image, tomogram in zip(found["rlnImageName"], found["rlnMicrographName"], strict=True):
        name = Path(tomogram).stem
        counts[name] = counts.get(name, 0) + 1
        assert image == f"Extract/Subtomograms/{name}/{name}_{counts[name]:06d}.mrc"
        with mrcfile.open(extracted.root / image) as volume:
            assert volume.data.shape == (16, 16, 16)
            assert volume.data.dtype == np.float32
            assert float(volume.voxel_size.z) == 20
    assert sum(counts.values()) == 36
    assert (folder / "skipped.csv").read_text() == "star_line,tomogram,reason\n"
    assert "<svg" in (folder / "extract.html").read_text() or "<img" in (folder / "extract.html").read_text()


def test_extract_keeps_every_cell_and_describes_the_images(extracted):
    before, after = (starfile.read(path) for path in (extracted.coordinates, extracted.particles))
    for column in before["particles"].columns.drop("rlnMicrographName"):
        assert list(after["particles"][column]) == list(before["particles"][column])
    tomograms = (
        "Simulated/" + before["particles"]["rlnMicrographName"]
    )  # from the project: both tables find them
    assert list(after["particles"]["rlnMicrographName"]) == list(tomograms)
    assert (after["optics"]["rlnImagePixelSize"] == 20).all()
    assert (after["optics"]["rlnImageSize"] == 16).all()
    assert (after["optics"]["rlnImageDimensionality"] == 3).all()


@pytest.mark.parametrize("dialect", ["relion30", "warp"])
def test_every_simulated_dialect_is_extracted(cryoclass, dialect):
    small = "--species 1 --per-species 4 --tomograms 2 --size 24 64 64 --box 16 --angpix 20"
    assert cryoclass("simulate", "-o", "S", *small.split(), "--dialect", dialect).status == 0
    ran = cryoclass("extract", "S/coordinates.star", "--tomograms", "S/tomograms", "--box", 16, "-o", "X")
    assert ran.status == 0, ran.err
    assert len(table(Path("X/particles.star"))) == 4
    assert ("left as it is" if dialect == "warp" else "flipped") in ran.err


def test_extract_warns_of_columns_that_relion_will_miss(cryoclass, extracted):
    lines = extracted.coordinates.read_text().splitlines()
    rows = [line.split()[:4] for line in lines if "TS_0" in line]
    labels = ["rlnMicrographName", *(f"rlnCoordinate{axis}" for axis in "XYZ")]
    starfile.write(pd.DataFrame(rows, columns=labels), "bare.star")
    cut = ("--tomograms", extracted.tomograms, "--box", 16)
    bare = cryoclass("extract", "bare.star", *cut, "-o", "A")
    assert bare.status == 0, bare.err
    assert "warning: bare.star has no rlnVoltage and no rlnSphericalAberration; RELION" in bare.err
    assert "warning" not in cryoclass("extract", extracted.coordinates, *cut, "-o", "B").err


def test_extract_says_the_same_with_any_number_of_threads(cryoclass, extracted):
    where = ("--tomograms", extracted.tomograms, "--box", 16)
    for jobs in (1, 3):
        ran = cryoclass("extract", extracted.coordinates, *where, "-j", jobs, "-o", f"J{jobs}")
        assert ran.status == 0
    one, three = (sorted(Path(f"J{jobs}").rglob("*.mrc")) for jobs in (1, 3))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in three]


# -------------------------------------------------------------------------------------------- finetune


def test_finetune_writes_the_model_folder(trained):
    assert names(trained.model) == {
        "model.safetensors",
        "model.json",
        "history.csv",
        "metrics.json",
        "predictions.star",
        "report.html",
        "times.csv",
        "checkpoint.pt",
        "checkpoint-1.pt",
    }
    card = json.loads((trained.model / "model.json").read_text())
    assert card["backbone"] == "r3d10"
    assert card["classes"] == SPECIES
    assert card["angpix"] == 20
    assert card["box"] == [16, 16, 16]
    assert card["preparation"]["input_size"] == [8, 16, 16]
    with (trained.model / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [int(line["epoch"]) for line in history] == list(range(1, EPOCHS + 1))
    assert all(np.isfinite(float(line["train_loss"])) for line in history)


def test_finetune_reports_what_its_predictions_say(trained):
    """metrics.json, predictions.star and a later predict agree with each other."""
    held_out = table(trained.model / "predictions.star")
    metrics = json.loads((trained.model / "metrics.json").read_text())
    assert set(held_out["cryoclassSplit"]) == {"val", "test"}
    for part, rows in held_out.groupby("cryoclassSplit"):
        right = rows["cryoclassClassName"] == rows["cryoclassLabel"]
        assert metrics[part]["accuracy"] == pytest.approx(right.mean())
        assert metrics[part]["count"] == len(rows)
    tomograms = held_out.groupby("cryoclassSplit")["rlnMicrographName"].agg(set)
    assert not tomograms["val"] & tomograms["test"]


def test_predict_says_of_the_held_out_rows_what_finetune_said(cryoclass, trained):
    ran = cryoclass("predict", trained.particles, "--model", trained.model, "-o", "P", "--device", "cpu")
    assert ran.status == 0
    held_out = table(trained.model / "predictions.star").set_index("rlnImageName")
    again = table(Path("P/particles.star")).set_index("rlnImageName").loc[held_out.index]
    columns = [f"cryoclassProbability{n}" for n in (1, 2, 3)]
    np.testing.assert_allclose(again[columns], held_out[columns], atol=1e-5)


def test_the_same_seed_gives_the_same_model_from_files_and_from_tomograms(cryoclass, trained):
    cut = ("--tomograms", trained.tomograms, "--box", 16)
    ran = cryoclass("finetune", trained.coordinates, *cut, *NETWORK, "--epochs", EPOCHS, "-o", "F")
    assert ran.status == 0, ran.err
    assert Path("F/model.safetensors").read_bytes() == (trained.model / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("trained")
def test_another_seed_gives_another_model(cryoclass):
    argv = ("finetune", "Extract/particles.star", *NETWORK, "--epochs", 1)
    for seed in (1, 2):
        assert cryoclass(*argv, "--seed", seed, "-o", f"F{seed}").status == 0
    one, two = (Path(folder, "model.safetensors").read_bytes() for folder in ("F1", "F2"))
    assert one != two


def test_finetune_from_one_star_file_per_class(cryoclass, extracted):
    blocks = starfile.read(extracted.particles)
    for name in SPECIES[:2]:
        own = blocks["particles"][blocks["particles"]["cryoclassLabel"] == name]
        own = own.drop(columns="cryoclassLabel")
        starfile.write({"optics": blocks["optics"], "particles": own}, f"{name}.star")
    pairs = [f"large={SPECIES[1]}.star", f"a small one={SPECIES[0]}.star"]
    ran = cryoclass("finetune", *pairs, *NETWORK, "--epochs", 1, "-o", "F")
    assert ran.status == 0, ran.err
    assert json.loads(Path("F/model.json").read_text())["classes"] == ["a small one", "large"]
    for row in table(Path("F/predictions.star")).itertuples():
        line = Path(row.cryoclassFile).read_text().splitlines()[row.cryoclassLine - 1]
        assert "Extract/Subtomograms" in line
        expected = "large" if row.cryoclassFile == f"{SPECIES[1]}.star" else "a small one"
        assert row.cryoclassLabel == expected


def test_finetune_leaves_unlabelled_rows_alone(cryoclass, extracted):
    lines = extracted.particles.read_text().splitlines()
    rows = [n for n, line in enumerate(lines) if "TS_0" in line]
    for n in rows[::3]:
        lines[n] = re.sub("|".join(SPECIES), "unlabelled", lines[n])
    Path("partly.star").write_text("\n".join(lines) + "\n")
    ran = cryoclass("finetune", "partly.star", *NETWORK, "--epochs", 1, "--test-fraction", 0, "-o", "F")
    assert ran.status == 0, ran.err
    counts = json.loads(Path("F/model.json").read_text())["training"]["counts"]
    assert counts["train"] + counts["val"] == 24
    assert counts["test"] == 0
    assert set(table(Path("F/predictions.star"))["cryoclassSplit"]) == {"val"}


def test_finetune_takes_class_numbers_of_a_named_column(cryoclass, extracted):
    text = extracted.particles.read_text().replace("_cryoclassLabel ", "_rlnClassNumber ")
    for number, name in enumerate(SPECIES, 1):
        text = re.sub(rf"\b{name}\b", str(number), text)
    Path("numbers.star").write_text(text)
    ran = cryoclass(
        "finetune", "numbers.star", "--label-column", "rlnClassNumber", *NETWORK, "--epochs", 1, "-o", "F"
    )
    assert ran.status == 0, ran.err
    assert json.loads(Path("F/model.json").read_text())["classes"] == ["1", "2", "3"]


# ---------------------------------------------------------------------------------- interrupted runs


def wait_for(path: Path, process) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("how", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)], ids=["kill", "ctrl-c"]
)
def test_resume_gives_the_model_of_an_unbroken_run(cryoclass, console_script, trained, here, how, status):
    argv = ("finetune", "Extract/particles.star", *NETWORK, "--epochs", EPOCHS)
    process = console_script(*argv, "-o", "F")
    wait_for(here / "F" / "checkpoint.pt", process)
    process.send_signal(how)
    _, err = process.communicate()
    assert process.returncode == status, err
    assert "Traceback" not in err
    assert not Path("F/model.json").exists()
    if status == 130:
        assert "interrupted" in err
        assert names(Path("F")) <= {"checkpoint.pt", "checkpoint-1.pt"}
    ran = cryoclass(*argv, "-o", "F")
    assert ran.status == 0, ran.err
    first = re.search(r"^epoch +(\d+)", ran.err, re.MULTILINE)
    assert first is not None
    assert int(first[1]) > 1, "it began anew instead of going on"
    unbroken = trained.model / "model.safetensors"
    assert Path("F/model.safetensors").read_bytes() == unbroken.read_bytes()


def test_ctrl_c_keeps_the_volumes_that_were_written(cryoclass, console_script, extracted, here):
    """An interrupted extraction leaves whole volumes and no table; repeating it needs no --overwrite."""
    argv = ("extract", extracted.coordinates, "--tomograms", extracted.tomograms, "--box", 64, "-j", 1)
    process = console_script(*argv, "-o", "X")
    wait_for(here / "X" / "Subtomograms" / "TS_01" / "TS_01_000001.mrc", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert not Path("X/particles.star").exists()
    for path in Path("X").rglob("*.mrc"):
        assert mrcfile.read(path).shape == (64, 64, 64)
    assert cryoclass(*argv, "-o", "X").status == 0


# --------------------------------------------------------------------------------------------- predict


def test_predict_writes_table_classes_and_page(cryoclass, trained):
    ran = cryoclass("predict", trained.particles, "--model", trained.model, "-o", "P")
    assert ran.status == 0
    assert names(Path("P")) == {
        "particles.star",
        "classes.star",
        "metrics.json",
        "thresholds.csv",
        "tomograms.csv",
        "skipped.csv",
        "report.html",
        "outputs",
    }
    found, chances = table(Path("P/particles.star")), probabilities(Path("P/particles.star"))
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=3e-6)
    np.testing.assert_array_equal(found["rlnClassNumber"], chances.argmax(axis=1) + 1)
    np.testing.assert_array_equal(found["rlnMaxValueProbDistribution"], chances.max(axis=1))
    assert [SPECIES[n - 1] for n in found["rlnClassNumber"]] == list(found["cryoclassClassName"])
    assert len(set(found["cryoclassClassName"])) > 1, "the model of the tests says the same of everything"
    classes = table(Path("P/classes.star"))
    assert list(classes["cryoclassClassNumber"]) == [1, 2, 3]
    assert list(classes["cryoclassClassName"]) == SPECIES
    counts = [int((found["rlnClassNumber"] == n).sum()) for n in (1, 2, 3)]
    assert list(classes["cryoclassClassCount"]) == counts


def test_predict_scores_against_known_labels(cryoclass, trained):
    ran = cryoclass("predict", trained.particles, "--model", trained.model, "-o", "P")
    found = table(Path("P/particles.star"))
    accuracy = (found["cryoclassClassName"] == found["cryoclassLabel"]).mean()
    assert re.search(r"labelled +36\b", ran.out)
    assert float(re.search(r"\naccuracy +([\d.]+)", ran.out)[1]) == pytest.approx(accuracy, abs=5e-4)
    scores = json.loads(Path("P/metrics.json").read_text())["labelled"]
    assert (scores["count"], scores["accuracy"]) == (36, pytest.approx(accuracy))


def test_predict_leaves_no_scores_of_an_earlier_run(cryoclass, trained):
    cryoclass("predict", trained.particles, "--model", trained.model, "-o", "P")
    Path("rest.star").write_text(re.sub("|".join(SPECIES), "unlabelled", trained.particles.read_text()))
    assert cryoclass("predict", "rest.star", "--model", trained.model, "-o", "P", "--overwrite").status == 0
    assert not Path("P/metrics.json").exists()


def test_predict_leaves_labels_that_the_model_does_not_know(cryoclass, trained):
    Path("other.star").write_text(re.sub(rf"\b{SPECIES[0]}\b", "junk", trained.particles.read_text()))
    ran = cryoclass("predict", "other.star", "--model", trained.model, "-o", "P")
    assert ran.status == 0
    assert "warning: 12 labels are not classes of the model (junk)" in ran.err
    assert re.search(r"labelled +24\b", ran.out)


AWKWARD = {  # columns that a careless writer would destroy
    "_rlnGroupName": lambda n: f'"two words {n}"',
    "_rlnParticleName": lambda n: f"{n:03d}",
    "_myUnknownColumn": lambda n: f"1e-{n}",
    "_rlnComment": lambda n: "''" if n % 2 else "it's",
}


def awkward(star: Path) -> bytes:
    """Return a user's table with everything that must survive: comments, quotes, odd blanks, more blocks."""
    out, count, label, in_particles = ["# a comment of mine", ""], 0, 0, False
    for line in star.read_text().splitlines():
        in_particles |= line == "data_particles"
        if in_particles and label and not line.startswith("_") and "TS_0" in line and not count:
            out += [f"{name} #{label + n}" for n, name in enumerate(AWKWARD, 1)]
        if in_particles and line.startswith("_"):
            label += 1
        if in_particles and "TS_0" in line:
            cells = [make(count) for make in AWKWARD.values()]
            out.append("  " + line.replace(" ", "\t" if count % 2 else "   ") + "  " + " ".join(cells))
            count += 1
        else:
            out.append(line)
    out += ["", "data_mine", "", "loop_", "_mineKey #1", "_mineValue #2", "a 1.500", "b 'c d'", ""]
    return "\n".join(out).encode()


def test_predict_gives_the_users_own_file_back(cryoclass, trained):
    """Without the added cells, the result is the input, byte for byte."""
    Path("mine.star").write_bytes(awkward(trained.particles))
    ran = cryoclass("predict", "mine.star", "--model", trained.model, "-o", "P")
    assert ran.status == 0, ran.err
    before = Path("mine.star").read_bytes().split(b"\n")
    after = Path("P/particles.star").read_bytes().split(b"\n")
    added = [line for line in after if line.startswith(tuple(f"_{name} #".encode() for name in NEW_COLUMNS))]
    kept = [line for line in after if line not in added]
    assert [line.split()[0][1:].decode() for line in added] == NEW_COLUMNS
    assert len(kept) == len(before)
    for old, new in zip(before, kept, strict=True):
        assert new == old or (new.startswith(old) and len(new[len(old) :].split()) == len(NEW_COLUMNS))
    read = starfile.read(Path("P/particles.star"))
    assert list(read) == ["optics", "particles", "mine"]
    assert list(read["particles"]["rlnGroupName"]) == [f"two words {n}" for n in range(36)]


def test_predict_replaces_class_numbers_of_an_earlier_run(cryoclass, trained):
    assert cryoclass("predict", trained.particles, "--model", trained.model, "-o", "P").status == 0
    lines = Path("P/particles.star").read_text().splitlines()
    old = ["9", "0.5", "junk", "done", "0", "0", "0", "0"]
    stale = "\n".join(" ".join(line.split()[: -len(old)] + old) if "TS_0" in line else line for line in lines)
    Path("stale.star").write_text(stale)
    assert cryoclass("predict", "stale.star", "--model", trained.model, "-o", "Q").status == 0
    assert starfile.read("Q/particles.star")["particles"].equals(
        starfile.read("P/particles.star")["particles"]
    )


def test_predict_keeps_the_order_of_the_rows(cryoclass, trained):
    order = shuffled(trained.particles, Path("mixed.star"))
    for star, out in ((trained.particles, "P"), ("mixed.star", "Q")):
        assert cryoclass("predict", star, "--model", trained.model, "-o", out).status == 0
    straight, mixed = table(Path("P/particles.star")), table(Path("Q/particles.star"))
    assert list(mixed["rlnImageName"]) == [straight["rlnImageName"][n] for n in order]
    np.testing.assert_allclose(
        probabilities(Path("Q/particles.star")), probabilities(Path("P/particles.star"))[order], atol=2e-6
    )


def test_cropping_on_the_fly_says_what_the_files_say(cryoclass, trained):
    """Rows of all tomograms mixed: boxes are cut tomogram by tomogram, and go back where they belong."""
    shuffled(trained.coordinates, Path("mixed.star"))
    cut = ("--tomograms", trained.tomograms)
    assert cryoclass("extract", "mixed.star", *cut, "--box", 16, "-o", "X").status == 0
    model = ("--model", trained.model, "--batch-size", 1)
    assert cryoclass("predict", "X/particles.star", *model, "-o", "Files").status == 0
    assert cryoclass("predict", "mixed.star", *cut, *model, "-o", "Fly").status == 0
    assert cryoclass("embed", "X/particles.star", *model, "--map", "pca", "-o", "EFiles").status == 0
    assert cryoclass("embed", "mixed.star", *cut, *model, "--map", "pca", "-o", "EFly").status == 0
    files, fly = table(Path("Files/particles.star")), table(Path("Fly/particles.star"))
    for column in [*fly.columns]:
        assert list(fly[column]) == list(files[column]), column
    assert Path("EFiles/embeddings.npy").read_bytes() == Path("EFly/embeddings.npy").read_bytes()


def test_split_classes_writes_one_file_per_class(cryoclass, trained):
    argv = ("predict", trained.particles, "--model", trained.model, "--split-classes")
    assert cryoclass(*argv, "-o", "P").status == 0
    whole = table(Path("P/particles.star"))
    for number, name in enumerate(SPECIES, 1):
        path, own = Path(f"P/class{number:03d}_{name}.star"), whole[whole["rlnClassNumber"] == number]
        assert path.exists() == bool(len(own))
        if path.exists():
            assert "optics" in starfile.read(path, always_dict=True)
            assert table(path).equals(own.reset_index(drop=True))
    assert sum(len(table(path)) for path in Path("P").glob("class0*.star")) == 36


def test_min_probability_leaves_unsure_particles_without_a_class(cryoclass, trained):
    argv = ("predict", trained.particles, "--model", trained.model)
    assert cryoclass(*argv, "-o", "P").status == 0
    best = probabilities(Path("P/particles.star")).max(axis=1)
    limit = float(np.median(best))
    assert cryoclass(*argv, "--min-probability", limit, "--split-classes", "-o", "Q").status == 0
    found = table(Path("Q/particles.star"))
    unsure = found["rlnMaxValueProbDistribution"] < limit - 1e-6
    assert unsure.any()
    assert (found["rlnClassNumber"][unsure] == 0).all()
    assert (found["cryoclassClassName"][unsure] == "unsure").all()
    assert (found["rlnClassNumber"][best > limit + 1e-6] > 0).all()
    assert set(table(Path("Q/class000_unsure.star"))["rlnClassNumber"]) == {0}


# -------------------------------------------------------------------------------------- export and ONNX


def test_export_writes_one_file_that_any_program_can_run(cryoclass, exported):
    """onnxruntime alone, on voxels read by mrcfile, says what predict wrote."""
    session = onnxruntime.InferenceSession(exported.onnx, providers=["CPUExecutionProvider"])
    assert cryoclass("predict", exported.particles, "--model", exported.model, "-o", "P").status == 0
    images = table(exported.particles)["rlnImageName"]
    voxels = np.stack([mrcfile.read(exported.root / image) for image in images])
    [found] = session.run(["probabilities"], {"subtomogram": voxels})
    np.testing.assert_allclose(found, probabilities(Path("P/particles.star")), atol=1e-4)
    assert not list(exported.root.glob("model.onnx?*")), "weights beside the file"
    facts = session.get_modelmeta().custom_metadata_map
    parity = json.loads(facts["cryoclass_parity"])
    assert parity["same_class"]
    assert parity["max_probability_difference"] <= 1e-4
    assert json.loads(facts["cryoclass_card"])["classes"] == SPECIES


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_torch_and_onnx_say_the_same_of_every_particle(cryoclass, exported, batch):
    for option, model in (("--model", exported.model), ("--onnx", exported.onnx)):
        argv = ("predict", exported.particles, option, model, "--batch-size", batch, "--device", "cpu")
        assert cryoclass(*argv, "-o", option.strip("-")).status == 0
    torch, onnx = table(Path("model/particles.star")), table(Path("onnx/particles.star"))
    assert list(torch["rlnClassNumber"]) == list(onnx["rlnClassNumber"])
    difference = probabilities(Path("model/particles.star")) - probabilities(Path("onnx/particles.star"))
    assert np.abs(difference).max() <= 1e-4


def test_export_in_half_precision_is_smaller_and_says_nearly_the_same(cryoclass, exported):
    ran = cryoclass("export", exported.model, "-o", "half.onnx", "--precision", "fp16")
    assert ran.status == 0, ran.err
    assert Path("half.onnx").stat().st_size < 0.6 * exported.onnx.stat().st_size
    for path in (exported.onnx, "half.onnx"):
        assert cryoclass("predict", exported.particles, "--onnx", path, "-o", Path(path).stem).status == 0
    full, half = (probabilities(Path(folder, "particles.star")) for folder in ("model", "half"))
    np.testing.assert_allclose(half, full, atol=5e-3)


# ----------------------------------------------------------------------------------------------- embed


def test_embed_writes_embedding_map_and_clusters(cryoclass, trained):
    ran = cryoclass("embed", trained.particles, "--model", trained.model, "--clusters", 4, "-o", "E")
    assert ran.status == 0, ran.err
    assert names(Path("E")) == {
        *("embeddings.npy", "particles.star", "embedding.html", "embedding.png", "skipped.csv", "outputs"),
        "clusters.csv",
    }
    embedding = np.load("E/embeddings.npy")
    assert embedding.shape == (36, 512)
    assert embedding.dtype == np.float32
    assert np.isfinite(embedding).all()
    assert Path("E/embedding.png").read_bytes().startswith(b"\x89PNG")
    page = Path("E/embedding.html").read_text()
    for word in (*SPECIES, "cluster"):
        assert word in page
    found = table(Path("E/particles.star"))
    assert set(found["cryoclassCluster"]) == {1, 2, 3, 4}
    points = found[["cryoclassMapX", "cryoclassMapY"]].to_numpy()
    assert np.isfinite(points).all()
    assert len(np.unique(points, axis=0)) == 36
    assert list(found["rlnImageName"]) == list(table(trained.particles)["rlnImageName"])


def test_embeddings_are_in_the_order_of_the_rows(cryoclass, trained):
    order = shuffled(trained.particles, Path("mixed.star"))
    for star, out in ((trained.particles, "E"), ("mixed.star", "M")):
        ran = cryoclass("embed", star, "--model", trained.model, "--map", "pca", "-o", out)
        assert ran.status == 0
    np.testing.assert_allclose(
        np.load("M/embeddings.npy"), np.load("E/embeddings.npy")[order], rtol=1e-4, atol=1e-5
    )


def test_embed_with_onnx_is_embed_with_torch(cryoclass, exported):
    for option, model in (("--model", exported.model), ("--onnx", exported.onnx)):
        argv = ("embed", exported.particles, option, model, "--map", "pca", "--device", "cpu")
        assert cryoclass(*argv, "-o", option.strip("-")).status == 0
    np.testing.assert_allclose(
        np.load("onnx/embeddings.npy"), np.load("model/embeddings.npy"), rtol=1e-3, atol=1e-4
    )


def test_embed_without_a_model_says_when_the_network_is_random(cryoclass, extracted):
    argv = ("embed", extracted.particles, "--backbone", "r3d10", "--input-size", 8, 16, 16, "--map", "pca")
    ran = cryoclass(*argv, "-o", "E")
    assert ran.status == 0, ran.err
    assert "warning: r3d10 has no pretrained weights" in ran.err
    assert np.load("E/embeddings.npy").shape == (36, 512)


# ----------------------------------------------------------------------------------- running commands


def test_particles_star_of_the_current_folder_is_the_default(cryoclass, exported):
    shutil.copy(exported.particles, "particles.star")
    ran = cryoclass("predict", "--onnx", exported.onnx)
    assert ran.status == 0, ran.err
    assert len(table(Path("Predict/particles.star"))) == 36


FINISHED = {
    "simulate": "truth.star",
    "extract --box 16": "particles.star",
    "finetune": "model.json",
    "predict --model M": "particles.star",
    "embed --model M": "particles.star",
    "demo": "model.onnx",
}


@pytest.mark.parametrize("command", FINISHED)
def test_a_finished_run_is_not_overwritten(cryoclass, command):
    mark = Path("Out", FINISHED[command])
    mark.parent.mkdir()
    mark.write_text("mine")
    Path("particles.star").touch()
    record = {"format": 1, "command": command.split()[0], "files": [mark.name], "folders": []}
    (mark.parent / RECORD).write_text(json.dumps(record))
    ran = cryoclass(*command.split(), "-o", "Out")
    assert ran.status == 2
    assert ran.err.startswith("error: Out holds a finished run")
    assert "--overwrite" in ran.err
    assert names(Path("Out")) == {FINISHED[command]}
    assert mark.read_text() == "mine"


@pytest.mark.parametrize("command", FINISHED)
def test_a_file_that_no_run_wrote_is_never_overwritten(cryoclass, command):
    mark = Path("Out", FINISHED[command])
    mark.parent.mkdir()
    mark.write_text("mine")
    Path("particles.star").touch()
    ran = cryoclass(*command.split(), "-o", "Out", "--overwrite")
    assert ran.status == 2
    assert ran.err.startswith(f"error: {mark} was not written by a run of cryoclass {command.split()[0]}")
    assert names(Path("Out")) == {FINISHED[command]}
    assert mark.read_text() == "mine"


def test_an_exported_file_is_not_overwritten(cryoclass):
    Path("model.onnx").write_text("mine")
    ran = cryoclass("export", "M", "-o", "model.onnx")
    assert ran.status == 2
    assert ran.err.startswith("error: model.onnx exists")
    assert Path("model.onnx").read_text() == "mine"


def test_overwrite_replaces_a_finished_run(cryoclass, trained):
    argv = ("predict", trained.particles, "--model", trained.model, "-o", "P")
    assert cryoclass(*argv).status == 0
    Path("P/particles.star").write_text("old")
    assert cryoclass(*argv).status == 2
    assert cryoclass(*argv, "--overwrite").status == 0
    assert len(table(Path("P/particles.star"))) == 36


def test_the_console_script_ends_with_the_right_status(console_script, extracted, here):
    good = console_script(
        "extract", extracted.coordinates, "--tomograms", extracted.tomograms, "--box", 16, "-o", "X"
    )
    out, err = good.communicate()
    assert good.returncode == 0, err
    assert "36 of 36, from 3 tomograms" in out
    assert "next: cryoclass finetune X/particles.star" in out
    assert len(table(here / "X" / "particles.star")) == 36
    bad = console_script("extract", "nothere.star", "--box", 16, "-o", "Y")
    out, err = bad.communicate()
    assert bad.returncode == 1
    assert out == ""
    assert err.startswith("error: nothere.star: no such file.")


def test_version_and_help(cryoclass):
    assert cryoclass("--version").out == f"cryoclass {__version__}\n"
    for flag in ("-h", "--help"):
        ran = cryoclass(flag)
        assert ran.status == 0
        assert "finetune" in ran.out

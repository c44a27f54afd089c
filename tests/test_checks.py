"""Each rule stands once: what a command refuses, the doctor calls an error in the same words; what it calls sound starts."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli_bad_input import ANGPIX, MISTAKES, READERS, STAR_MISTAKES, boxes, images, picks, star, tomogram

from cryoclass.checks.boxes import check_boxes
from cryoclass.checks.findings import Finding, enforce, error, ok, unknown, warning
from cryoclass.checks.fit import check_contrast, check_fit, fits
from cryoclass.cli import main
from cryoclass.errors import ModelError
from cryoclass.progress import Listener
from cryoclass.sources import Sample, take_sample

pytestmark = pytest.mark.usefixtures("here")

# Options of doctor, with how many words follow; what stands behind none of them decides about files.
KNOWN = {
    **dict.fromkeys(
        ["--tomograms", "--box", "--model", "--onnx", "--label-column", "--device", "--angpix"], 1
    ),
    **dict.fromkeys(["--tomogram-angpix", "--invert", "--bg-radius", "--backbone", "--outdir", "-o"], 1),
    **dict.fromkeys(["--rescale", "--skip-missing"], 0),
}
PASSED_OVER = {"--map": 1, "--recipe": 1, "--epochs": 1, "--input-size": 3, "--batch-size": 1}

WHY_NOT = {
    "too few tomograms to keep whole": "doctor has no --split",
    "a class whose images are all bad": "doctor has no --test-fraction, and reads a sample",
    "nothing left to train on": "doctor has no --val-fraction",
    "two plain files": "doctor takes one table",
    "a class without a name": "doctor takes one table",
    "the file of a class is missing": "doctor takes one table",
    "classes of different boxes": "doctor takes one table",
    "no box": "the parser refuses it",
    "a box in words": "the parser refuses it",
    "an option that is not there": "the parser refuses it",
    "a pixel size of zero": "doctor refuses the option itself",
    "an endless pixel size": "doctor refuses the option itself",
    "two models": "doctor refuses the options itself",
    "two models to embed with": "doctor refuses the options itself",
    "a model and a backbone to embed with": "doctor's --backbone has a default",
    "an impossible share": "doctor has no --min-probability",
    "a map that is not installed": "doctor has no --map",
    "more clusters than particles": "doctor has no --clusters",
    "likeness to a row that is not there": "doctor has no --like",
    "likeness to row 0": "doctor has no --like",
    "likeness to a row that cannot be read": "doctor has no --like",
    "likeness to a row and to a table": "doctor has no --like",
    "likeness to a table that is not there": "doctor has no --query",
    "likeness to particles that are not there": "doctor has no --query",
    "likeness to particles of which none can be read": "doctor has no --query",
    "an embedding with such a seed": "doctor has no --seed",
    "precision of ONNX": "doctor has no --precision",
    "a recipe that is not there": "doctor has no --recipe",
    "video weights of a backbone that has none": "doctor has no --init",
    "a start that is not there": "doctor has no --init",
    "weights that are not there": "doctor has no --weights",
    "weights that are no weights": "doctor has no --weights",
    "weights that run code": "doctor has no --weights",
    "weights of something else": "doctor has no --weights",
    "a damaged checkpoint": "doctor has no --resume",
}
COMMANDS = ("extract", "finetune", "predict", "embed")
SHARED = {
    **{name: m for name, m in MISTAKES.items() if m.argv.split()[0] in COMMANDS and name not in WHY_NOT},
    **{
        f"{name}, {reader.split()[0]}": mistake
        for name, mistake in STAR_MISTAKES.items()
        for reader in READERS
    },
}


def argv_of(name, project):
    """Return the command line of a mistake."""
    mistake = SHARED[name]
    argv = mistake.argv
    if argv.split()[0] not in COMMANDS:
        command = name.rpartition(", ")[2]
        reader = next(reader for reader in READERS if reader.startswith(command))
        argv = reader.format(star=argv)
    things = {
        key: getattr(project, key) for key in ("coordinates", "tomograms", "particles", "model", "onnx")
    }
    train = "--backbone r3d10 --input-size 8 16 16 --recipe quick --device cpu --epochs 1"
    return argv.format(train=train, **things).split()


def as_doctor(argv):
    """Turn a command line into the doctor's, leaving out what it does not have."""
    command, *rest = argv
    words = ["doctor", "--for", command, "--json"]
    while rest:
        word = rest.pop(0)
        if word in PASSED_OVER:
            del rest[: PASSED_OVER[word]]
        elif word in KNOWN:
            words += [word, *(rest.pop(0) for _ in range(KNOWN[word]))]
        else:
            assert not word.startswith("-"), f"doctor does not have {word}"
            words.append(word)
    return words


def refusal(ran):
    """Return the words and the way out of the error that ended a command."""
    lines = ran.err.splitlines()
    where = next(number for number, line in enumerate(lines) if line.startswith("error:"))
    words = lines[where].removeprefix("error: ").removesuffix(".")
    return words, " ".join(line.removeprefix("hint:  ") for line in lines[where + 1 :])


@pytest.mark.parametrize("name", SHARED)
def test_what_a_command_refuses_the_doctor_calls_an_error_in_the_same_words(cryoclass, exported, name):
    SHARED[name].make(exported)
    argv = argv_of(name, exported)
    out = [] if "-o" in argv else ["-o", "Out"]
    words, hint = refusal(cryoclass(*argv, *out))
    visit = cryoclass(*as_doctor(argv))
    assert visit.status == 1, visit.err
    said = [(f["words"], f["way_out"]) for f in json.loads(visit.out) if f["level"] == "error"]
    assert (words, hint) in said


def test_every_mistake_is_held_or_left_out_for_a_reason():
    assert set(WHY_NOT) <= set(MISTAKES)
    assert len(SHARED) > 75


SOUND = {
    "extract": "extract {coordinates} --tomograms {tomograms} --box 16",
    "extract, rescaled": "extract {coordinates} --tomograms {tomograms} --box 12 --angpix 30",
    "finetune": "finetune {particles} {train}",
    "finetune, on the fly": "finetune {coordinates} --tomograms {tomograms} --box 16 {train}",
    "predict": "predict {particles} --model {model}",
    "predict, ONNX": "predict {particles} --onnx {onnx}",
    "predict, on the fly": "predict {coordinates} --tomograms {tomograms} --model {model}",
    "predict, inverted": "predict {particles} --model {model} --invert yes",
    "embed": "embed {particles} --map pca --device cpu",
    "embed, with a model": "embed {particles} --model {model} --map pca",
    "embed, few labels": "embed few.star --map pca --device cpu",
}


@pytest.mark.parametrize("argv", SOUND.values(), ids=SOUND)
def test_what_the_doctor_calls_sound_starts(cryoclass, exported, argv):
    images()
    Path("bad.star").rename("few.star")
    things = {
        key: getattr(exported, key) for key in ("coordinates", "tomograms", "particles", "model", "onnx")
    }
    train = "--backbone r3d10 --input-size 8 16 16 --recipe quick --device cpu --epochs 1"
    words = argv.format(train=train, **things).split()
    visit = cryoclass(*as_doctor(words))
    assert visit.status == 0, visit.out
    assert not [f for f in json.loads(visit.out) if f["level"] == "error"]
    assert cryoclass(*words, "-o", "Out").status == 0


# ----------------------------------------------------------------------------------------------- findings


class Heard(Listener):
    def __init__(self):
        self.said = []

    def note(self, line):
        self.said.append(("note", line))

    def warn(self, line):
        self.said.append(("warning", line))


def test_a_command_raises_the_first_error_and_says_what_came_before():
    heard = Heard()
    findings = iter(
        [
            ok("a", "well"),
            unknown("b", "could not be told"),
            warning("c", "odd", "Look."),
            error("d", "wrong", "Mend it.", ModelError),
            pytest.fail,
        ]
    )
    with pytest.raises(ModelError, match=r"^wrong\.$") as raised:
        enforce(findings, heard)
    assert raised.value.hint == "Mend it."
    assert heard.said == [("note", "b: could not be told"), ("warning", "odd. Look.")]
    assert next(findings) is pytest.fail, "what stands behind an error is not asked for"


def test_a_finding_is_plain_values_for_scripts():
    assert Finding(level="error", topic="a", words="b", way_out="c").to_dict() == {
        "level": "error",
        "topic": "a",
        "words": "b",
        "way_out": "c",
    }


class Balls:
    """Boxes with a ball in the middle of each, bright, dark or none."""

    def __init__(self, brightness, box=16, angpix=ANGPIX):
        self.brightness, self.box, self.angpix, self.order = brightness, box, angpix, np.arange(20)

    def __len__(self):
        return 20

    def read(self, index):
        middle = np.ogrid[tuple(slice(-self.box // 2, self.box // 2) for _ in range(3))]
        ball = sum(axis**2 for axis in middle) < (self.box / 4) ** 2
        noise = np.random.default_rng(index).normal(size=(self.box,) * 3)
        return (noise + self.brightness * ball).astype(np.float32)


@pytest.fixture(scope="module")
def card():
    from network_helpers import small_card

    return small_card(angpix=20.0, box=(16, 16, 16))


@pytest.mark.parametrize(
    ("brightness", "wanted", "invert", "level"),
    [
        (3, "bright", "auto", "ok"),
        (-3, "dark", "auto", "ok"),
        (-3, "bright", "auto", "error"),
        (3, "dark", "auto", "error"),
        (-3, "bright", "no", "ok"),
        (0, "bright", "auto", "unknown"),
        (3, "unknown", "auto", "unknown"),
    ],
)
def test_contrast_that_cannot_be_told_is_never_ok(card, brightness, wanted, invert, level):
    sample = take_sample(Balls(brightness))
    [finding] = check_contrast(sample, card.replace(contrast=wanted), invert)
    assert finding.level == level


def test_the_way_out_of_a_contrast_that_was_flipped_already_is_another(card):
    sample = take_sample(Balls(-3))
    ways = [
        next(check_contrast(sample, card.replace(contrast="bright"), "auto", flipped=flipped)).way_out
        for flipped in (False, True)
    ]
    assert ways[0].startswith("Add --invert yes to flip them")
    assert ways[1].startswith("Add --invert no to leave them unflipped")


@pytest.mark.parametrize(
    ("box", "angpix", "same"),
    [(16, 20.0, True), (16, 20.1, True), (16, 20.3, False), (18, 20.0, False), (32, 10.0, False)],
)
def test_a_model_is_fitted_by_pixel_size_and_by_extent(card, box, angpix, same):
    source = Balls(0, box, angpix)
    assert fits(source, card) is same
    [finding] = check_fit(source, card, rescale=False)
    assert finding.level == ("ok" if same else "error")
    [finding] = check_fit(source, card, rescale=True)
    assert finding.level == "ok"


# -------------------------------------------------------------------------------------- what is unknown


def test_where_something_could_not_be_told_not_all_is_well(capsys):
    """Noise shows no blob, so nobody knows whether particles are bright."""
    images(labels=["unlabelled"])
    assert main(["doctor", "bad.star", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "all is well" not in out
    assert any(line.startswith("unknown  contrast") for line in out.splitlines())
    assert "could not be told" in out.splitlines()[-2]


def test_headers_that_disagree_where_the_table_is_silent_are_refused(cryoclass):
    star({"rlnImageName": [*boxes(2, angpix=20.0), *(f"other_{name}" for name in boxes(2, angpix=20.0))]})
    for name in ("box_00.mrc", "box_01.mrc"):
        from cryoclass.volumes.mrc import read_map, write_volume

        write_volume(Path(f"other_{name}"), read_map(Path(name)).data, 10.0)
    ran = cryoclass("embed", "bad.star", "--map", "pca", "--device", "cpu", "-o", "Out")
    assert ran.status == 1
    assert "its volumes' headers 10 A" in ran.err


def test_most_particles_outside_are_refused_even_where_their_boxes_touch_the_tomogram(cryoclass):
    tomogram()
    picks([(-2, 9, 9), (-3, 9, 12), (20, 20, 12)])
    ran = cryoclass("extract", "bad.star", "--tomograms", "T", "--box", "16", "-o", "Out")
    assert ran.status == 1
    assert "2 of 3 particles would lie outside their tomograms" in ran.err


@pytest.mark.parametrize(
    ("usable", "damaged", "all_there_are", "side", "level", "words"),
    [
        (4, 0, 4, 16, "ok", "4 were read, and none is damaged"),
        (4, 0, 4, 15, "warning", "RELION and Warp refuse odd boxes"),
        (3, 1, 4, 15, "warning", "1 of 4 sampled boxes cannot be used, such as: damaged"),
        (0, 4, 4, 16, "error", "none of 4 particles can be read; the first: damaged"),
        (0, 4, 9, 16, "warning", "4 of 4 sampled boxes cannot be used"),  # the others may be well
    ],
)
def test_a_sample_says_how_many_boxes_can_be_used(usable, damaged, all_there_are, side, level, words):
    sample = Sample(
        rows=tuple(range(usable)),
        problems=("damaged",) * damaged,
        mean=np.zeros((4,) * 3),
        digest="",
        seconds=0.0,
    )

    class Sampled:
        box, angpix, order = side, 10.0, np.arange(all_there_are)

        def __len__(self):
            return all_there_are

    (finding,) = check_boxes(sample, Sampled())
    assert finding.level == level
    assert words in finding.words

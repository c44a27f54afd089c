"""Classes by tomogram: the counts, the tomograms that are unlike the others, and pictures of a few."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import starfile
from cli_helpers import SPECIES, table
from scipy.special import softmax

from cryoclass import sections
from cryoclass.errors import VolumeError
from cryoclass.inference.engines import TorchEngine
from cryoclass.report.content import PredictContent, TomogramPicture, TomogramRow, TomogramTable
from cryoclass.report.pages import prediction_page
from cryoclass.results import Decisions
from cryoclass.sections import MOST_SECTIONS, grey_values, slab_of
from cryoclass.tallies import outliers, tally
from cryoclass.volumes.mrc import open_volume, write_volume

CLASSES = ("ribosome", "junk", "=proteasome")


def decided(classes, probability=None, status=None):
    """Decisions that give each row a class, -1 where it is unsure."""
    classes = np.asarray(classes)
    high = np.full(len(classes), 0.9) if probability is None else np.asarray(probability)
    probabilities = np.repeat((1 - high)[:, None] / 2, 3, axis=1).astype(np.float32)
    probabilities[np.arange(len(classes)), np.maximum(classes, 0)] = high
    words = np.where(classes >= 0, "done", "unsure") if status is None else np.asarray(status)
    return Decisions(probabilities=probabilities, classes=classes, status=words)


def drawn(shares, size=60, seed=0):
    """Rows of tomograms with such shares of the classes (T, 3)."""
    random = np.random.default_rng(seed)
    classes = np.concatenate([random.choice(3, size, p=np.asarray(one) / np.sum(one)) for one in shares])
    names = [f"T/TS_{number:02d}.mrc" for number in range(len(shares)) for _ in range(size)]
    return names, classes


def odd_of(names, classes, **more):
    grey = more.pop("grey", None)
    return outliers(tally(names, decided(classes, **more), 3, grey), CLASSES)


# ---------------------------------------------------------------------------------------------- counting


def test_each_row_is_counted_once():
    names = ["a", "b", "a", "b", "", "a"]
    found = tally(
        names,
        decided([0, 1, -1, -1, 2, 0], status=["done", "done", "unsure", "unreadable", "done", "done"]),
        3,
    )
    assert found.names == ["a", "b", ""]
    assert found.counts.tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert found.unsure.tolist() == [1, 0, 0]
    assert found.unreadable.tolist() == [0, 1, 0]
    assert found.told.tolist() == [3, 1, 1]
    assert found.probability == pytest.approx([0.9] * 3, abs=1e-6)
    assert np.isnan(found.probability_interval(1)).all(), "one particle has no spread"
    assert found.shown == ["a", "b", "(no tomogram named)"]


def test_names_are_shown_without_folders_where_they_stay_apart():
    classes = decided([0, 0])
    assert tally(["x/TS_1.mrc", "x/TS_2.mrc"], classes, 3).shown == ["TS_1.mrc", "TS_2.mrc"]
    assert tally(["x/TS_1.mrc", "y/TS_1.mrc"], classes, 3).shown == ["x/TS_1.mrc", "y/TS_1.mrc"]


# -------------------------------------------------------------------------------------- unlike the others


def test_a_tomogram_with_other_classes_is_named_with_figure_count_and_usual_share():
    shares = [[5, 3, 2]] * 7
    shares[4] = [1, 8, 1]
    (found,) = odd_of(*drawn(shares))
    assert found.name == "TS_04.mrc"
    assert str(found).startswith("TS_04.mrc is unlike the other tomograms: ")
    (junk,) = [words for words in found.reasons if words.startswith("junk")]
    assert junk == "junk 47 of 60 (0.78; 0.66 to 0.87), in the others 0.29"


def test_tomograms_that_differ_among_themselves_are_no_outliers():
    """Cells differ: counts alone would call most of these outliers."""
    random = np.random.default_rng(2)
    names, classes = drawn(random.dirichlet([4, 3, 2], 20), size=200)
    assert not odd_of(names, classes)


@pytest.mark.parametrize("spread", [None, 20.0])
def test_false_alarms_are_rare(spread):
    random = np.random.default_rng(3)
    base = np.array([0.5, 0.3, 0.2])
    alarms = sum(
        bool(
            odd_of(
                *drawn([base] * 12 if spread is None else random.dirichlet(spread * base, 12), 50, seed),
                probability=random.beta(9, 1, 600),
            )
        )
        for seed in range(100)
    )
    assert alarms <= 10


def test_a_tomogram_that_the_network_is_less_sure_of_is_named():
    names, classes = drawn([[5, 3, 2]] * 8)
    random = np.random.default_rng(0)
    probability = random.uniform(0.85, 0.99, len(names))
    probability[names.index("T/TS_03.mrc") :][:60] -= 0.3
    (found,) = odd_of(names, classes, probability=probability)
    assert found.name == "TS_03.mrc"
    assert found.reasons[0].startswith("mean probability 0.6")
    assert "of 60 particles, in the others 0.92" in found.reasons[0]


def test_a_difference_that_is_sure_but_small_is_not_worth_a_word():
    names, classes = drawn([[5, 3, 2]] * 8)
    probability = np.full(len(names), 0.999)
    probability[:60] = 0.99
    assert not odd_of(names, classes, probability=probability)


def test_a_tomogram_with_other_grey_values_is_named():
    names, classes = drawn([[5, 3, 2]] * 8)
    grey = {name: (0.01, 1 + 0.02 * number) for number, name in enumerate(dict.fromkeys(names))}
    assert not odd_of(names, classes, grey=grey)
    grey["T/TS_02.mrc"] = (0.0, 5.0)
    grey["T/TS_06.mrc"] = (12.0, 1.0)
    wide, bright = odd_of(names, classes, grey=grey)
    assert wide.name == "TS_02.mrc"
    assert wide.reasons == ("grey values have a deviation of 5 (one section), in the others 1.06",)
    assert bright.name == "TS_06.mrc"
    assert bright.reasons[0].startswith("grey values have a mean of 12")


def test_few_tomograms_or_few_particles_tell_nothing():
    assert odd_of(*drawn([[5, 3, 2]] * 3 + [[0, 1, 0]])) is None
    assert odd_of(*drawn([[5, 3, 2]] * 8 + [[0, 1, 0]], size=9)) is None


# ------------------------------------------------------------------------------------------------ sections


@pytest.fixture
def placement(extracted):
    """The first tomogram of the project with its particles, as the boxes are cut."""
    from cryoclass.cutting import TomogramSource
    from cryoclass.particles import read_particles
    from cryoclass.settings import Extraction
    from cryoclass.tomograms import find_tomograms

    particles = read_particles(extracted.coordinates)
    found = find_tomograms(particles.tomograms, extracted.tomograms, particles.path)
    return TomogramSource(particles, found, Extraction(box=16)).placements[0]


def planted(placement, path, where, depth=32):
    """The placement in a volume of zeros with one bright voxel where its first particle lies."""
    x, y, z = where
    voxels = np.zeros((depth, 96, 96), np.float32)
    voxels[z, y, x] = 100
    write_volume(path, voxels, 20)
    positions = np.array([where, (5, 5, 0)], float)
    return replace(
        placement,
        tomogram=replace(placement.tomogram, paths=(path,)),
        positions=positions,
        rows=placement.rows[:2],
        geometry=replace(placement.geometry, shape=(96, 96, depth)),
    )


def test_circles_lie_where_the_particles_are(placement, tmp_path):
    here = planted(placement, tmp_path / "t.mrc", (70, 20, 17))
    slab = slab_of(here, box=320.0, rows=here.rows)
    y, x = np.unravel_index(slab.picture.argmax(), slab.picture.shape)
    assert (x, y) == (70, 20)
    assert slab.rows.tolist() == here.rows[:1].tolist(), "the other one lies far below"
    assert slab.places.tolist() == [[70.5 * 20, 20.5 * 20]]
    assert slab.size == (1920, 1920)
    assert slab.thickness == 160, "half a box"
    assert slab.height == 320


def test_where_no_particle_lies_in_the_middle_the_section_goes_to_them(placement, tmp_path):
    here = planted(placement, tmp_path / "t.mrc", (70, 20, 3))
    slab = slab_of(here, box=160.0, rows=here.rows)
    assert slab.rows.tolist() == here.rows[:1].tolist()
    assert slab.picture[20, 70] > 0
    nobody = slab_of(here, box=160.0, rows=np.array([], int))
    assert nobody.height == 320
    assert not len(nobody.rows)


def test_half_volumes_are_added_up(placement, tmp_path):
    here = planted(placement, tmp_path / "a.mrc", (70, 20, 16))
    planted(placement, tmp_path / "b.mrc", (30, 40, 16))
    both = replace(here, tomogram=replace(here.tomogram, paths=(tmp_path / "a.mrc", tmp_path / "b.mrc")))
    picture = slab_of(both, box=80.0, rows=here.rows).picture
    assert picture[20, 70] == picture[40, 30] > 0


class Watched(np.ndarray):
    """Voxels that tell which sections were asked for, and refuse to be taken whole."""

    asked: list[int]

    def __getitem__(self, key):
        self.asked.append(key[0])
        return np.ndarray.__getitem__(self, key).view(np.ndarray)

    def __array__(self, *_more, **_options):
        raise AssertionError("the whole volume was read")


def test_of_a_large_volume_a_few_sections_are_read(placement, tmp_path, monkeypatch):
    here = planted(placement, tmp_path / "t.mrc", (70, 20, 100), depth=200)
    asked: list[int] = []

    def watched(path):
        volume = open_volume(path)
        data = volume.data.view(Watched)
        data.asked = asked
        return replace(volume, data=data)

    monkeypatch.setattr(sections, "open_volume", watched)
    slab = slab_of(here, box=3000.0, rows=here.rows)
    assert len(asked) == MOST_SECTIONS
    assert (min(asked), max(asked)) == (62, 137)
    assert slab.thickness == 76 * 20
    asked.clear()

    assert grey_values(SimpleNamespace(placements=[here])).keys() == {here.tomogram.name}
    assert asked == [100]


def test_compressed_and_broken_volumes_have_no_grey_values(placement, tmp_path):
    here = planted(placement, tmp_path / "t.mrc", (70, 20, 16))
    (tmp_path / "t.mrc").write_bytes(b"short")
    packed = replace(here, tomogram=replace(here.tomogram, paths=(tmp_path / "t.mrc.gz",)))

    assert grey_values(SimpleNamespace(placements=[here, packed])) == {}
    with pytest.raises(VolumeError):
        slab_of(here, 160.0, here.rows)


@pytest.mark.parametrize("shape", [(480, 480), (480, 240), (20, 480)])
def test_pictures_keep_a_page_small_and_take_any_shape_and_many_classes(shape, tmp_path):
    random, (height, width) = np.random.default_rng(0), shape
    size = (20.0 * width, 20.0 * height)
    picture = TomogramPicture(
        name="TS_<b>1",
        section=random.standard_normal(shape).astype(np.float32),
        size=size,
        height=640,
        thickness=160,
        places=random.random((400, 2)) * size,
        classes=random.integers(-1, 60, 400),
        radius=120,
    )
    rows = [
        TomogramRow(
            name="TS_<b>1", told=400, counts=np.ones(60, int), unsure=0, unreadable=0, probability="0.5"
        )
    ]
    sheet = TomogramTable(classes=[f"c{n}" for n in range(60)], rows=rows * 600, pictures=[picture] * 6)
    prediction_page(tmp_path / "p.html", PredictContent(count=400, classified=None, tomograms=sheet))
    page = (tmp_path / "p.html").read_text()
    assert page.count("data:image/jpeg") == 6
    assert len(page) < 3_000_000
    assert "TS_<b>1" not in page
    assert "and 100 more, in <code>tomograms.csv</code>" in page
    assert "Shown: the 40 most frequent of 60 classes." in page


# --------------------------------------------------------------------------------------- the command line


def rows(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("here")
def test_counts_by_tomogram_are_those_of_the_table(cryoclass, trained):
    argv = ("predict", trained.particles, "--model", trained.model, "--min-probability", 0.6, "-o", "P")
    ran = cryoclass(*argv)
    assert ran.status == 0, ran.err
    said = table(Path("P/particles.star"))
    for row in rows("P/tomograms.csv"):
        own = said[[Path(name).name == Path(row["tomogram"]).name for name in said["rlnMicrographName"]]]
        assert [int(row[name]) for name in SPECIES] == [
            (own["cryoclassClassName"] == n).sum() for n in SPECIES
        ]
        assert int(row["classified"]) == len(own) == 12
        assert int(row["no class"]) == (own["cryoclassClassName"] == "unsure").sum()
        highest = own["rlnMaxValueProbDistribution"]
        assert float(row["mean_probability"]) == pytest.approx(highest.mean(), abs=1e-3)
        low, high = float(row["mean_probability_low"]), float(row["mean_probability_high"])
        assert low <= highest.mean() <= high
        assert row["unlike_the_others"] == "not told"
    words = "whether a tomogram is unlike the others could not be told: 3 of 3 have at least 10"
    assert words in ran.err
    page = Path("P/report.html").read_text()
    assert "could not be told: 3 of 3" in page
    assert "Particles by tomogram and class" in page
    assert "A look at tomograms" not in page, "files of boxes have no tomogram to show"
    assert "3, unlike ones could not be told; P/tomograms.csv" in ran.out


@pytest.mark.usefixtures("here")
def test_with_tomograms_the_page_shows_those_with_most_particles(cryoclass, trained, monkeypatch):
    cut = ("predict", trained.coordinates, "--tomograms", trained.tomograms, "--model", trained.model)
    ran = cryoclass(*cut, "-o", "P")
    assert ran.status == 0, ran.err
    page = Path("P/report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3
    assert "particles lie in it" in page
    monkeypatch.setattr("cryoclass.jobs.by_tomogram.PICTURES", 2)
    lines = trained.coordinates.read_text().splitlines(keepends=True)
    dropped = next(n for n, line in enumerate(lines) if "TS_01" in line)
    Path("fewer.star").write_text("".join(lines[:dropped] + lines[dropped + 1 :]))
    ran = cryoclass("predict", "fewer.star", *cut[2:], "-o", "Q")
    assert ran.status == 0, ran.err
    page = Path("Q/report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    assert "Shown: the 2 of 3 tomograms with most particles." in page
    assert "<h3>TS_01.mrc</h3>" not in page
    assert "<h3>TS_02.mrc</h3>" in page


@pytest.mark.usefixtures("here")
def test_an_outlier_is_a_warning_a_cell_and_a_sentence_on_the_page(cryoclass, trained, monkeypatch):
    blocks = starfile.read(trained.particles)
    own = blocks["particles"]
    many = own.iloc[np.arange(96) % 36].reset_index(drop=True)
    many["rlnMicrographName"] = [f"TS_{row // 16:02d}.mrc" for row in range(96)]
    starfile.write({"optics": blocks["optics"], "particles": many}, "many.star")
    classes = np.where(np.arange(96) // 16 == 4, 2, np.arange(96) % 3)
    logits = 3 * np.eye(3, dtype=np.float32)[classes]
    seen = []

    def run(_self, voxels):
        start = sum(seen)
        seen.append(len(voxels))
        part = logits[start : start + len(voxels)]
        return {
            "logits": part,
            "probabilities": softmax(part, axis=1),
            "embedding": np.zeros((len(part), 512)),
        }

    monkeypatch.setattr(TorchEngine, "run", run)
    ran = cryoclass("predict", "many.star", "--model", trained.model, "-o", "P")
    assert ran.status == 0, ran.err
    words = "TS_04.mrc is unlike the other tomograms: "
    assert f"warning: {words}" in ran.err
    assert f"{SPECIES[2]} 16 of 16 (1.00; 0.81 to 1.00), in the others 0.3" in ran.err
    assert ran.err.count("is unlike the other") == 1
    assert "6, 1 unlike the others" in ran.out
    unlike = {row["tomogram"]: row["unlike_the_others"] for row in rows("P/tomograms.csv")}
    assert unlike.pop("TS_04.mrc").startswith(f"{SPECIES[2]} 16 of 16")
    assert set(unlike.values()) == {"no"}
    page = Path("P/report.html").read_text()
    assert "1 of 6 tomograms is unlike the others" in page
    assert words in page


@pytest.mark.usefixtures("here")
def test_without_tomograms_in_the_table_there_is_nothing_by_tomogram(cryoclass, trained):
    blocks = starfile.read(trained.particles)
    bare = blocks["particles"].drop(columns="rlnMicrographName")
    starfile.write({"optics": blocks["optics"], "particles": bare}, "bare.star")
    ran = cryoclass("predict", "bare.star", "--model", trained.model, "-o", "P")
    assert ran.status == 0, ran.err
    assert not Path("P/tomograms.csv").exists()
    assert "tomograms" not in ran.out
    assert "Particles by tomogram" not in Path("P/report.html").read_text()

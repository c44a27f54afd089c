"""Extractions and predictions that are ended anywhere go on, and end in the bytes of an unbroken run; changed inputs end them."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import table
from star_files import loop

from cryoclass.card import ModelCard
from cryoclass.cutting import TomogramSource
from cryoclass.errors import ChangedError, OutputError, VolumeError
from cryoclass.extraction import JOURNAL, Extracted, cut_all, write_extracted
from cryoclass.inference.pipeline import Flow, compute
from cryoclass.outputs import Facts, Status, open_outputs
from cryoclass.particles import read_particles
from cryoclass.records import RECORD
from cryoclass.settings import Extraction, Preparation
from cryoclass.stopping import Stopped, ask, signals_as_exits
from cryoclass.tomograms import Tomogram
from cryoclass.volumes.mrc import write_volume

PARTICLES = 20
GOOD = [n for n in range(PARTICLES) if n not in (4, 13, 17)]  # NaN, outside, no tomogram
SIDE = 8


class Hooked(TomogramSource):
    """Boxes out of tomograms; before one of them something happens."""

    before: dict[int, Callable[[], object]]
    reads = 0

    def read(self, index: int) -> np.ndarray:
        self.reads += 1
        self.before.get(self.reads, lambda: None)()
        return super().read(index)


@pytest.fixture
def picked(tmp_path) -> Callable[..., Hooked]:
    """Return a function that opens boxes in two tomograms, some of which cannot be cut; ``before`` the nth read it calls."""
    random = np.random.default_rng(0)
    for name in "AB":
        data = random.normal(size=(24, 24, 24)).astype(np.float32)
        write_volume(tmp_path / f"{name}.mrc", data, 10.0)
    data[2, 2, 2] = np.nan
    with (tmp_path / "A.mrc").open("r+b") as out:
        out.seek(1024)
        out.write(data.tobytes())
    places = np.array([[8 + n % 3, 12, 8 + n % 5] for n in range(PARTICLES)])
    places[4], places[13] = (4, 4, 4), (500, 4, 4)
    names = ["C" if n == 17 else "AB"[n % 2] for n in range(PARTICLES)]
    columns = {f"rlnCoordinate{axis}": map(str, places[:, i]) for i, axis in enumerate("XYZ")}
    star = tmp_path / "picks.star"
    star.write_text(loop({"rlnMicrographName": names, **columns}))

    def opened(before: dict[int, Callable[[], object]] | None = None, **settings: object) -> Hooked:
        tomograms = {name: Tomogram(name=name, paths=(tmp_path / f"{name}.mrc",)) for name in "AB"}
        wanted = Extraction(**{"box": SIDE, "coords_angpix": 10.0, **settings})
        source = Hooked(read_particles(star), tomograms, wanted)
        source.before, source.reads = before or {}, 0
        return source

    return opened


def whole(source: Hooked, folder: Path) -> Extracted:
    extracted = cut_all(source, folder)
    write_extracted(source, extracted, folder / "particles.star")
    return extracted


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (JOURNAL, "particles.star")  # which names the folder
    }


def stop() -> None:
    ask(signal.SIGTERM)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("moment", [1, 2, 7, 12, 18])
def test_an_extraction_goes_on_behind_the_last_box(moment, dtype, picked, tmp_path):
    unbroken = whole(picked(dtype=dtype), tmp_path / "one")
    with pytest.raises(Stopped) as raised, signals_as_exits():
        cut_all(picked({moment: stop}, dtype=dtype), tmp_path / "two")
    assert raised.value.code == 143
    again = picked(dtype=dtype)
    resumed = whole(again, tmp_path / "two")
    assert resumed.found >= moment - 3, "the boxes that were read ahead may be done again"
    assert again.reads <= PARTICLES - resumed.found + 1, "and one that was unreadable"
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert resumed.mean.tobytes() == unbroken.mean.tobytes()
    assert resumed.left_out == unbroken.left_out
    assert resumed.lost == unbroken.lost == 1
    assert resumed.rows.tolist() == unbroken.rows.tolist() == GOOD
    for name, boxes in unbroken.sample.items():
        assert [row for row, _ in boxes] == [row for row, _ in resumed.sample[name]]
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(boxes, resumed.sample[name], strict=True))


def test_a_finished_extraction_is_found_whole(picked, tmp_path):
    whole(picked(), tmp_path / "X")
    again = picked()
    assert cut_all(again, tmp_path / "X").found == PARTICLES - 1
    assert again.reads == 1, "what could not be read is tried again"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.unlink(),
        lambda path: (path.parents[2] / JOURNAL).write_bytes(b"PK\3\4half"),
        lambda path: (path.parents[2] / JOURNAL).write_bytes(b""),
    ],
    ids=["a box cut short", "a box gone", "the journal damaged", "the journal empty"],
)
def test_boxes_that_are_gone_are_cut_again(damage, picked, tmp_path):
    whole(picked(), tmp_path / "X")
    before = content(tmp_path / "X")
    damage(next((tmp_path / "X").rglob("*_000003.mrc")))
    assert whole(picked(), tmp_path / "X").found == 0
    assert content(tmp_path / "X") == before


@pytest.mark.parametrize("other", [{"box": 6}, {"invert": "yes"}, {"norm": False}, {"dtype": "float16"}])
def test_other_settings_begin_anew(other, picked, tmp_path):
    whole(picked(), tmp_path / "X")
    whole(picked(**other), tmp_path / "fresh")
    assert whole(picked(**other), tmp_path / "X").found == 0
    assert content(tmp_path / "X") == content(tmp_path / "fresh")


@pytest.mark.parametrize("name", ["A", "B"])
@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.unlink(),
        lambda path: write_volume(path, np.random.default_rng(9).normal(size=(24,) * 3), 10.0),
    ],
    ids=["cut short", "deleted", "replaced"],
)
def test_a_tomogram_that_changes_under_an_extraction_ends_it(change, name, picked, tmp_path):
    source = picked({7: lambda: change(tmp_path / f"{name}.mrc")})
    with pytest.raises(ChangedError, match="changed while"):
        cut_all(source, tmp_path / "X")
    assert not (tmp_path / "X" / JOURNAL).exists()


def test_boxes_are_counted_on_the_disk_in_the_end(picked, tmp_path):
    def lose() -> None:
        shutil.rmtree(next((tmp_path / "X").rglob("*_000001.mrc")).parent)

    with pytest.raises(OutputError, match=r"of 17 boxes that were written are gone"):
        cut_all(picked({16: lose}), tmp_path / "X")


# ----------------------------------------------------------------------------------------- predictions


class Batchy:
    """An engine whose answer for a box depends on its batch, as the last bits of a network's do."""

    def __init__(self) -> None:
        self.card = ModelCard(
            backbone="res32",
            classes=("a", "b"),
            angpix=10.0,
            box=(SIDE,) * 3,
            preparation=Preparation(input_size=(SIDE,) * 3),
            outputs={"logits": ("N", "classes"), "embedding": ("N", 2), "probabilities": ("N", "classes")},
        )
        self.description = "test"
        self.boxes = 0

    def run(self, voxels: np.ndarray) -> dict[str, np.ndarray]:
        self.boxes += len(voxels)
        own = voxels.reshape(len(voxels), -1)[:, :2]
        said = own + voxels.sum() * np.arange(1, len(voxels) + 1, dtype=np.float32)[:, None]
        return dict.fromkeys(("logits", "embedding", "probabilities"), said)

    def identity(self) -> str:
        return "test"


def facts(count: int) -> Facts:
    return Facts(count=count, input="i", model="m")


@pytest.mark.parametrize("size", [1, 3, 4, 32])
@pytest.mark.parametrize("moment", [1, 5, 6, 11, 19])
def test_a_prediction_goes_on_in_the_batches_of_an_unbroken_run(moment, size, picked, tmp_path):
    compute(Batchy(), picked(), open_outputs(tmp_path / "one", facts(PARTICLES)), Flow(batch_size=size))

    def fail() -> None:
        raise KeyboardInterrupt

    source, outputs = picked({moment: fail}), open_outputs(tmp_path / "two", facts(PARTICLES))
    with pytest.raises(KeyboardInterrupt):
        compute(Batchy(), source, outputs, Flow(batch_size=size))
    outputs = open_outputs(tmp_path / "two", facts(PARTICLES))
    compute(Batchy(), picked(), outputs, Flow(batch_size=size))
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert outputs.done.tolist() == GOOD
    assert outputs.lost == 1, "those outside and without a tomogram are left out by rule"


def test_rows_that_were_mended_are_computed_with_the_others_of_their_batch(picked, tmp_path):
    def partly(index: int) -> np.ndarray:
        if index in (0, 9):
            raise VolumeError("not yet copied")
        return TomogramSource.read(source, index)

    source = picked()
    source.read = partly
    engine = Batchy()
    compute(engine, source, open_outputs(tmp_path / "two", facts(PARTICLES)), Flow(batch_size=4))
    engine.boxes = 0
    compute(engine, picked(), open_outputs(tmp_path / "two", facts(PARTICLES)), Flow(batch_size=4))
    assert engine.boxes <= 8, "two batches, not all"
    compute(Batchy(), picked(), open_outputs(tmp_path / "one", facts(PARTICLES)), Flow(batch_size=4))
    assert content(tmp_path / "two") == content(tmp_path / "one")
    engine.boxes = 0
    compute(engine, picked(), open_outputs(tmp_path / "two", facts(PARTICLES)), Flow(batch_size=4))
    assert engine.boxes == 0, "what is still unreadable brings no batch with it"


def test_a_status_that_was_half_written_is_completed(picked, tmp_path):
    compute(Batchy(), picked(), open_outputs(tmp_path / "one", facts(PARTICLES)), Flow(batch_size=4))
    outputs = open_outputs(tmp_path / "two", facts(PARTICLES))
    compute(Batchy(), picked(), outputs, Flow(batch_size=4))
    outputs.status[outputs.done[::3]] = Status.NOT_YET
    compute(Batchy(), picked(), open_outputs(tmp_path / "two", facts(PARTICLES)), Flow(batch_size=4))
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_a_volume_that_changes_under_a_prediction_ends_it(cryoclass, trained, here, monkeypatch):
    """Boxes in files: they counted as unreadable, or two versions were mixed."""
    from cryoclass.inference.engines import TorchEngine

    shutil.copytree(trained.root / "Extract", here / "E", symlinks=False)
    argv = ("predict", "E/particles.star", "--model", trained.model, "-b", 8, "-o", "P")
    boxes, run, calls = sorted((here / "E").rglob("*.mrc")), TorchEngine.run, []

    def changing(engine, voxels):
        calls.append(len(voxels))
        if len(calls) == 2:
            os.utime(boxes[0], (1, 1))
        return run(engine, voxels)

    star = (here / "E" / "particles.star").read_text()
    (here / "E" / "particles.star").write_text(star.replace("Extract/Subtomograms", "E/Subtomograms"))
    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "run", changing)
        ran = cryoclass(*argv)
        assert ran.status == 1
        assert "have changed while they were read" in ran.err
    assert not Path("P/particles.star").exists()
    assert not Path("P/outputs/outputs.json").exists()
    assert cryoclass(*argv).status == 0


# ---------------------------------------------------------------------------------------- command line


def test_an_extraction_that_was_stopped_goes_on_with_the_same_command(
    cryoclass, console_script, extracted, here
):
    argv = ("extract", extracted.coordinates, "--tomograms", extracted.tomograms, "--box", 96, "-j", 1)
    process = console_script(*argv, "-o", "X")
    box = here / "X" / "Subtomograms" / "TS_01" / "TS_01_000001.mrc"
    while not box.exists() and process.poll() is None:
        pass
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err
    assert "stopped by SIGTERM; what is finished is kept, and the same command goes on from there." in err
    (here / "X" / ".cryoclass-0123456789ab.star").write_text("half")
    ran = cryoclass(*argv, "-o", "X")
    assert ran.status == 0, ran.err
    assert "particles were done already" in ran.err
    kept = {path.name for path in Path("X").iterdir()}
    assert kept == {"Subtomograms", "particles.star", "extract.html", "skipped.csv", RECORD}
    assert cryoclass(*argv, "-o", "Y").status == 0
    one, two = content(here / "X"), content(here / "Y")
    assert one == two


def test_a_command_that_starts_again_does_not_say_that_it_goes_on(console_script, here):
    process = console_script("simulate", "--tomograms", 60, "--per-species", 60, "-o", "S")
    while not list((here / "S").glob("tomograms/*.mrc")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "interrupted; the same command starts again." in err


def test_too_many_unreadable_particles_are_an_error_and_the_table_is_named_so(cryoclass, trained, here):
    shutil.copytree(trained.root / "Extract", here / "E")
    star = (here / "E" / "particles.star").read_text()
    (here / "E" / "particles.star").write_text(star.replace("Extract/Subtomograms", "E/Subtomograms"))
    boxes = sorted((here / "E").rglob("*.mrc"))[:2]
    good = {path: path.read_bytes() for path in boxes}
    for path in boxes:
        path.write_bytes(b"")
    for verb, more in (("predict", ()), ("embed", ("--map", "pca"))):
        argv = (verb, "E/particles.star", "--model", trained.model, *more, "-o", verb)
        ran = cryoclass(*argv)
        assert ran.status == 1
        assert "2 of 36 particles cannot be read: 5.6 %, and --max-unreadable allows 5 %" in ran.err
        assert len(table(Path(verb, "particles_incomplete.star"))) == 36
        assert not Path(verb, "particles.star").exists()
        assert len(Path(verb, "skipped.csv").read_text().splitlines()) == 3
        assert cryoclass(*argv, "--max-unreadable", 0.06).status == 0
        assert not Path(verb, "particles_incomplete.star").exists()
        assert "particles.star" in json.loads(Path(verb, RECORD).read_text())["files"]
    for path, whole_box in good.items():
        path.write_bytes(whole_box)
    assert (
        cryoclass(
            "predict", "E/particles.star", "--model", trained.model, "-o", "predict", "--overwrite"
        ).status
        == 0
    )
    assert len(Path("predict/skipped.csv").read_text().splitlines()) == 1


def test_an_extraction_that_lost_too_many_is_named_incomplete(cryoclass, trained, here):
    shutil.copytree(trained.tomograms, here / "T")
    first = min((here / "T").glob("*.mrc"))
    with first.open("r+b") as out:
        out.seek(1024)
        out.write(np.full(10**6, np.nan, np.float32).tobytes()[: first.stat().st_size - 1024])
    argv = ("extract", trained.coordinates, "--tomograms", "T", "--box", 16, "-o", "X")
    ran = cryoclass(*argv)
    assert ran.status == 1
    assert "--max-unreadable allows 5 %" in ran.err
    assert not Path("X/particles.star").exists()
    assert 0 < len(table(Path("X/particles_incomplete.star"))) < 36
    ran = cryoclass(*argv, "--max-unreadable", 1)
    assert ran.status == 0, ran.err
    assert "were done already" in ran.err
    assert {path.name for path in Path("X").glob("*.star")} == {"particles.star"}

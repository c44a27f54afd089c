"""A run goes on after a kill, and stored outputs are used again, where the particles are the same, wherever they lie now."""

import contextlib
import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from cli_helpers import EPOCHS, NETWORK

from cryoclass import FinetuneRequest, finetune
from cryoclass.files import content
from cryoclass.progress import Listener
from cryoclass.records import RECORD
from cryoclass.settings import Start, Training
from cryoclass.training.checkpoint import space
from cryoclass.training.finetune import _content_of
from cryoclass.training.history import EpochRecord


@pytest.fixture
def disk(tmp_path, extracted) -> Path:
    """A disk with the project's boxes and tomograms, which may be moved."""
    shutil.copytree(extracted.root / "Extract", tmp_path / "disk" / "Extract")
    shutil.copytree(extracted.root / "Simulated", tmp_path / "disk" / "Simulated")
    return tmp_path / "disk"


def moved(disk: Path) -> Path:
    new = disk.with_name("elsewhere") / "deep" / "disk"
    new.parent.mkdir(parents=True)
    disk.rename(new)
    return new


@pytest.fixture
def interrupted(cryoclass, disk, monkeypatch):
    """Return a function that begins a fine-tuning in the folder of the disk, and ends it after its first epoch."""

    def begin(*argv: object) -> None:
        def stop(_record):
            raise KeyboardInterrupt

        monkeypatch.chdir(disk)
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules["cryoclass.cli.finetune"], "_say_record", stop)
            ran = cryoclass("finetune", *argv, *NETWORK, "--epochs", 2, "-o", "F")
        assert ran.status == 130, ran.err

    return begin


@pytest.mark.parametrize("cut", [False, True])
def test_finetune_goes_on_from_another_folder_and_disk(cut, cryoclass, disk, interrupted, monkeypatch):
    star = "Simulated/coordinates.star" if cut else "Extract/particles.star"
    more = ("--tomograms", "Simulated/tomograms", "--box", 16) if cut else ()
    interrupted(star, *more)
    new = moved(disk)
    monkeypatch.chdir(new.parent)
    more = ("--tomograms", new / "Simulated" / "tomograms", "--box", 16) if cut else ()
    ran = cryoclass("finetune", f"disk/{star}", *more, *NETWORK, "--epochs", 2, "-o", "disk/F")
    assert ran.status == 0, ran.err
    assert "epoch   2" in ran.err
    assert "epoch   1" not in ran.err


def test_other_voxels_under_the_same_names_are_another_run(cryoclass, disk, interrupted):
    interrupted("Extract/particles.star")
    images = sorted((disk / "Extract" / "Subtomograms").rglob("*.mrc"))
    times = images[0].stat()
    shutil.copyfile(images[1], images[0])
    os.utime(images[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    ran = cryoclass("finetune", "Extract/particles.star", *NETWORK, "--epochs", 2, "-o", "F")
    assert ran.status == 2
    assert "voxels was" in ran.err


def test_outputs_are_used_again_from_another_folder_and_disk(cryoclass, trained, disk, monkeypatch):
    monkeypatch.chdir(disk)
    rest = ("--model", trained.model, "--device", "cpu", "--overwrite", "-o")
    assert cryoclass("predict", "Extract/particles.star", *rest, "P").status == 0
    new = moved(disk)
    monkeypatch.chdir(new.parent)
    ran = cryoclass("predict", new / "Extract" / "particles.star", *rest, "disk/P")
    assert ran.status == 0, ran.err
    assert "nothing is computed" in ran.err


def test_weights_to_start_from_are_known_by_what_they_hold(trained, tmp_path):
    shutil.copytree(trained.model, tmp_path / "copy")
    here, there = (_content_of(Start(init=str(folder))) for folder in (trained.model, tmp_path / "copy"))
    assert here == there
    for name, text in [("a", "1"), ("b", "1"), ("c", "2")]:
        (tmp_path / name).write_text(text)
    one, same, other = (_content_of(Start(weights=tmp_path / name)) for name in "abc")
    assert one == same != other
    assert one["weights"] == content(tmp_path / "a")[:12]


# ------------------------------------------------------------------------------------ kills and equal bytes

FEW = ("--epochs", 4, "--batch-size", 6, "--input-size", 16, 16, 16, "--device", "cpu", "-j", 1, "-o", "F")
SCRIPT = """
from pathlib import Path
from cryoclass import FinetuneRequest, finetune
from cryoclass.settings import Start, Training
finetune(
    FinetuneRequest(
        particles=["Extract/particles.star"],
        outdir=Path("F"),
        device="cpu",
        num_workers=1,
        training=Training(epochs=4, batch_size=6),
        start=Start(input_size=(16, 16, 16)),
        checkpoint_seconds=0.0,
    )
)
"""


def after_savings(count: int, process: subprocess.Popen, folder: Path) -> None:
    """Wait until a process has saved some times."""
    seen, ends = set(), time.monotonic() + 120
    while len(seen) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        with contextlib.suppress(FileNotFoundError):  # for a moment there is only the one before
            seen.add((folder / "checkpoint.pt").stat().st_mtime_ns)


def results(folder: Path) -> dict[str, bytes]:
    """Return what a folder holds in the end, checkpoints and times left out."""
    aside = ("times.csv", "checkpoint.pt", "checkpoint-1.pt")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in aside}


@pytest.mark.usefixtures("here")
def test_a_run_that_is_killed_time_and_again_ends_in_the_same_bytes(cryoclass, console_script):
    """The head first, then epochs: killed within one, and twice asked to end."""
    argv, folder = ("finetune", "Extract/particles.star", *FEW), Path("F")
    for savings in (2, 9):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=subprocess.PIPE)
        after_savings(savings, process, folder)
        process.kill()
        process.communicate()
    for number, status, words in [
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGINT, 130, "interrupted"),
    ]:
        process = console_script(*argv)
        line = ""
        while not line.startswith("going on"):
            line = process.stderr.readline()
            assert line, "it ended, or began anew"
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode == status, err
        assert words in err
        assert "Traceback" not in err
    ran = cryoclass(*argv)
    assert ran.status == 0, ran.err
    assert "going on after " in ran.err
    folder.rename("Killed")
    assert cryoclass(*argv).status == 0
    unbroken, killed = results(Path("F")), results(Path("Killed"))
    assert {*unbroken} == {
        RECORD,
        "model.safetensors",
        "model.json",
        "history.csv",
        "metrics.json",
        "predictions.star",
        "report.html",
    }
    assert [name for name in unbroken if unbroken[name] != killed[name]] == []
    assert [*unbroken] != []
    with Path("Killed/times.csv").open() as file:
        times = [*csv.DictReader(file)]
    assert [line["epoch"] for line in times] == ["0", "1", "2", "3", "4"]
    assert all(float(line["seconds"]) > 0 for line in times)
    assert b"seconds" not in unbroken["history.csv"]


# ----------------------------------------------------------------------------------------------- the rule


@pytest.fixture
def until_record(cryoclass, monkeypatch):
    """Run a command, and end it with Ctrl-C at the first line of its history that it tells: pages take long."""

    def run(*argv: object):
        def stop(_record):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(sys.modules["cryoclass.cli.finetune"], "_say_record", stop)
            return cryoclass(*argv)

    return run


@pytest.fixture(scope="module")
def begun(extracted, tmp_path_factory):
    """A project with an interrupted run of two epochs, in ``F``."""
    root = tmp_path_factory.mktemp("begun") / "project"
    shutil.copytree(extracted.root / "Extract", root / "Extract")

    class Stops(Listener):
        def tell(self, event):
            if isinstance(event, EpochRecord):
                raise KeyboardInterrupt

    with contextlib.chdir(root), pytest.raises(KeyboardInterrupt):
        finetune(BEGUN, Stops())
    return root


BEGUN = FinetuneRequest(
    particles=["Extract/particles.star"],
    outdir=Path("F"),
    device="cpu",
    training=Training(recipe="quick", epochs=2),
    start=Start(backbone="r3d10", input_size=(8, 16, 16)),
)
GO_ON = ("finetune", "Extract/particles.star", *NETWORK, "--epochs", 2, "-o", "F")


@pytest.fixture
def copy(begun, tmp_path, monkeypatch):
    """Work in a copy of it."""
    shutil.copytree(begun, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize("wish", [(), ("--resume", "-j", 2), ("--overwrite",)])
def test_an_interrupted_run_goes_on_whatever_is_added(until_record, wish):
    ran = until_record(*GO_ON, *wish)
    assert ran.status == 130, ran.err
    assert "going on after epoch 1 of 2, from checkpoint.pt" in ran.err
    state = torch.load("F/checkpoint.pt")["state"]
    assert [record["epoch"] for record in state["records"]] == [1, 2]


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("--lr", 0.5), "lr was 0.001, now 0.5"),
        (("--epochs", 3), "epochs was 2, now 3"),
        (("--seed", 3), "seed was 0, now 3; particles was"),
        (("--invert", "yes"), "invert was auto, now yes; voxels was"),
        (("--angpix", 21), "boxes was 16 pixels of 20 A, now 16 pixels of 21 A"),
        (("--split", "particle"), "particles was"),
        (("--input-size", 8, 16, 8), "preparation was"),
        (("--backbone", "r3d18", "--init", "random"), "backbone was r3d10, now r3d18"),
        (("--freeze",), "freeze was False, now True"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_another_run_does_not_go_on_from_there(cryoclass, change, says):
    before = content(Path("F/checkpoint.pt"))
    ran = cryoclass(*GO_ON, *change)
    assert ran.status == 2
    assert "F/checkpoint.pt belongs to another run: " in ran.err
    assert says in ran.err
    assert "Repeat the first command, choose another --outdir, or start again with --overwrite." in ran.err
    assert content(Path("F/checkpoint.pt")) == before


@pytest.mark.usefixtures("copy")
def test_other_labels_are_another_run(cryoclass):
    """Two particles of one tomogram change their classes; classes, tomograms and images stay the same."""
    path = Path("Extract/particles.star")
    lines = path.read_text().split("\n")
    first, second = (
        next(n for n, line in enumerate(lines) if name in line) for name in ("aldolase", "apoferritin")
    )
    lines[first] = lines[first].replace("aldolase", "apoferritin")
    lines[second] = lines[second].replace("apoferritin", "aldolase")
    path.write_text("\n".join(lines))
    ran = cryoclass(*GO_ON)
    assert ran.status == 2
    assert "belongs to another run: particles was" in ran.err


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize("wish", [("--overwrite",), ("--resume", "--overwrite")])
def test_another_run_takes_the_place_of_an_interrupted_one_when_asked(until_record, wish):
    ran = until_record(*GO_ON, "--lr", 0.002, *wish)
    assert ran.status == 130, ran.err
    assert "belongs to another run: lr was 0.001, now 0.002" in ran.err
    assert "Starting anew" in ran.err
    found = torch.load("F/checkpoint.pt")
    assert found["settings"]["lr"] == "0.002"
    assert [record["epoch"] for record in found["state"]["records"]] == [1]
    assert not Path("F/checkpoint-1.pt").exists()


@pytest.mark.usefixtures("copy")
def test_a_job_of_relion_goes_on_when_it_is_run_again(until_record):
    ran = until_record("finetune", "--o", "F/", "--in_parts", *GO_ON[1:-2])
    assert ran.status == 130, ran.err
    assert "going on after epoch 1 of 2" in ran.out
    assert len(torch.load("F/checkpoint.pt")["state"]["records"]) == 2


@pytest.fixture
def finished(trained, here):
    """A copy of a finished run in ``F``, and its command."""
    shutil.copytree(trained.model, here / "F")
    return ("finetune", "Extract/particles.star", *NETWORK, "--epochs", str(EPOCHS), "-o", "F")


def test_a_finished_run_is_gone_through_or_replaced_as_asked(cryoclass, until_record, finished):
    before = results(Path("F"))
    ran = cryoclass(*finished)
    assert ran.status == 2
    assert "holds a finished run" in ran.err
    assert cryoclass(*finished, "--resume", "--lr", 0.5).status == 2
    assert results(Path("F")) == before
    ran = cryoclass(*finished, "--resume")
    assert ran.status == 0, ran.err
    assert "epoch   1" not in ran.err
    after = results(Path("F"))
    paths = {"predictions.star"}  # which lead from the folder where it lies now
    assert {name for name in before if before[name] != after[name]} <= paths
    ran = until_record(*finished, "--overwrite")
    assert ran.status == 130, ran.err
    assert "going on" not in ran.err, "with --overwrite alone it starts anew"
    assert not Path("F/model.json").exists()
    assert len(torch.load("F/checkpoint.pt")["state"]["records"]) == 1


def test_a_finished_run_without_its_checkpoints_is_not_gone_through(cryoclass, finished):
    for checkpoint in Path("F").glob("checkpoint*.pt"):
        checkpoint.unlink()
    before = results(Path("F"))
    ran = cryoclass(*finished, "--resume")
    assert ran.status == 2
    assert "no checkpoint to go on from" in ran.err
    assert results(Path("F")) == before


# ------------------------------------------------------------------------------------------------ the disk

Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_is_too_small_is_told_before_the_first_epoch(cryoclass, finished, monkeypatch):
    before = {path: path.read_bytes() for path in Path("F").iterdir()}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**7, 8 * 10**6, 2 * 10**6))
    for argv in ([*finished, "--overwrite"], [*finished[:-1], "G"]):
        ran = cryoclass(*argv)
        assert ran.status == 1
        assert "2 MB free in" in ran.err
        assert "Free some space, choose another --outdir, or a smaller --backbone." in ran.err
        assert "epoch" not in ran.err
        assert not Path("G").exists()
    assert {path: path.read_bytes() for path in Path("F").iterdir()} == before


def test_what_is_there_already_counts_as_space_of_the_run(tmp_path):
    assert space(100, tmp_path) == 300
    (tmp_path / "checkpoint.pt").write_bytes(bytes(100))
    (tmp_path / "checkpoint-1.pt").write_bytes(bytes(90))
    assert space(100, tmp_path) == 110

"""A run goes on, and stored outputs are used again, where the particles are the same, wherever they lie now."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from cli_helpers import NETWORK

from cryoclass.files import content
from cryoclass.settings import Start
from cryoclass.training.finetune import _content_of


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
    ran = cryoclass("finetune", f"disk/{star}", *more, *NETWORK, "--epochs", 2, "-o", "disk/F", "--resume")
    assert ran.status == 0, ran.err
    assert "epoch   2" in ran.err
    assert "epoch   1" not in ran.err


def test_other_voxels_under_the_same_names_are_another_run(cryoclass, disk, interrupted):
    interrupted("Extract/particles.star")
    images = sorted((disk / "Extract" / "Subtomograms").rglob("*.mrc"))
    times = images[0].stat()
    shutil.copyfile(images[1], images[0])
    os.utime(images[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    argv = ("finetune", "Extract/particles.star", *NETWORK, "--epochs", 2, "-o", "F", "--resume")
    ran = cryoclass(*argv)
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

"""What is given for a file and is none: said at once, and never waited for or read without end."""

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from cryoclass.inputs import check_file, is_no_file, read_file


@pytest.fixture(autouse=True)
def _no_waiting():
    """End the test where something waits for a pipe all the same."""

    def end(_number, _frame):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pipe(tmp_path):
    """Return a function that makes a pipe of some name in the test's folder."""

    def make(name: str) -> Path:
        os.mkfifo(tmp_path / name)
        return tmp_path / name

    return make


def test_each_kind_has_its_words(pipe, tmp_path):
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "s"))
        cases = {
            pipe("p"): "a pipe",
            tmp_path / "s": "a socket",
            Path("/dev/zero"): "a device",
            tmp_path: "a folder",
        }
        for path, words in cases.items():
            assert f"it is {words}" in is_no_file(path)
            with pytest.raises(OSError, match=f"it is {words}"):
                read_file(path)
    (tmp_path / "link").symlink_to("/dev/zero")
    assert "device" in is_no_file(tmp_path / "link")


def test_a_file_is_one_and_nothing_is_none(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert read_file(tmp_path / "f") == b"abc"
    assert is_no_file(tmp_path / "f") == is_no_file(tmp_path / "missing") == ""
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "missing")


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_names_that_no_file_can_have_are_missing_files_in_words(name, tmp_path):
    with pytest.raises(OSError, match="no file can have that name"):
        check_file(tmp_path / name)


DOORS = {
    "table": "embed {pipe}.star --backbone res32-species -o O",
    "table of dynamo": "embed {pipe}.tbl --backbone res32-species -o O",
    "motive list": "embed {pipe}.em --backbone res32-species -o O",
    "one of several tables": "finetune a={particles} b={pipe}.star -o O",
    "model": "predict {particles} --model {folder} -o O",
    "onnx": "predict {particles} --onnx {pipe}.onnx -o O",
    "start": "finetune {particles} --init {folder} -o O",
    "weights": "embed {particles} --backbone res32 --weights {pipe}.pth -o O",
    "tomogram": "extract {coordinates} --tomograms {pipe}.mrc --box 16 -o O",
    "list of tomograms": "extract {coordinates} --tomograms {pipe}.star --box 16 -o O",
    "folder of tomograms": "extract {coordinates} --tomograms {tomograms} --box 16 -o O",
    "map": "simulate --maps {maps} -o O",
    "import": "backbones import r3d18-k700 {pipe}.pth",
    "card to export": "export {folder} -o x.onnx",
    "export": "export M -o {pipe}.onnx --overwrite",
}


@pytest.mark.parametrize("door", DOORS)
def test_a_pipe_is_refused_at_every_door(door, cryoclass, here, extracted, pipe):
    for folder, names in {"F": ["model.json"], "maps": ["1abc.mrc"], "T": ["TS_01.mrc"]}.items():
        (here / folder).mkdir()
        for name in names:
            os.mkfifo(here / folder / name)
    for path in extracted.tomograms.glob("TS_0[23].mrc"):
        shutil.copy(path, here / "T")
    suffix = DOORS[door].partition("{pipe}")[2].partition(" ")[0]
    names = {
        "pipe": pipe(f"p{suffix}").with_suffix(""),
        "particles": extracted.particles,
        "coordinates": extracted.coordinates,
        "folder": here / "F",
        "maps": here / "maps",
        "tomograms": here / "T",
    }
    ran = cryoclass(*DOORS[door].format(**names).split())
    assert ran.status in (1, 2)
    assert "it is a pipe, no file" in ran.err
    assert not (here / "O").exists()
    assert not [path for path in here.iterdir() if path.name.startswith(".cryoclass")]


def test_a_device_is_not_read_without_end(cryoclass, here, extracted):
    for argv in (
        ("embed", "/dev/zero", "--backbone", "res32-species"),
        ("predict", extracted.particles, "--onnx", "/dev/zero"),
        ("embed", extracted.particles, "--backbone", "res32", "--weights", "/dev/zero"),
        ("extract", extracted.coordinates, "--tomograms", "/dev/zero", "--box", 16),
    ):
        ran = cryoclass(*argv, "-o", here / "O")
        assert "it is a device, no file" in ran.err
        assert ran.status in (1, 2)

"""What no reader and no writer has foreseen: names, handles and memory give words too; and copies that would write twice."""

import csv
import logging
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
from mrc_files import mrc, ramp

from cryoclass.cli import console
from cryoclass.errors import CryoclassError, VolumeError
from cryoclass.machine import check_one_copy, copies
from cryoclass.particles import read_particles
from cryoclass.results import write_skipped
from cryoclass.volumes.mrc import open_volume

LONG = "x" * 300
COMMANDS = [
    "doctor {long}.star",
    "predict {particles} --model {long} -o O",
    "predict {particles} --onnx {long} -o O",
    "extract {coordinates} --tomograms {long} --box 16 -o O",
    "extract {coordinates} --tomograms {tomograms} --box 16 -o {long}",
    "embed {particles} --backbone res32 --weights {long} -o O",
    "embed {particles} --backbone res32-species -o {long}",
    "finetune a={long} b={long} -o O",
    "finetune {particles} -o {long}",
    "simulate --maps {long} -o O",
    "simulate -o {long}",
    "pretrain -o {long}",
    "export {long} -o y.onnx",
    "export M -o {long}.onnx",
    "backbones import r3d18-k700 {long}",
    "demo -o {long}",
]


@pytest.fixture
def project(here, extracted):
    """Return the project's places, and see that nothing is left."""
    before = sorted(here.rglob("*"))
    yield {
        "long": LONG,
        "particles": extracted.particles,
        "coordinates": extracted.coordinates,
        "tomograms": extracted.tomograms,
    }
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_is_too_long_is_said(command, cryoclass, project):
    ran = cryoclass(*command.format(**project).split())
    assert ran.status in (1, 2)
    assert "File name too long" in ran.err + ran.out


@contextmanager
def limited(what: int, soft: int):
    """Allow this process less for a while."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def test_no_handles_are_no_fault_of_a_file(tmp_path):
    """Else a sound particle would count as unreadable, and the run go on without it."""
    (tmp_path / "x.mrc").write_bytes(mrc(ramp()))
    open_volume(tmp_path / "x.mrc")
    with limited(resource.RLIMIT_NOFILE, 0), pytest.raises(CryoclassError) as caught:
        open_volume(tmp_path / "x.mrc")
    assert "Too many open files" in str(caught.value)
    assert not isinstance(caught.value, VolumeError)


def test_no_handles_are_said_with_a_way_out(cryoclass, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"x")
    argv = ("backbones", "import", "r3d18-k700", tmp_path / "x.pth")
    cryoclass(*argv)  # all that it imports is there
    with limited(resource.RLIMIT_NOFILE, 0):
        ran = cryoclass(*argv)
    assert ran.status == 1
    assert "x.pth cannot be read: Too many open files." in ran.err
    assert "ulimit -n" in ran.err


def test_too_little_memory_is_said_with_a_way_out(cryoclass, tmp_path):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with limited(resource.RLIMIT_AS, used + 2**30):
        ran = cryoclass("simulate", "--size", 256, 2048, 2048, "-o", tmp_path / "O")
    assert ran.status == 1
    assert "too little memory" in ran.err
    assert "--batch-size" in ran.err
    assert not (tmp_path / "O").exists()


@pytest.mark.skipif(os.name != "posix", reason="a folder without rights")
def test_a_table_with_a_nul_in_a_name_is_said(cryoclass, here):
    Path("x.star").write_bytes(
        b"\ndata_\n\nloop_\n_rlnImageName #1\n_rlnPixelSize #2\n" + b"a" * 10**5 + b"\0.mrc 1\n"
    )
    ran = cryoclass("embed", "x.star", "--backbone", "res32-species", "-o", here / "O")
    assert ran.status == 1
    assert "error:" in ran.err


# ------------------------------------------------------------------------------------------------ copies


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ({}, 1),
        ({"WORLD_SIZE": "4"}, 4),
        ({"SLURM_STEP_NUM_TASKS": "3", "SLURM_NTASKS": "3"}, 3),
        ({"SLURM_NTASKS": "4", "SLURM_NPROCS": "4"}, 1),  # a batch script, where one copy runs
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 2),
        ({"PMI_SIZE": "8", "WORLD_SIZE": "nonsense"}, 8),
    ],
)
def test_copies_are_counted(said, count):
    assert copies(said) == count
    if count == 1:
        check_one_copy(said)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_copies_that_would_write_are_refused(name, cryoclass, project, monkeypatch):
    monkeypatch.setenv(name, "2")
    for command in ("simulate -o O", "extract {coordinates} --tomograms {tomograms} --box 16 -o O"):
        ran = cryoclass(*command.format(**project).split())
        assert ran.status == 2
        assert f"2 copies of this command were started (by torchrun, srun or mpirun: {name} is 2)" in ran.err
        assert f"env -u {name}" in ran.err
    for words in ("--help", "predict -h", "backbones list", "--version"):
        assert cryoclass(*words.split()).status == 0


def test_a_batch_script_with_many_tasks_is_one_copy(cryoclass, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_NPROCS", "4")
    assert cryoclass("backbones", "verify", "res32-species").status == 0


# ---------------------------------------------------------------------------------------------- terminals

EVIL = "\x1b[31mX\x1b]0;t\x07"


@pytest.mark.parametrize(
    "command",
    [
        ("doctor", f"{EVIL}.star"),
        (EVIL,),
        ("predict", f"--{EVIL}"),
        ("predict", "{particles}", "--onnx", EVIL),
        ("predict", "{particles}", "--onnx", EVIL, "-v"),
        ("predict", "{particles}", "--device", EVIL, "--onnx", "x"),
        ("extract", "x.star", "--box", EVIL),
        ("extract", "x.star", "--box", "12", "--invert", EVIL),
        ("backbones", "fetch", EVIL),
        ("backbones", "list", EVIL),
        ("finetune", f"a={EVIL}.star"),
        ("finetune", "{particles}", "--backbone", EVIL, "-v"),
    ],
)
def test_orders_to_a_terminal_are_shown_and_not_obeyed(command, cryoclass, project):
    ran = cryoclass(*(word.format(**project) for word in command))
    assert ran.status
    assert "\x1b" not in ran.out + ran.err
    assert "\x07" not in ran.out + ran.err
    assert "\\x1b[31mX" in ran.out + ran.err


def test_log_messages_are_written_as_all_else(capsys):
    console.say_more()
    logging.getLogger("x").warning("%s", EVIL)
    console.say_less()
    assert capsys.readouterr().err == "x: \\x1b[31mX\\x1b]0;t\\x07\n"


# ------------------------------------------------------------------------------------------- spreadsheets


def test_no_cell_of_a_csv_is_a_formula(tmp_path):
    """A tomogram that is called as a formula is, and a reason that begins with the name of an image."""
    names = ["=1+1", "+x", "-x", "@x", "TS_01"]
    rows = "".join(f"{name} a.mrc\n" for name in names)
    (tmp_path / "x.star").write_text(f"\ndata_\n\nloop_\n_rlnMicrographName #1\n_rlnImageName #2\n{rows}\n")
    reasons = {row: f"{name}: no" for row, name in enumerate(names)}
    write_skipped(tmp_path / "s.csv", read_particles(tmp_path / "x.star"), reasons)
    table = list(csv.reader((tmp_path / "s.csv").read_text().splitlines()))
    shown = ["'=1+1", "'+x", "'-x", "'@x", "TS_01"]
    assert [row[1:] for row in table[1:]] == [[name, f"{name}: no"] for name in shown]
    assert [row[0] for row in table[1:]] == ["7", "8", "9", "10", "11"]

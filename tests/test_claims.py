"""One run at a time in a folder; its files appear together, and a finished run is known by the last of them."""

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from cli_helpers import NETWORK

from cryoclass import claims
from cryoclass.claims import LOCK, claim, claim_file, claim_run
from cryoclass.errors import OutputError, UsageError
from cryoclass.files import replacing, together, write_text
from cryoclass.records import RECORD, Writes

NO_PROCESS = 2**22 + 1  # more than Linux ever counts to
X = Writes(command="test", last="x")


@pytest.fixture
def lock(tmp_path):
    """Return a function that leaves the lock of another run in ``tmp_path``, of this very process where nothing is said."""

    def leave(age: float = 0.0, **changes: object) -> Path:
        path = tmp_path / LOCK
        with claim(tmp_path, X, overwrite=False):
            holder = json.loads(path.read_text())
        path.write_text(json.dumps({**holder, "token": "another", **changes}))
        os.utime(path, (time.time() - age, time.time() - age))
        return path

    return leave


def claimed(folder: Path, writes: Writes = X) -> bool:
    try:
        with claim(folder, writes, overwrite=False):
            assert (folder / LOCK).exists()
    except UsageError:
        return False
    assert not (folder / LOCK).exists()
    return True


def test_a_second_run_in_a_folder_is_refused_and_told_of_the_first(tmp_path):
    with claim(tmp_path / "a" / "b", X, overwrite=False):
        with pytest.raises(UsageError) as raised, claim(tmp_path / "a" / "b", X, overwrite=True):
            raise AssertionError("not refused")
        with claim(tmp_path / "a" / "c", X, overwrite=False):
            pass  # another folder is free
    said = f"{raised.value} {raised.value.hint}"
    for word in (
        f"process {os.getpid()} on {socket.gethostname()}",
        time.strftime("since %Y-%m-%d"),
        "--outdir",
        "5 minutes",
    ):
        assert word in said
    with claim(tmp_path / "a" / "b", X, overwrite=False):
        pass


@pytest.mark.parametrize(
    ("changes", "age", "free"),
    [
        ({}, 0, False),
        ({}, 10_000, False),  # it lives, though it was suspended
        ({"pid": NO_PROCESS}, 0, True),
        ({"started": "another time"}, 0, True),
        ({"host": "node7"}, 0, False),
        ({"host": "node7", "pid": NO_PROCESS}, 200, False),
        ({"host": "node7"}, 400, True),
        ({"kernel": "another container", "pid": NO_PROCESS}, 0, False),
        ({"kernel": "another container", "pid": NO_PROCESS}, 400, True),
    ],
)
def test_a_lock_counts_while_its_holder_may_live(changes, age, free, lock, tmp_path):
    lock(age, **changes)
    assert claimed(tmp_path) is free
    assert (tmp_path / LOCK).exists() is not free
    assert [path.name for path in tmp_path.iterdir()] == ([] if free else [LOCK])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}', "\udcff"])
def test_a_lock_that_says_nothing_counts_for_some_minutes(content, tmp_path):
    path = tmp_path / LOCK
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert not claimed(tmp_path)
    os.utime(path, (time.time() - 400, time.time() - 400))
    assert claimed(tmp_path)


@pytest.mark.parametrize("wrong", [-1e6, 1e6])
def test_the_clock_of_this_computer_does_not_matter(wrong, lock, tmp_path, monkeypatch):
    lock(host="node7")
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + wrong)
    assert not claimed(tmp_path)


@pytest.mark.parametrize("how", [ValueError, KeyboardInterrupt, SystemExit, OutputError])
def test_a_claim_ends_with_its_block_whatever_ends_that(how, tmp_path):
    with pytest.raises(how), claim(tmp_path, X, overwrite=False):
        raise how("stop")
    assert claimed(tmp_path)


def test_sigterm_ends_a_claim(tmp_path):
    def ended() -> None:
        with claim(tmp_path, X, overwrite=False):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    with pytest.raises(SystemExit) as stopped:
        ended()
    assert stopped.value.code == 143
    assert claimed(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_lock_of_a_successor_stays(tmp_path):
    with claim(tmp_path, X, overwrite=False):
        kept = (tmp_path / LOCK).read_text()
        (tmp_path / LOCK).write_text(kept.replace('"token": "', '"token": "b'))
    assert (tmp_path / LOCK).exists()


def test_a_run_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT", 0.01)
    with claim(tmp_path, X, overwrite=False):
        os.utime(tmp_path / LOCK, (0, 0))
        ends = time.monotonic() + 10
        while (tmp_path / LOCK).stat().st_mtime == 0 and time.monotonic() < ends:
            time.sleep(0.01)
        assert time.time() - (tmp_path / LOCK).stat().st_mtime < 60


def test_of_many_that_find_a_dead_lock_one_gets_the_folder(lock, tmp_path):
    for _ in range(20):
        lock(pid=NO_PROCESS)
        start, won, ended = threading.Barrier(6), [], threading.Event()

        def run(start=start, won=won, ended=ended):
            start.wait()
            try:
                with claim(tmp_path, X, overwrite=False):
                    won.append(1)
                    ended.wait(5)
            except UsageError:
                won.append(0)
            if len(won) == 6:
                ended.set()

        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        ends = time.monotonic() + 5
        while len(won) < 6 and time.monotonic() < ends:
            time.sleep(0.001)
        ended.set()
        for thread in threads:
            thread.join()
        assert sum(won) == 1


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    assert claimed(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "c").mkdir()
    with claim(tmp_path / "c" / "d", X, overwrite=False):
        (tmp_path / "c" / "d" / "kept").touch()
    assert (tmp_path / "c" / "d" / "kept").exists()
    assert claimed(tmp_path / "c")
    assert (tmp_path / "c").exists()


def test_a_run_that_ended_while_we_waited_is_not_written_over(tmp_path, monkeypatch):
    locked = claims._create

    def ends_first(path, text):
        (tmp_path / "x").touch()
        return locked(path, text)

    monkeypatch.setattr(claims, "_create", ends_first)
    assert not claimed(tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_a_finished_run_without_checkpoint_is_not_gone_through(tmp_path):
    with claim(tmp_path, X, overwrite=False) as place:
        place.begin()
        place.mark.touch()
    with (
        pytest.raises(UsageError, match="no checkpoint to go on from") as raised,
        claim_run(tmp_path, X, resume=True, overwrite=False),
    ):
        pass
    assert "--overwrite" in raised.value.hint
    with claim_run(tmp_path, X, resume=True, overwrite=True):
        pass
    (tmp_path / "checkpoint-1.pt").touch()
    with claim_run(tmp_path, X, resume=True, overwrite=False):
        pass


def test_a_single_file_is_claimed_too(tmp_path):
    out = tmp_path / "new" / ("long" * 60 + ".onnx")
    with claim_file(out):
        with pytest.raises(UsageError, match="onnx is in use: process"), claim_file(out):
            raise AssertionError("not refused")
        with claim_file(out.with_name("other.onnx")), claim(out.parent, X, overwrite=False):
            pass
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------- files of one run


def test_files_of_a_run_appear_together_and_the_mark_last(tmp_path, monkeypatch):
    (tmp_path / "mark").write_text("old")
    moved, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, to: (moved.append(to.name), replace(path, to))[1])
    with together(tmp_path / "mark"):
        assert not (tmp_path / "mark").exists()
        for name in ("mark", "b", "a"):
            write_text(tmp_path / name, name)
        with replacing(tmp_path / "c") as temporary:
            temporary.write_text("c")
        assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    assert moved == ["b", "a", "c", "mark"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "mark"]


def test_of_a_run_that_fails_no_file_appears(tmp_path):
    def broken() -> None:
        with together(tmp_path / "mark"):
            write_text(tmp_path / "a", "a")
            write_text(tmp_path / "mark", "mark")
            raise OSError("the disk broke")

    with pytest.raises(OSError, match="disk"):
        broken()
    assert not list(tmp_path.iterdir())
    write_text(tmp_path / "a", "a")  # and what comes later is written at once
    assert (tmp_path / "a").exists()


# ---------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_two_jobs_in_one_folder(cryoclass, console_script, here, how):
    argv = ("finetune", "Extract/particles.star", *NETWORK, "-o", "F")
    first = console_script(*argv, "--epochs", 9999)
    ends = time.monotonic() + 60
    while not (here / "F" / "checkpoint.pt").exists() and first.poll() is None and time.monotonic() < ends:
        time.sleep(0.05)
    for wish in ("--overwrite", "--resume"):
        ran = cryoclass(*argv, "--epochs", 1, "--seed", 9, wish)
        assert ran.status == 2
        assert f"F is in use: process {first.pid} on {socket.gethostname()}" in ran.err
    first.send_signal(how)
    first.communicate()
    assert first.returncode == (143 if how == signal.SIGTERM else -9)
    assert (here / "F" / LOCK).exists() is (how == signal.SIGKILL)
    assert claimed(here / "F", Writes(command="finetune", last="x"))


def test_what_is_refused_at_once_leaves_a_finished_run_as_it_was(cryoclass, trained, here):
    cut = ("--tomograms", trained.tomograms, "--box", 16, "-o", "Cut")
    assert cryoclass("extract", trained.coordinates, *cut).status == 0
    before = {path: path.read_bytes() for path in (here / "Cut").rglob("*") if path.is_file()}
    assert cryoclass("extract", "gone.star", *cut, "--overwrite").status == 1
    assert {path: path.read_bytes() for path in (here / "Cut").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("verb", "broken"),
    [
        ("extract", "cryoclass.report.pages.extract_page"),
        ("predict", "cryoclass.jobs.pages.write_prediction_page"),
        ("simulate", "cryoclass.simulation.writer._truth_columns"),
    ],
)
def test_half_of_a_result_is_never_shown(verb, broken, cryoclass, trained, here, monkeypatch):
    argv = {
        "extract": (trained.coordinates, "--tomograms", trained.tomograms, "--box", 16),
        "predict": (trained.particles, "--model", trained.model, "--device", "cpu", "--split-classes"),
        "simulate": ("--particles", "--species", 2, "--per-species", 2, "--box", 18),
    }[verb]

    def fail(*_: object) -> None:
        raise OutputError("the disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        assert cryoclass(verb, *argv, "-o", "Out").status == 1
    left = {path.name for path in (here / "Out").iterdir() if path.is_file()}
    assert left <= {RECORD, "extract.progress"}
    assert cryoclass(verb, *argv, "-o", "Out").status == 0
    assert not (here / "Out" / LOCK).exists()

"""Files are written whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest

from cryoclass.errors import OutputError
from cryoclass.files import output_error, replacing, write_text


def half_write(path: Path, error: BaseException) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_appears_whole_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "x.star"
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == ".star"
        assert temporary.name.startswith(".")  # nobody takes it for a result
    assert path.read_bytes() == b"half"
    assert names(path.parent) == ["x.star"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "x.star"
    path.write_text("old")
    with pytest.raises(error):
        half_write(path, error())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.star"]


def test_text_is_utf8_with_lf_and_bytes_that_came_in_undecodable_go_out(tmp_path):
    write_text(tmp_path / "x.txt", "é\na\r\nb\udcff\n")
    assert (tmp_path / "x.txt").read_bytes() == b"\xc3\xa9\na\r\nb\xff\n"


def test_a_new_file_has_the_rights_of_any_other(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "x.txt", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x.txt").stat().st_mode) == 0o640


def test_the_umask_is_never_touched_since_all_threads_share_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("another thread may write a file right now"))
    write_text(tmp_path / "x.txt", "x")
    assert (tmp_path / "x.txt").read_text() == "x"


def test_long_names_of_many_bytes_are_written(tmp_path):
    for name in ("✓" * 80 + ".star", "x" * 250, "a." + "b" * 250):
        write_text(tmp_path / name, "x")
    assert len(names(tmp_path)) == 3


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x.txt", tmp_path / "folder", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match="cannot be written") as caught:
            write_text(path, "x")
        assert caught.value.hint == "Choose another --outdir."
    assert names(tmp_path) == ["file", "folder"]


def test_a_full_disk_is_said(tmp_path):
    with pytest.raises(OutputError, match="the disk is full"):
        half_write(tmp_path / "x", OSError(errno.ENOSPC, "No space left on device"))
    assert names(tmp_path) == []
    assert "full" in str(output_error(OSError(errno.EDQUOT, "Quota exceeded"), tmp_path / "x"))
    assert "Permission denied" in str(
        output_error(PermissionError(errno.EACCES, "Permission denied"), tmp_path)
    )

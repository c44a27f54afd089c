"""Files of other programs, given for a STAR file, are named for what they are, with a way out that can be followed."""

import gzip
import io
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mrc_files import mrc, ramp
from star_files import PRODUCERS, relion31

from cryoclass.errors import StarError
from cryoclass.particles import read_particles

STAR = relion31()
PEET = "CCC,reserved,reserved,pIndex,wedgeWT,NA,NA,NA,NA,NA,xOffset\n1,0,0,1,0,0,0,0,0,0,0\n"
NDJSON = '{"type": "orientedPoint", "location": {"x": 1, "y": 2, "z": 3}}\n' * 2
COPICK = '{\n  "pickable_object_name": "ribosome",\n  "points": []\n}\n'


def numpy_file() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros(3))
    return out.getvalue()


FOREIGN = {
    "utf16.star": (STAR.encode("utf-16"), "text in UTF-16"),
    "bigendian.star": (b"\xfe\xff" + STAR.encode("utf-16-be"), "text in UTF-16"),
    "no mark.star": (STAR.encode("utf-16-le"), "text in UTF-16"),
    "no mark big.star": (STAR.encode("utf-16-be"), "text in UTF-16"),
    "packed.star.gz": (gzip.compress(STAR.encode()), "compressed with gzip"),
    "TS_01.mrc": (mrc(ramp()), "an MRC volume"),
    "volume.star": (mrc(ramp()), "an MRC volume"),
    "particles.mod": (b"IMODV1.2model\0\0\0", "an IMOD model"),
    "initMOTL.csv": (PEET.encode(), "a motive list of PEET"),
    "quoted.csv": (b'"CCC", "reserved"\n', "a motive list of PEET"),
    "passthrough.cs": (numpy_file(), "a table of cryoSPARC"),
    "points.ndjson": (NDJSON.encode(), "a list of points in NDJSON"),
    "one point.ndjson": (b'{"type": "point", "location": {"x": 1}}\n', "a JSON file"),
    "empty.ndjson": (b"", "a list of points in NDJSON"),
    "picks.json": (COPICK.encode(), "a JSON file"),
    "boxes.json": (b'{"boxes_3d": [[1, 2, 3, "manual"]]}', "a JSON file"),
    "list.json": (b"[[1, 2, 3]]", "a JSON file"),
    "misnamed.star": (COPICK.encode(), "a JSON file"),
    "particles.xml": (b'<?xml version="1.0"?>\n<ParticleList>\n', "an XML file"),
    "TS_01.coords": (b"10 20 30\n40 50 60\n", "a table of bare numbers"),
    "TS_01.txt": (b"# x y z\n 10.5\t-20\t3e1\n", "a table of bare numbers"),
    "numbers.csv": (b"10,20,30\n40,50,60\n", "a table of bare numbers"),
    "table.csv": (b"tomogram,x,y,z\nTS_01,1,2,3\n", "a CSV table"),
    "TABLE.CSV": (b"", "a CSV table"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_program_is_named(name, tmp_path):
    content, what = FOREIGN[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(StarError) as caught:
        read_particles(path)
    assert str(caught.value).startswith(f"{path} is not a STAR file: it is {what}")
    assert caught.value.hint


@pytest.mark.parametrize("name", ["utf16.star", "bigendian.star", "no mark.star", "no mark big.star"])
def test_the_way_out_of_utf16_leads_out(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(FOREIGN[name][0])
    with pytest.raises(StarError) as caught:
        read_particles(path)
    command = caught.value.hint.removeprefix("Save it as UTF-8: ")
    assert str(path) in shlex.split(command)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)  # noqa: S602
    assert len(read_particles(tmp_path / "utf8.star")) == 2


@pytest.mark.parametrize("suffix", [".csv", ".json", ".txt", ".coords", ".mod", ""])
def test_a_star_file_may_have_any_name(suffix, tmp_path):
    path = tmp_path / f"particles{suffix}"
    path.write_text(STAR)
    assert len(read_particles(path)) == 2


def test_no_star_file_is_taken_for_another_kind(tmp_path):
    """What is wrong with it stays what is said."""
    for text in PRODUCERS.values():
        damaged = "# 1, 2, 3\n" + text.replace("loop_", "loop_\nnothing", 1)
        Path(tmp_path / "p.csv").write_text(damaged)
        with pytest.raises(StarError) as caught:
            read_particles(tmp_path / "p.csv")
        assert " it is " not in str(caught.value)


def test_what_nobody_knows_is_only_no_star_file(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("Dear diary\n")
    with pytest.raises(StarError, match="no line starts with data_"):
        read_particles(path)


def test_every_command_names_it(cryoclass, tmp_path):
    path = tmp_path / "points.ndjson"
    path.write_text(NDJSON)
    for argv in (["extract", path, "--box", 16], ["finetune", f"a={path}", f"b={path}"], ["embed", path]):
        ran = cryoclass(*argv, "-o", tmp_path / argv[0])
        assert ran.status == 1
        assert "it is a list of points in NDJSON" in ran.err
        assert "hint:  Write its points as a STAR file" in ran.err
    assert "it is a list of points in NDJSON" in cryoclass("doctor", path).out

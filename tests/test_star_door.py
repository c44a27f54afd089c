"""The doors of ``star/``: who may import what, one way in for every format, and values that are the same whatever the text."""

import ast
from pathlib import Path

import numpy as np
import pytest
from star_files import OPTICS, loop, optics, relion5_picks, relion30, relion31, twice

import cryoclass
from cryoclass.errors import StarError
from cryoclass.particles import Particles, read_particles
from cryoclass.star.document import StarFile
from cryoclass.star.extracted import ExtractedBoxes
from cryoclass.star.particle_file import ParticleFile

PACKAGE = Path(cryoclass.__file__).parent
EVERYBODY = {"frames", "tables"}  # geometry in numbers; new tables of our own
# Module of star/ to the rooms that may import it. The text itself is nobody's: document, rows, dialects, rules, lists.
DOORS = {
    "particle_file": {"particles"},
    "extracted": {"particles", "extraction"},
    "tomogram_list": {"tomograms"},
    "optimisation": {"particles", "results"},
    "names": {"particles", "tomograms", "siblings", "extraction", "file_names", "results", "cli"},
    "external": {"cli"},
}
OUTSIDE = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "star"]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def star_modules(tree: ast.AST) -> set[str]:
    """Return the modules of ``cryoclass.star`` that a file imports, wherever in the file, however spelt."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[2] for name in names if name.startswith("cryoclass.star.")}


def refused(tree: ast.AST, own: str) -> set[str]:
    return {module for module in star_modules(tree) - EVERYBODY if own not in DOORS.get(module, set())}


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_doors_of_star_are_used(path):
    assert not refused(ast.parse(path.read_text()), room(path))


def test_every_permission_is_used():
    """A permission that nobody needs any more goes."""
    used = {(module, room(path)) for path in OUTSIDE for module in star_modules(ast.parse(path.read_text()))}
    assert {(module, own) for module, rooms in DOORS.items() for own in rooms} <= used


@pytest.mark.parametrize(
    "line",
    [
        "from cryoclass.star.document import StarFile",
        "from cryoclass.star import dialects",
        "import cryoclass.star.rows",
        "def f():\n    from cryoclass.star.particle_file import read_particle_file",
    ],
)
def test_a_back_door_is_seen(line):
    assert refused(ast.parse(line), "results")


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_particles_reach_behind_the_values(path):
    """``particles.file`` is the text; ``particles.file.rows`` elsewhere would be the back door."""
    behind = set(dir(ParticleFile)) | set(ParticleFile.__dataclass_fields__)
    reached = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in behind
        if isinstance(node.value, ast.Attribute) and node.value.attr == "file"
    ]
    assert not reached or room(path) == "particles"


# ------------------------------------------------------------------------------------------ formats


def dynamo(path: Path) -> None:
    table = np.zeros((2, 35))
    table[:, [0, 19, 21]] = [[7, 3, 1], [8, 4, 2]]
    table[:, 23:26] = [[10, 20, 30], [40, 50, 60]]
    table[:, 3:6] = [0.5, 0, -1]
    np.savetxt(path, table)


def motive_list(path: Path) -> None:
    table = np.zeros((2, 20), "<f4")
    table[:, [3, 4, 19]] = [[7, 3, 1], [8, 4, 2]]
    table[:, 7:10] = [[10, 20, 30], [40, 50, 60]]
    table[:, 10:13] = [0.5, 0, -1]
    sizes = np.array([20, 2, 1], "<i4").tobytes()
    path.write_bytes((bytes([6, 0, 0, 5]) + sizes).ljust(512, b"\0") + table.tobytes())


def star(path: Path) -> None:
    columns = {
        "rlnMicrographName": ["3", "4"],
        "rlnCoordinateX": ["10.5", "40.5"],
        "rlnCoordinateY": ["20", "50"],
        "rlnCoordinateZ": ["29", "59"],
        "rlnClassNumber": ["1", "2"],
        "cryoclassTag": ["7", "8"],
    }
    path.write_text(loop(columns))


@pytest.mark.parametrize(
    ("name", "write"),
    [("x.tbl", dynamo), ("x.em", motive_list), ("x.star", star)],
    ids=["Dynamo", "EM", "STAR"],
)
def test_every_format_gives_the_same_values(tmp_path, name, write):
    write(tmp_path / name)
    table = read_particles(tmp_path / name)
    assert table.tomograms == ["3", "4"]
    assert table.coordinates.tolist() == [[10.5, 20, 29], [40.5, 50, 59]]
    assert table.labels("rlnClassNumber") == ["1", "2"]
    assert table.numbers(["cryoclassTag"]).tolist() == [[7], [8]]
    table.select([1]).with_columns({"cryoclassLabel": ["a b"]}).write(tmp_path / "out.star")
    again = read_particles(tmp_path / "out.star")
    assert (again.tomograms, again.cells("cryoclassLabel")) == (["4"], ["a b"])


def test_a_motive_list_may_come_from_any_machine(tmp_path):
    motive_list(tmp_path / "pc.em")
    content = (tmp_path / "pc.em").read_bytes()
    sizes, values = np.frombuffer(content, "<i4", 3, 4), np.frombuffer(content, "<f4", 40, 512)
    sun = (
        bytes([3, 0, 0, 5]) + sizes.astype(">i4").tobytes() + content[16:512] + values.astype(">f4").tobytes()
    )
    for machine, other in {"vax": b"\1" + content[1:], "sun": sun}.items():
        (tmp_path / f"{machine}.em").write_bytes(other)
        table = read_particles(tmp_path / f"{machine}.em")
        assert table.coordinates.tolist() == [[10.5, 20, 29], [40.5, 50, 59]], machine


def em(rows=20, count=2, depth=1, kind=5, size=160) -> bytes:
    return (bytes([6, 0, 0, kind]) + np.array([rows, count, depth], "<i4").tobytes()).ljust(
        512, b"\0"
    ) + bytes(size)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has only 0 bytes"),
        (em()[:511], "has only 511 bytes"),
        (em(kind=2), "holds 20 x 2 x 1 values of type 2"),
        (em(rows=19), "holds 19 x 2 x 1 values of type 5"),
        (em(depth=2, size=320), "holds 20 x 2 x 2 values"),
        (em(count=0), "holds 20 x 0 x 1 values"),
        (em(count=0, size=0), "holds 20 x 0 x 1 values"),
        (em(count=-1), "holds 20 x -1 x 1 values"),
        (em(size=159), "is truncated"),
    ],
)
def test_a_file_that_is_no_motive_list_is_refused_in_words(content, words, tmp_path):
    (tmp_path / "x.em").write_bytes(content)
    with pytest.raises(StarError, match=words):
        read_particles(tmp_path / "x.em")


def rows_of(*widths: int) -> str:
    return "".join("1 " * width + "\n" for width in widths)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "its rows have no columns"),
        (rows_of(25, 25), r"its rows have \[25\] columns, but 26 or more are needed"),
        (rows_of(35, 34), r"its rows have \[34, 35\] columns"),
        ("x " * 26, "in row 1, column 1, 'x' is no number"),
        (rows_of(26) + "1 " * 24 + "nan 1", "in row 2, column 25, 'nan' is no number"),
        ("inf " + "1 " * 25, "in row 1, column 1, 'inf' is no number"),
    ],
)
def test_a_file_that_is_no_dynamo_table_is_refused_in_words(text, words, tmp_path):
    (tmp_path / "x.tbl").write_text(text)
    with pytest.raises(StarError, match=words):
        read_particles(tmp_path / "x.tbl")


def test_a_dynamo_table_may_end_with_the_position(tmp_path):
    (tmp_path / "x.tbl").write_text(rows_of(26))
    assert read_particles(tmp_path / "x.tbl").coordinates.tolist() == [[2, 2, 2]]


NO_VOLTAGE = loop({label: cells for label, cells in OPTICS.items() if label != "rlnVoltage"}, "optics")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (relion31(), []),
        (relion30(), []),
        (relion5_picks(), []),
        (relion31().replace("\n", "\r\n"), ["lines end as on Windows (CR+LF)"]),
        ("# version 30001\n" + relion30(), ["'# version 30001' without a data_optics block"]),
        (relion31() + loop({"rlnImageName": ["a"]}), ["the block data_particles occurs twice"]),
        (relion30().replace("_rlnCoordinateX #", "_rlnCoordinateX#"), ["line 6: no blank before #"]),
        ("data_\nloop_\n_rlnImageName #1\na.mrc\n# why\nb.mrc\n\n", ["line 5: a comment among the rows"]),
        (relion30(rlnOpticsGroup=twice("1")), ["rlnOpticsGroup without a data_optics block"]),
        (NO_VOLTAGE + relion31().removeprefix(optics()), ["data_optics lacks rlnVoltage"]),
        (relion31(rlnClassNumber=["1", "x"]), ["rlnClassNumber is 'x' in 1 row, which RELION reads"]),
        (relion31(rlnClassNumber=["nan", "nan"]), ["rlnClassNumber is 'nan' in 2 rows, which"]),
        (relion31(rlnClassNumber=["1.5", "2"], rlnRandomSubset=["1", "+2"]), ["rlnClassNumber is '1.5'"]),
        (relion31(rlnClassNumber=["1.000000", "-2."]), []),
    ],
)
def test_what_relion_would_refuse_is_said_once(text, words, tmp_path):
    (tmp_path / "x.star").write_bytes(text.encode())
    problems = list(read_particles(tmp_path / "x.star").relion_problems())
    assert len(problems) == len(words), problems
    assert all(word in problem for word, (problem, _) in zip(words, problems, strict=True)), problems
    assert all(way_out for _, way_out in problems)


def test_versions_stay_where_there_are_optics(tmp_path):
    (tmp_path / "x.star").write_text(relion31())
    read_particles(tmp_path / "x.star").with_columns({"note": ["a", "b"]}).write(tmp_path / "y.star")
    assert (
        (tmp_path / "y.star").read_text().count("# version 30001") == relion31().count("# version 30001") == 2
    )
    bare = relion31()[relion31().index("data_particles") :]
    (tmp_path / "x.star").write_text("# version 30001\n" + bare)
    read_particles(tmp_path / "x.star").with_columns({"note": ["a", "b"]}).write(tmp_path / "y.star")
    assert "# version" not in (tmp_path / "y.star").read_text()  # RELION refuses it where there are none


# ------------------------------------------------------------------------------------------- values


def positions(rows: list[tuple[str, str]]) -> dict[str, list[str]]:
    names, xs = zip(*rows, strict=True)
    return {
        "rlnMicrographName": list(names),
        "rlnCoordinateX": list(xs),
        **{f"rlnCoordinate{axis}": ["20"] * len(rows) for axis in "YZ"},
    }


def test_what_optics_say_comes_by_row(tmp_path):
    path = tmp_path / "x.star"
    optics = {
        "rlnOpticsGroup": ["2", "1"],
        "rlnVoltage": ["300", "200"],
        "rlnTomoTiltSeriesPixelSize": ["2.5", "1.25"],
        "rlnImageSize": ["64", "32"],
    }
    rows = {**positions([("TS_01", "1")] * 3), "rlnOpticsGroup": ["1", "2.000000", "1"]}
    path.write_text(loop(optics, "optics") + loop(rows))
    table = read_particles(path)
    assert table.tilt_series_angpix.tolist() == [1.25, 2.5, 1.25]
    assert table.image_size.tolist() == [32, 64, 32]
    assert table.lacking(["rlnVoltage", "rlnNothing"]) == ["rlnNothing"]
    assert table.micrograph_angpix is None


def test_a_line_is_that_of_the_file(tmp_path):
    path = tmp_path / "x.star"
    path.write_text(relion31())
    table = read_particles(path)
    lines = path.read_text().splitlines()
    assert [lines[table.line(row) - 1].split()[0] for row in range(2)] == table.cells(
        table.file.rows.labels[0]
    )


# ------------------------------------------------------------------------- what other programs write


def particles(text: str) -> Particles:
    return Particles(file=ParticleFile.of(StarFile.parse(text.encode(), Path("x.star"))))


def as_list(text: str, name: str) -> str:
    """Write a one-row block as a list, as starfile before 0.5 does."""
    before, _, rest = text.partition(f"data_{name}\n")
    body, blank, after = rest.partition("\n \n")
    *head, row = body.splitlines()
    labels = [line.split()[0] for line in head if line.startswith("_")]
    items = "".join(f"{label} {cell}\n" for label, cell in zip(labels, row.split(), strict=True))
    return f"{before}data_{name}\n# by hand\n\n{items}{blank}{after}"


def test_an_optics_table_that_is_a_list_is_an_optics_table(tmp_path):
    """RELION reads both, and writes lists of its own."""
    (tmp_path / "x.star").write_text(as_list(relion31(), "optics"))
    table, other = read_particles(tmp_path / "x.star"), particles(relion31())
    assert table.dialect == "RELION 3.1"
    assert table.angpix.tolist() == other.angpix.tolist()
    assert table.lacking(["rlnVoltage", "rlnSphericalAberration"]) == []
    boxes = ExtractedBoxes(
        rows=np.arange(2),
        images=[Path("a"), Path("b")],
        angpix=4.0,
        side=8,
        optics=[{}],
        group=np.zeros(2, int),
    )
    assert table.with_boxes(boxes).angpix.tolist() == [4, 4]
    assert b"# by hand" in table.file.rows.text.to_bytes()


def test_a_particle_that_is_a_list_is_a_particle():
    items = 'data_particles\n\n_rlnImageName "a b.mrc"\n_rlnMicrographName _TS_01\n_rlnClassNumber ""\n\n'
    assert particles(items).images == ["a b.mrc"]
    assert particles(items).tomograms == ["_TS_01"]
    assert particles(items).cells("rlnClassNumber") == [""]


def test_a_byte_order_mark_hides_no_block(tmp_path):
    text = relion31().lstrip("\n")
    (tmp_path / "x.star").write_bytes(text.encode("utf-8-sig"))
    table = read_particles(tmp_path / "x.star")
    assert table.angpix.tolist() == particles(text).angpix.tolist()
    assert table.file.rows.text.to_bytes() == text.encode()
    first = text.partition("data_optics")[1] + text.partition("data_optics")[2]  # the mark right before data_
    (tmp_path / "x.star").write_bytes(first.encode("utf-8-sig"))
    assert read_particles(tmp_path / "x.star").angpix.tolist() == [7.5, 7.5]


GROUPS = {
    "rlnOpticsGroup": ["1", "2", "3"],
    "rlnOpticsGroupName": ["a", "b", "c"],
    "rlnImagePixelSize": ["1", "2", "3"],
}


@pytest.mark.parametrize(
    ("rows", "left"), [([0, 1, 2], ["1", "3"]), ([1], ["3"]), ([2, 0], ["1"]), ([], ["1", "2", "3"])]
)
def test_groups_that_no_row_uses_go(rows, left):
    """RELION 5 crashes on them."""
    text = loop(GROUPS, "optics") + loop(
        {"rlnImageName": ["a", "b", "c"], "rlnOpticsGroup": ["1", "3.000", "1"]}
    )
    chosen = particles(text).select(rows)
    optics_block = chosen.file.rows.optics_table
    assert chosen.file.rows.text.column(optics_block, "rlnOpticsGroup") == left
    assert chosen.images == [["a", "b", "c"][row] for row in rows]
    if rows:
        assert chosen.angpix.tolist() == [[1, 3, 1][row] for row in rows]


@pytest.mark.parametrize("names", [("TS_01", "TS_02"), ("", "micrographs"), ("others", "particles")])
def test_a_second_block_of_particles_is_said_not_to_be_read(names):
    blocks = [loop({"rlnImageName": [f"{n}.mrc"] * (2 + n)}, name) for n, name in enumerate(names)]
    table = particles("".join(blocks))
    read = "particles" if "particles" in names else names[0]
    other = next(name for name in names if name != read)
    (problem,) = [words for words, _ in table.relion_problems()]
    assert (
        f"data_{other} holds {2 + names.index(other)} particles too, which are not read: only those of data_{read}"
        in problem
    )


def test_a_broken_row_of_the_optics_groups_is_found_when_the_table_is_opened(tmp_path):
    """Not when results are written, after all work was done."""
    path = tmp_path / "x.star"
    path.write_text(relion31().replace("_rlnVoltage ", "1_0 "))
    with pytest.raises(StarError, match=r"x\.star, line \d+: \d+ values for \d+ columns"):
        read_particles(path)

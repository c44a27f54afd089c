"""Files that are often given for a STAR file and are none: what they are, and how to make one of them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from cryoclass.errors import StarError
from cryoclass.inputs import open_file

POINTS = (
    "Write its points as a STAR file with the columns rlnMicrographName (the tomogram), rlnCoordinateX, rlnCoordinateY and "
    "rlnCoordinateZ, in pixels of the tomogram."
)
_START = 4096  # bytes that tell
_DATA = re.compile(rb"^\s*data_", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file.

    Attributes
    ----------
    what
        In words that follow "is".
    way_out
        How to get a STAR file; ``{path}`` is the file's name, quoted for a shell.
    start
        Matches how its content begins; None where the name alone tells.
    suffixes
        Endings of its name, which tell where no content does.
    """

    what: str
    way_out: str
    start: re.Pattern[bytes] | None = None
    suffixes: tuple[str, ...] = ()


def _begins(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


def _utf16(name: str, start: bytes) -> Kind:
    recode = f"Save it as UTF-8: iconv -f {name} -t UTF-8 {{path}} > utf8.star"
    return Kind(what="text in UTF-16", way_out=recode, start=_begins(start))


# The first whose content fits, else the first whose name does.
KINDS = (
    _utf16("UTF-16", rb"\xff\xfe|\xfe\xff"),
    _utf16("UTF-16LE", rb"(?:[\t\n\r -~]\0){4}"),
    _utf16("UTF-16BE", rb"(?:\0[\t\n\r -~]){4}"),
    Kind(what="compressed with gzip", way_out="Unpack it: gunzip {path}", start=_begins(rb"\x1f\x8b")),
    Kind(
        what="an MRC volume",
        way_out="Give the STAR file of the particles; tomograms go behind --tomograms.",
        start=_begins(rb".{208}MAP[ \0]"),
        suffixes=(".mrc", ".mrcs", ".rec", ".map", ".st"),
    ),
    Kind(
        what="an IMOD model, of PEET for example",
        way_out=f"Run: model2point {{path}} points.txt. {POINTS}",
        start=_begins(rb"IMODV\d"),
        suffixes=(".mod",),
    ),
    Kind(
        what="a motive list of PEET (CSV)",
        way_out=f"Its positions are in the IMOD model beside it: model2point MODEL.mod points.txt. {POINTS}",
        start=_begins(rb"\s*\"?CCC\"?\s*,"),
    ),
    Kind(
        what="a table of cryoSPARC",
        way_out="Convert it with csparc2star.py of pyem.",
        start=_begins(rb"\x93NUMPY"),
        suffixes=(".cs",),
    ),
    Kind(
        what="a list of points in NDJSON, as the CryoET Data Portal has them",
        way_out=POINTS,
        start=_begins(rb"\s*\{[^\n]*\}\s*\n\s*\{"),
        suffixes=(".ndjson", ".jsonl"),
    ),
    Kind(
        what="a JSON file, such as the picks of copick or EMAN2",
        way_out=f"{POINTS} Those of copick are in angstroms.",
        start=_begins(rb"\s*(?:\{\s*[\"}]|\[\s*[\[{\"\d.-])"),
        suffixes=(".json",),
    ),
    Kind(
        what="an XML file, such as a particle list of PyTom",
        way_out=POINTS,
        start=_begins(rb"\s*<[?!\w]"),
        suffixes=(".xml",),
    ),
    Kind(
        what="a table of bare numbers",
        way_out=POINTS,
        start=_begins(rb"(?:\s*#[^\n]*\n)*(?:[ \t,;]*[-+\d.][\deE+.-]*){3}"),
        suffixes=(".coords", ".xyz", ".pos"),
    ),
    Kind(
        what="a CSV table",
        way_out=POINTS,
        start=_begins(rb"[^\n]*[,;\t][^\n]*[,;\t]"),
        suffixes=(".csv", ".tsv"),
    ),
)


def refusal(path: Path) -> StarError | None:
    """Return the words that name a file for what it is; None where it is a STAR file, or of no known kind."""
    try:
        with open_file(path) as file:
            start = file.read(_START)
    except OSError:
        return None
    if _DATA.search(start):
        return None
    by_content = (kind for kind in KINDS if kind.start and kind.start.match(start))
    by_name = (kind for kind in KINDS if path.suffix.lower() in kind.suffixes)
    kind = next(by_content, None) or next(by_name, None)
    if kind is None:
        return None
    way_out = kind.way_out.replace("{path}", shlex.quote(str(path)))
    return StarError(f"{path} is not a STAR file: it is {kind.what}.", way_out)

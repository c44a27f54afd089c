"""What is printed is data: names stay as they are, commands can be typed, and no stream ends a run."""

import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cryoclass.cli import console
from cryoclass.cli.following import YOURS, some_particles, with_images
from cryoclass.cli.options import typed
from cryoclass.errors import StarError
from cryoclass.settings import BoxOrigin, Cutting

LIST = "backbones list"
MISSING = "extract no.star --box 16"


class Terminal(io.StringIO):
    """A stream that looks like a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """What a reader sees, without colours and moves of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue()).splitlines()


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that puts a terminal of 40 columns in the place of the streams, from within a test."""

    def open_one(encoding: str = "utf-8", term: str = "xterm") -> Terminal:
        shown = Terminal(encoding)
        monkeypatch.setattr(sys, "stdout", shown)
        monkeypatch.setattr(sys, "stderr", shown)
        monkeypatch.setenv("COLUMNS", "40")
        monkeypatch.setenv("TERM", term)
        return shown

    return open_one


def bash(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``cryoclass`` is the program."""
    program = f'cryoclass() {{ "{sys.executable}" -m cryoclass "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", program + line],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        timeout=120,
    )


# ---------------------------------------------------------------------------------------------- commands

AWKWARD = [
    "my data",
    "it's",
    'a "quote"',
    "run:100:a",
    "[red]x[/]",
    "$HOME",
    "a;b",
    "café",
    "tab\there",
    "-x",
    "esc\x1b[31m",
]


@pytest.mark.parametrize("name", AWKWARD)
def test_a_printed_command_is_the_command(name, capsys, tmp_path):
    words = ["printf", "%s|", Path(name) / "p.star", "--model", Path(name)]
    console.next_command(words)
    line = capsys.readouterr().out.removeprefix("next: ")
    assert bash(line, tmp_path).stdout.split("|")[:3] == [
        str(Path(".", name, "p.star")) if name != "-x" else "./-x/p.star",
        "--model",
        name if name != "-x" else "./-x",
    ]


def test_a_command_that_the_terminal_cannot_show_is_printed_as_bytes(terminal, tmp_path):
    shown = terminal("latin-1")
    console.next_command(("printf", "%s", "Ω日本/é.star"))
    assert shown.getvalue().isascii()
    assert bash(shown.lines[0].removeprefix("next: "), tmp_path).stdout == "Ω日本/é.star"


@pytest.mark.parametrize(
    "name", ["run:100:a", "[red]", "[/]", "[link=x]y[/link]", ":smile:", "\\[bold]", "a" * 300]
)
def test_names_are_printed_as_they_are(name, terminal):
    shown = terminal()
    console.say(name)
    console.note(name)
    console.warn(name)
    console.error(StarError(name, name))
    console.rows(name, [(name, name)])
    console.columns(name, [name, name], [[name, name]])
    console.next_command([name])
    lines = shown.lines
    assert len(lines) == 5 + 2 + 3 + 1, "a line is folded"
    assert all(name in line for line in lines), "a line is cut, or was taken for markup"


def test_the_doctor_and_progress_take_nothing_for_markup_either(terminal):
    shown = terminal()
    console.verdict("ok", "table", "run:100:a [red]", "Use [red].")
    assert "run:100:a [red]. Use [red]." in " ".join(line.strip() for line in shown.lines)
    list(console.track(range(3), "[red] :100:"))
    assert "[red] :100:" in "".join(shown.lines)


def test_a_name_cannot_order_the_terminal_about(terminal):
    shown = terminal()
    console.warn("class \x1b[2Jgone\x07 and \r over")
    assert "class \\x1b[2Jgone\\x07 and \\r over" in shown.lines[0]


def test_columns_of_wide_letters_stay_in_line(capsys):
    console.columns("t", ["class", "n"], [["日本", 5], ["ribosome", 10]])
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert first == "日本       5"  # four places, as a terminal shows it
    assert second == "ribosome  10"


def test_a_dumb_terminal_gets_lines_and_no_bar(terminal, monkeypatch):
    shown = terminal(term="dumb")
    monkeypatch.setattr(console, "PLAIN_SECONDS", -1.0)
    list(console.track(range(2), "reading", 2))
    first, second = shown.lines
    assert first.startswith("reading: 1 of 2")
    assert second.startswith("reading: 2 of 2")


def test_what_was_asked_for_is_typed_again():
    assert typed(BoxOrigin()) == typed(Cutting()) == []
    assert typed(BoxOrigin(tomograms=Path("T"), skip_missing=True, angpix=10)) == [
        *("--tomograms", Path("T"), "--skip-missing", "--angpix", 10)
    ]
    assert typed(Cutting(norm=False, shifts=False, invert="yes")) == [
        "--invert",
        "yes",
        "--no-norm",
        "--no-shifts",
    ]


# ----------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (f"{LIST} >&-", 0),
        (f"{LIST} >/dev/full", 0),
        (f"{LIST} >&- 2>&- <&-", 0),
        (f"{MISSING} 2>&-", 1),
        (f"{MISSING} 2>/dev/full", 1),
        ("--nonsense >/dev/full 2>/dev/full", 2),
        ("extract --help >/dev/full", 0),
    ],
)
def test_a_closed_or_full_stream_changes_no_exit_status(line, status, tmp_path):
    ran = bash(f"cryoclass {line}", tmp_path)
    assert ran.returncode == status
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr
    assert ran.stderr.count("the standard output cannot be written") == (
        line.endswith(">/dev/full") and not status
    )


def test_a_reader_that_has_seen_enough_changes_no_exit_status(tmp_path):
    ran = bash(f"cryoclass {LIST} | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert (ran.stdout, ran.stderr) == ("0\n", "")


OPENED = """
from pathlib import Path
from cryoclass.cli import streams
streams.protect()
with Path("ours").open("w") as ours:
    print("by Python", flush=True)
    Path("number").write_text(str(ours.fileno()))
"""


def test_no_file_of_ours_takes_the_number_of_a_closed_stream(tmp_path):
    """Whatever a library, or a program that we start, prints would land in it."""
    ran = bash(f"{sys.executable} -c {shlex.quote(OPENED)} <&- >&- 2>&-", tmp_path)
    assert ran.returncode == 0
    assert int((tmp_path / "number").read_text()) > 2
    assert (tmp_path / "ours").read_text() == ""


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C", "TERM": "dumb", "COLUMNS": "40"},
    ],
    ids=["latin-1", "plain C", "C"],
)
def test_names_that_cannot_be_encoded_end_no_run(environment, tmp_path):
    ran = bash(
        "cryoclass extract 'Ω日本 :100:.star' --box 16; cryoclass extract $'caf\\xe9.star' --box 16",
        tmp_path,
        **environment,
    )
    assert ran.returncode == 1
    assert ran.stderr.count("no such file") == 2
    assert "Traceback" not in ran.stderr


# ------------------------------------------------------------------------------------------ what is next


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--species 2 --per-species 3", ["finetune", "embed"]),
        ("--species 2 --per-species 3 --labelled 0", ["embed"]),
        ("--species 2 --per-species 2", ["embed"]),
        ("--species 1 --per-species 6", ["embed"]),
    ],
    ids=["teachable", "no label", "too few", "one class"],
)
def test_finetune_comes_next_only_where_it_works(cryoclass, tmp_path, options, expected):
    ran = cryoclass(
        "simulate", "-o", tmp_path / "my S", "--particles", "--box", "16", "--angpix", "20", *options.split()
    )
    following = [
        shlex.split(line.removeprefix("next: ")) for line in ran.out.splitlines() if line.startswith("next: ")
    ]
    assert [words[1] for words in following] == expected
    assert all(Path(words[2]).is_file() for words in following)


def test_a_table_that_nobody_named_is_to_be_typed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert some_particles() == YOURS
    assert with_images([Path("gone.star")]) == YOURS
    Path("particles.star").write_text(
        "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n1 2 3\n"
    )
    assert some_particles() == Path("particles.star")
    assert with_images([Path("particles.star")]) == YOURS
    Path("images.star").write_text("data_\n\nloop_\n_rlnImageName #1\na.mrc\n")
    assert with_images([Path("gone.star"), Path("particles.star"), Path("images.star")]) == Path(
        "images.star"
    )


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("number", "status", "words"),
    [(signal.SIGTERM, 143, "stopped by SIGTERM"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_that_meets_the_loading_of_a_library_is_no_error(
    number, status, words, cryoclass, monkeypatch
):
    """Raised while a library is loaded, it came out as an ImportError with its trace."""

    def loading(*_: object) -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        except (KeyboardInterrupt, SystemExit):
            raise ImportError("initialization failed") from None

    Path("x.star").touch()
    monkeypatch.setattr("cryoclass.particles.read_particles", loading)
    ran = cryoclass("extract", "x.star", "--box", 8, "-o", "O")
    assert ran.status == status
    assert words in ran.err
    assert "initialization" not in ran.err
    monkeypatch.setattr("cryoclass.particles.read_particles", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cryoclass("extract", "x.star", "--box", 8, "-o", "O")

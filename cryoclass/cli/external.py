"""Commands as External jobs of RELION: its arguments become ours, and it learns how the job ended.

RELION calls ``cryoclass predict --o External/job001/ --in_parts particles.star --onnx model.onnx --j 4`` in its project
folder, with up to ten ``--label value`` pairs of the user's in between.
"""

import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from cryoclass.cli import console
from cryoclass.errors import OutputError
from cryoclass.star.external import JOB, End, ExternalJob, Kind, Node
from cryoclass.star.names import project_path
from cryoclass.stopping import ask, signals_as_exits

COMMANDS = ("extract", "finetune", "predict", "embed")
PARTICLES = ("--in_parts", "--in_coords")
TOMOGRAMS = "--in_mics"
UNUSED = ("--in_movies", "--in_3dref", "--in_mask")
CONTROL = "--pipeline_control"
OUTDIR = ("--o", "-o", "--outdir")
YES, NO = ("yes", "true", "1", "on"), ("no", "false", "0", "off")
OUTPUTS = (
    ("particles.star", Kind.PARTICLES),
    ("*optimisation_set.star", Kind.OPTIMISATION_SET),
    ("predictions.star", Kind.PARTICLES),
    ("class[0-9][0-9][0-9]_*.star", Kind.PARTICLES),
)
"""What the commands write and RELION can use; the first pattern that fits a file names its kind."""

_OPTION = re.compile(r"--?[A-Za-z]")


@dataclass(frozen=True, kw_only=True)
class ExternalCall:
    """A call by RELION, in our own words.

    Attributes
    ----------
    argv
        The command line that the command understands.
    folder
        The job folder.
    notes
        What was left out of RELION's command line, and why.
    """

    argv: tuple[str, ...]
    folder: Path
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Word:
    """An option and the words behind it, up to the next option."""

    option: str
    values: tuple[str, ...]


def translate(argv: Sequence[str], app: typer.Typer) -> ExternalCall | None:
    """Turn RELION's command line into ours; ``None`` where it was not RELION that wrote it.

    A call is RELION's where an ``--in_*`` or ``--pipeline_control`` says so, or where ``--o`` is a folder with a
    ``job.star``. Labels may be spelt with underscores, flags may have a value (``--split_classes Yes``), and options
    without a value (an empty field of the GUI) are left out. Words that nobody knows stay, for the command to refuse.

    Parameters
    ----------
    argv
        Words behind ``cryoclass``.
    app
        The commands and their options.
    """
    words = [word for word in argv if word.strip()]
    if not words or words[0] not in COMMANDS:
        return None
    groups = _groups(words[1:])
    outdir = next((g.values[0] for g in reversed(groups) if g.option in OUTDIR and g.values), None)
    marks = (*PARTICLES, TOMOGRAMS, *UNUSED, CONTROL)
    if not any(group.option in marks for group in groups) and not (
        outdir and os.path.isfile(Path(outdir) / JOB)  # noqa: PTH113 - Path.is_file raises where a name is too long
    ):
        return None
    options = _options(app, words[0])
    translation = _Translation(options)
    for group in groups:
        translation.take(group)
    return ExternalCall(
        argv=(words[0], *translation.argv()),
        folder=Path(outdir or options["--outdir"].default),
        notes=tuple(translation.notes),
    )


def run(call: ExternalCall, command: Callable[[Sequence[str]], int]) -> int:
    """Run a command as an External job and return its exit status.

    Success, failure (any error or signal) or abortion is told to RELION when everything else is done.
    """
    try:
        return _run(call, command)
    except OutputError as problem:  # of the job's own files; the command has handled its errors
        console.error(problem)
        return problem.exit_status


def _run(call: ExternalCall, command: Callable[[Sequence[str]], int]) -> int:
    job = ExternalJob(folder=call.folder)
    job.start()
    before, end = _stamps(call.folder), End.FAILURE
    try:
        with signals_as_exits(), console.watched(lambda: _obey(job)):
            for line in (f"External job of RELION in {call.folder}", *call.notes):
                console.note(line)
            status = command(call.argv)
            if status == 0:
                job.write_nodes(_nodes(call.folder, before))
                end = End.SUCCESS
            elif job.abort_asked():
                end = End.ABORTED
    finally:
        job.end(end)
    return status


class _Translation:
    """Collects our command line, one of RELION's words after the other."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.particles: list[str] = []
        self.tomograms: list[str] = []
        self.rest: list[str] = []
        self.notes: list[str] = []

    def take(self, group: _Word) -> None:
        """Take an option with its values; what stands behind those is handed on."""
        option, values = group.option, group.values
        if option in PARTICLES and values and not self.particles:
            self.particles.append(values[0])
        elif option == TOMOGRAMS and values:
            self.tomograms = ["--tomograms", values[0]]
        elif option in (*PARTICLES, *UNUSED):
            self.notes.append(f"not used here: {option} {' '.join(values[:1])}".rstrip())
        elif option not in (TOMOGRAMS, CONTROL):
            self.rest += self._own(option, values)
            return
        self.rest += values[1:]

    def argv(self) -> list[str]:
        """Return all words behind the command's name."""
        tomograms = [] if "--tomograms" in self.rest else self.tomograms
        overwrite = (
            [] if "--overwrite" in self.rest else ["--overwrite"]
        )  # RELION re-runs into the same folder
        return [*self.particles, *tomograms, *self.rest, *overwrite]

    def _own(self, option: str, values: tuple[str, ...]) -> list[str]:
        """Return one of our options as the command wants it; unknown ones as they are."""
        hyphened = option.replace("_", "-")
        name = hyphened if hyphened in self.options else option
        known = self.options.get(name)
        if known is None:
            return [*([option] if option else []), *values]
        if known.is_flag:
            return _flag(name, known, values)
        if not values:
            self.notes.append(f"left out, since it has no value: {option}")
            return []
        return [name, *values]


def _groups(words: Sequence[str]) -> list[_Word]:
    """Put each option together with the words behind it; words before any option come with an empty option."""
    groups: list[tuple[str, list[str]]] = [("", [])]
    for word in words:
        if not _OPTION.match(word):
            groups[-1][1].append(word)
            continue
        option, _, value = word.partition("=") if word.startswith("--") else (word, "", "")
        groups.append((option, [value] if value else []))
    return [_Word(option=option, values=tuple(values)) for option, values in groups]


def _flag(name: str, known: Any, values: tuple[str, ...]) -> list[str]:
    """Return a flag that may have a value behind it: ``--norm No`` is ``--no-norm``; one without an opposite goes."""
    said = values[0].lower() if values else ""
    on = said not in NO
    names = known.opts if on == (name in known.opts) else known.secondary_opts
    return [*names[:1], *values[said in YES + NO :]]


def _options(app: typer.Typer, command: str) -> dict[str, Any]:
    """Return the options of a command by their names, as Typer describes them."""
    group: Any = typer.main.get_command(app)
    params = [p for p in group.commands[command].params if p.param_type_name == "option"]
    return {name: param for param in params for name in (*param.opts, *param.secondary_opts)}


def _obey(job: ExternalJob) -> None:
    """Stop as on Ctrl-C where RELION's user pressed Abort."""
    if job.abort_asked():
        ask(signal.SIGINT)


def _stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return what tells a new file from an old one of the same name, for each possible output in a folder."""
    files = {path: path.stat() for pattern, _ in OUTPUTS for path in sorted(folder.glob(pattern))}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in files.items()}


def _nodes(folder: Path, before: Mapping[Path, tuple[int, int]]) -> list[Node]:
    """List the outputs of this run; those of an earlier one in the same folder may not belong to them."""
    fresh = [path for path, stamp in _stamps(folder).items() if before.get(path) != stamp]
    return [Node(path=project_path(path), kind=_kind(path)) for path in fresh]


def _kind(path: Path) -> Kind:
    return next(kind for pattern, kind in OUTPUTS if path.match(pattern))

"""Options that several commands share, and the bridge from settings to options."""

import dataclasses
import functools
import inspect
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cryoclass.cli import console
from cryoclass.errors import UsageError
from cryoclass.settings import Option, Settings

DEFAULT_PARTICLES = Path("particles.star")

ParticlesArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="PARTICLES",
        help="STAR file; particles.star in the current folder where left out.",
        show_default=False,
    ),
]
Outdir = Annotated[Path, typer.Option("--outdir", "-o", "--o", metavar="DIR", help="Folder for the results.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the results of a finished run.")]
Jobs = Annotated[
    int, typer.Option("--num-workers", "-j", "--j", metavar="N", min=1, help="Threads that read and write.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--num-workers",
        "-j",
        "--j",
        metavar="N",
        min=1,
        help="Threads that compute on a CPU; as many as it has cores where left out.",
        show_default=False,
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run in --outdir stopped.")]
BoxToCut = Annotated[
    int | None,
    typer.Option(
        "--box",
        metavar="PIXELS",
        min=4,
        help="With --tomograms: side of the boxes to cut.",
        show_default=False,
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="NAME", help="Where to compute: auto, cpu, cuda or cuda:1.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Particles per batch.")]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16"],
    typer.Option("--precision", help="Number type on the device; auto is bf16 on CUDA and fp32 on CPU."),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        metavar="COLUMN",
        help="Column with the labels; cryoclassLabel, else rlnClassNumber.",
        show_default=False,
    ),
]
Rescale = Annotated[
    bool, typer.Option("--rescale", help="Bring boxes to the model's pixel size and box where they differ.")
]
ModelFolder = Annotated[
    Path | None,
    typer.Option("--model", metavar="DIR", help="Model folder written by finetune.", show_default=False),
]
OnnxFile = Annotated[
    Path | None, typer.Option("--onnx", metavar="FILE", help="Model written by export.", show_default=False)
]


def cores() -> int:
    """Return how many cores this process may use (SLURM and taskset are obeyed)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def particles_path(given: Path | None) -> Path:
    """Return the STAR file: the given one, or ``particles.star`` in the current folder.

    Raises
    ------
    UsageError
        None was given and there is none.
    """
    if given is None and not DEFAULT_PARTICLES.is_file():
        raise UsageError(
            "no STAR file given, and there is no particles.star here.", "Name one: cryoclass ... FILE.star"
        )
    return given or DEFAULT_PARTICLES


def claim(outdir: Path, result: str, *, overwrite: bool) -> None:
    """Refuse a folder that holds a finished run, told by its last-written file.

    Raises
    ------
    UsageError
        ``outdir/result`` exists and ``overwrite`` is off, or ``outdir`` is a file.
    """
    if outdir.exists() and not outdir.is_dir():
        raise UsageError(f"--outdir {outdir} is a file.", "Name a folder.")
    if (outdir / result).exists() and not overwrite:
        raise UsageError(
            f"{outdir} holds a finished run ({result}).", "Choose another --outdir, or add --overwrite."
        )


def claim_run(outdir: Path, result: str, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds a finished or an interrupted run, unless it is to be resumed or replaced.

    Raises
    ------
    UsageError
        As :func:`claim`, or there is a checkpoint.
    """
    claim(outdir, result, overwrite=overwrite or resume)  # a job that is queued again may be finished
    if not (resume or overwrite) and (outdir / "checkpoint.pt").exists():
        raise UsageError(
            f"{outdir} holds an interrupted run.", "Go on with --resume, or start again with --overwrite."
        )


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``-v`` to a command: every option as it was understood, log messages, and where an error arose."""
    signature = inspect.signature(command, eval_str=True)
    annotation = Annotated[
        bool, typer.Option("--verbose", "-v", help="Say all settings, and where an error arose.")
    ]
    option = inspect.Parameter(
        "verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation
    )

    @functools.wraps(command)
    def wrapper(*, verbose: bool, **values: Any) -> None:
        if verbose:
            console.say_more()
            for name, value in values.items():
                console.note(f"{name} = {value}")
        command(**values)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]
    wrapper.__signature__ = signature.replace(parameters=[*parameters, option])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in [*parameters, option]}
    return wrapper


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Turn each parameter whose type is a :class:`Settings` class into one option per field.

    Typer then sees the fields with their help, units, limits and defaults, and the command still gets one object.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    groups = {
        name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, Settings)
    }
    plain = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name not in groups]
    options = [option for group in groups.values() for option in _options(group)]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        for name, group in groups.items():
            fields = {option.name: values.pop(option.name) for option in _options(group)}
            values[name] = group(**fields)
        command(**values)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*plain, *options)]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _options(group: type[Settings]) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(group)
    return [
        _parameter(group, field, hints[field.name])
        for field in dataclasses.fields(group)
        if "option" in field.metadata
    ]


def _parameter(group: type[Settings], field: "dataclasses.Field[Any]", hint: Any) -> inspect.Parameter:
    option: Option = field.metadata["option"]
    flags = option.flags or ("--" + field.name.replace("_", "-"),)
    annotation = Annotated[
        hint,
        typer.Option(
            *flags,
            help=option.help,
            metavar=option.unit.upper() or None,
            case_sensitive=False,
            rich_help_panel=group.panel,
            show_default=field.default is not None,
        ),
    ]
    default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )

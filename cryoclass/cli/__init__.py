"""The command line: one small file per subcommand, and the one place that turns errors into words and statuses.

Nothing here imports torch; commands import what they need when they run, so that ``--help`` is instant.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from cryoclass import __version__, stopping
from cryoclass.cli import backbones, console, external, streams
from cryoclass.cli.demo import demo
from cryoclass.cli.doctor import doctor
from cryoclass.cli.embed import embed
from cryoclass.cli.export import export
from cryoclass.cli.extract import extract
from cryoclass.cli.finetune import finetune
from cryoclass.cli.options import with_verbosity
from cryoclass.cli.predict import predict
from cryoclass.cli.pretrain import pretrain
from cryoclass.cli.select import select
from cryoclass.cli.simulate import simulate
from cryoclass.errors import CryoclassError, UsageError
from cryoclass.inputs import way_out
from cryoclass.machine import check_one_copy
from cryoclass.stopping import Stopped

INTERRUPTED = 130
GOING_ON = ("extract", "finetune", "pretrain", "predict", "embed")

# The base of all of Typer's usage errors has no public name.
_TyperUsageError = cast("type[Exception]", typer.BadParameter.__base__)


class _Guarded(TyperGroup):
    """A group that turns our errors, and those of files and memory, into a message, a hint and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        stopping.forget()
        try:
            return self._obeying_signals(ctx)
        except CryoclassError as problem:
            raise _exit(problem) from problem
        except BrokenPipeError:
            raise  # whoever read what we say has gone
        except OSError as problem:
            raise _exit(_in_words(problem)) from problem
        except MemoryError as problem:
            raise _exit(_too_little_memory()) from problem
        except KeyboardInterrupt:
            console.note(f"interrupted; {_how_to_go_on(ctx.invoked_subcommand)}")
            raise typer.Exit(INTERRUPTED) from None
        except Stopped as stop:
            console.note(f"stopped by {stop}; {_how_to_go_on(ctx.invoked_subcommand)}")
            raise typer.Exit(int(stop.code or 1)) from None

    def _obeying_signals(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception:
            stopping.end_as_obeyed()
            raise


def _how_to_go_on(command: str | None) -> str:
    if command in GOING_ON:
        return "what is finished is kept, and the same command goes on from there."
    return "the same command starts again."


def _exit(problem: CryoclassError) -> typer.Exit:
    console.error(problem)
    return typer.Exit(problem.exit_status)


def _in_words(problem: OSError) -> CryoclassError:
    """Say what the system said, and of which file; the last net, for what no reader and no writer has put better."""
    said = problem.strerror or str(problem) or type(problem).__name__
    name = problem.filename2 or problem.filename
    where = f"{os.fsdecode(name)}: " if isinstance(name, str | bytes | os.PathLike) else ""
    return CryoclassError(f"{where}{said}.", way_out(problem))


def _too_little_memory() -> CryoclassError:
    return CryoclassError(
        "there is too little memory for this.",
        "Use a smaller -b/--batch-size, fewer readers (a smaller -j), or a computer or job with more memory.",
    )


app = typer.Typer(
    cls=_Guarded,
    name="cryoclass",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        console.say(f"cryoclass {__version__}")
        raise typer.Exit


@app.callback()
def cryoclass(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Classify subtomograms of cryo-electron tomography with 3D networks that learnt from video.

    Works on RELION and Warp STAR files and MRC volumes. Gives your own STAR file
    back, with classes and probabilities added.
    """


PREPARE, LEARN, USE = "Get particles", "Learn", "Use a model"


def _add(command: Callable[..., None], panel: str) -> None:
    """Register a command; its docstring is its help, with lines joined so that the terminal's width breaks them."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    app.command(help="\n\n".join(" ".join(p.split()) for p in paragraphs), rich_help_panel=panel)(
        with_verbosity(command)
    )


_add(doctor, PREPARE)
_add(extract, PREPARE)
_add(simulate, PREPARE)
_add(demo, PREPARE)
_add(finetune, LEARN)
_add(pretrain, LEARN)
app.add_typer(backbones.app, rich_help_panel=LEARN)
_add(predict, USE)
_add(select, USE)
_add(embed, USE)
_add(export, USE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status: 0, 1 (bad input), 2 (usage) or 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if argv is None else argv)
    call = external.translate(words, app)
    return _main(words) if call is None else external.run(call, _main)


def _main(words: Sequence[str]) -> int:
    console.say_less()
    try:
        if _writes(words):
            check_one_copy()
        status = _program()(args=list(words), prog_name="cryoclass", standalone_mode=False)
    except UsageError as problem:  # a copy
        return _exit(problem).exit_code
    except _TyperUsageError as problem:
        return _wrong_usage(problem)
    except SystemExit as stop:  # a signal, in a job of RELION
        return stop.code if isinstance(stop.code, int) else 1
    return int(status or 0)


READ_ONLY = (("doctor",), ("backbones", "list"))


def _writes(words: Sequence[str]) -> bool:
    """Whether a command line may write anything."""
    asks = not words or words[0].startswith("-") or {"-h", "--help"} & set(words)
    return not asks and not any(tuple(words[: len(command)]) == command for command in READ_ONLY)


@functools.cache
def _program() -> Any:
    """Build the commands with all their options once, however often one is called in a process."""
    return typer.main.get_command(app)


def _wrong_usage(problem: Any) -> int:
    """Say what Typer complains of in our own words; a group without a command has shown its help already."""
    message = problem.format_message()
    if message:
        hint = f"{problem.ctx.command_path} -h shows the options." if problem.ctx else ""
        console.error(UsageError(message, hint))
    return UsageError.exit_status


def run() -> None:
    """Entry point of the console script."""
    streams.protect()
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before a command had begun, or when it had ended
        sys.exit(INTERRUPTED)

"""The bridge from requests to options: every field becomes one, and the command gets the request whole."""

import dataclasses
import functools
import inspect
import math
import re
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from cryoclass import numerals
from cryoclass.cli import console
from cryoclass.settings import Option, Settings, WorkRequest, words_of

Command = Callable[..., None]


def with_verbosity(command: Command) -> Command:
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

    return _typed(wrapper, [*_keywords(signature.parameters.values()), option])


def with_request(command: Command) -> Command:
    """Turn each parameter whose type is a :class:`Settings` class into options, one per field, those of its groups too.

    Typer then sees the fields with their help, units, limits and defaults, and the command still gets one object.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    requests = {name: hint for name, hint in hints.items() if _is_group(hint)}
    plain = [
        p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name not in requests
    ]
    options = [option for request in requests.values() for option in _options(request)]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        for name, request in requests.items():
            values[name] = _build(request, values)
        command(**values)

    return _typed(wrapper, [*_keywords(options), *_keywords(plain)])


def _keywords(parameters: typing.Iterable[inspect.Parameter]) -> list[inspect.Parameter]:
    return [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]


def _typed(wrapper: Command, parameters: list[inspect.Parameter]) -> Command:
    """Let a wrapper look as if it had these parameters."""
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def _fields(request: type[Settings]) -> Iterator[tuple["dataclasses.Field[Any]", Any]]:
    """Yield each field that is an option or a group of them, with its type; what all requests have comes last."""
    hints = typing.get_type_hints(request)
    common = {field.name for field in dataclasses.fields(WorkRequest)}
    for field in sorted(dataclasses.fields(request), key=lambda field: field.name in common):
        if "option" in field.metadata or _is_group(hints[field.name]):
            yield field, hints[field.name]


def _build(request: type[Settings], values: dict[str, Any]) -> Settings:
    """Take out of the values what a request needs, and make it."""
    return request(
        **{
            field.name: _build(hint, values) if _is_group(hint) else values.pop(field.name)
            for field, hint in _fields(request)
        }
    )


def _options(request: type[Settings]) -> Iterator[inspect.Parameter]:
    for field, hint in _fields(request):
        if _is_group(hint):
            yield from _options(hint)
        else:
            yield _parameter(request, field, hint)


def _parameter(group: type[Settings], field: "dataclasses.Field[Any]", hint: Any) -> inspect.Parameter:
    option: Option = field.metadata["option"]
    missing = field.default is dataclasses.MISSING
    known: dict[str, Any] = {
        "help": option.help,
        "metavar": option.unit.upper() or None,
        "case_sensitive": False,
        "show_default": not missing and field.default is not None,
        "parser": _parser(hint),
    }
    kind = typer.Argument(**known) if option.argument else _option(field.name, option, group.panel, known)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if missing else field.default,
        annotation=Annotated[_told(hint), kind],
    )


def _told(hint: Any) -> Any:
    """Return a type as Typer can be told it, which knows no numbers that may be words; :func:`_parser` reads those."""
    return str | None if words_of(hint) and int in typing.get_args(hint) else hint


def _parser(hint: Any) -> Callable[[Any], Any] | None:
    """Return what reads a value, or each of several, where they are numbers; Typer would take ``1_0`` for ten."""
    kinds = {kind for part in (hint, *typing.get_args(hint)) for kind in (part, *typing.get_args(part))}
    if float in kinds:
        return _number
    if int in kinds and words_of(hint):
        return functools.partial(_word_or_number, words_of(hint))
    return _whole_number if int in kinds else None


def _number(text: Any) -> float:
    try:
        value = numerals.number(str(text))
    except ValueError:
        raise typer.BadParameter(f"{str(text)!r} is no number.") from None
    if not math.isfinite(value):
        raise typer.BadParameter(f"{str(text)!r} is too large.")
    return value


def _whole_number(text: Any) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", str(text)):
        raise typer.BadParameter(f"{str(text)!r} is no whole number.")
    return int(text)


def _word_or_number(words: tuple[str, ...], text: Any) -> str | int:
    word = str(text).lower()
    if word in words:
        return word
    try:
        return _whole_number(text)
    except typer.BadParameter as problem:
        raise typer.BadParameter(f"{str(problem).removesuffix('.')}, nor {' or '.join(words)}.") from None


def typed(group: Settings) -> list[object]:
    """Return the words that say on a command line what differs from the defaults of a group of settings."""
    words: list[object] = []
    for field, _ in _fields(type(group)):
        value = getattr(group, field.name)
        if value != field.default:
            names = _flags(field.name, field.metadata["option"])[0].split("/")
            words += [names[0 if value else -1]] if isinstance(value, bool) else [names[0], value]
    return words


def _flags(name: str, option: Option) -> tuple[str, ...]:
    return option.flags or ("--" + name.replace("_", "-"),)


def _option(name: str, option: Option, panel: str, known: dict[str, Any]) -> Any:
    return typer.Option(*_flags(name, option), **known, rich_help_panel=panel)

"""What a run needs to go on after a kill: its last two states, each in a file of its own that knows whose it is."""

import hashlib
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, cast, get_origin, get_type_hints

import torch
from torch import Tensor

from cryoclass.backbones.weights import DAMAGE, check_zip
from cryoclass.card import cryoclass_version
from cryoclass.errors import ModelError, UsageError
from cryoclass.files import replacing, stamp
from cryoclass.machine import short_of_memory
from cryoclass.progress import TO_LOG
from cryoclass.stopping import between_steps

FORMAT = 3  # of a checkpoint
NEWEST, BEFORE = "checkpoint.pt", "checkpoint-1.pt"
COST = 50  # times as long as the last saving took is computed before the next one, so that it takes 2 % of the time
SMALL = 2**27  # bytes of a state that may be saved after every epoch, however short
START_AGAIN = "Choose another --outdir, or start again with --overwrite."

State = dict[str, Any]
Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Where and how a run keeps what it has done.

    Parameters
    ----------
    folder
        Where checkpoints lie; nowhere where None.
    seconds
        From one to the next at least; 0 for one after every step.
    overwrite
        Whether checkpoints of another run, or damaged ones, are thrown away, and the run starts anew.
    note, warn
        Hear from where a run goes on, and what became of other checkpoints.
    """

    folder: Path | None = None
    seconds: float = 30.0
    overwrite: bool = False
    note: Callable[[str], None] = TO_LOG.note
    warn: Callable[[str], None] = TO_LOG.warn


@dataclass(kw_only=True)
class Keeper:
    """Keeps the states of one run, and finds them again.

    Parameters
    ----------
    keeping
        Where and how.
    settings
        What must be the same for a run to go on, in words.
    place
        What may differ, though the last bits of the result may then differ too, in words.
    """

    keeping: Keeping
    settings: Mapping[str, str]
    place: Mapping[str, str] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)
    _cost: float = 0.0

    @contextmanager
    def between_steps(
        self, state: Callable[[], State], *, timed: bool = True
    ) -> Iterator[Callable[[], None]]:
        """Yield what to call after each step: it saves where that is due, or a signal waits, and then obeys the signal.

        Parameters
        ----------
        state
            Returns what is to be saved after a whole step.
        timed
            Whether steps change the state, so that it is worth saving from time to time.
        """
        with between_steps() as waiting:

            def step_is_done() -> None:
                if self.keeping.folder is not None and (waiting.number is not None or (timed and self._due)):
                    self.save(state())
                waiting.obey()

            yield step_is_done

    @property
    def _due(self) -> bool:
        wait = max(self.keeping.seconds, COST * self._cost) if self.keeping.seconds else 0.0
        return time.monotonic() - self._last >= wait

    def end_part(self, state: Callable[[], State], *, last: bool) -> None:
        """Save after an epoch or a period, but where short ones would spend their time on that; after the last one always."""
        small = self.keeping.folder is None or stamp(self.keeping.folder / NEWEST)[0] < SMALL
        if last or small or time.monotonic() - self._last >= COST * self._cost:
            self.save(state())

    def save(self, state: State) -> None:
        """Write a state (tensors and plain values), and keep the one before.

        One that holds numbers which are not finite is not written: the run is about to fail of them, and will say so.

        Raises
        ------
        OutputError
            The disk is full, or the folder cannot be written.
        """
        if self.keeping.folder is None or not all(map(_is_finite, _tensors(state))):
            return
        started = time.monotonic()
        content = {"settings": dict(self.settings), "place": self._place, "state": state}
        _write(self.keeping.folder, {"format": FORMAT, "digest": _digest(content), **content})
        self._last = time.monotonic()
        self._cost = self._last - started

    def find(self, check: Callable[[State], None]) -> tuple[State, str] | None:
        """Return the newest state that is whole, on the CPU, and the name of its file; None where the run starts anew.

        Parameters
        ----------
        check
            Raises :class:`Misfit` where the network of this run cannot go on from a state.

        Raises
        ------
        ModelError
            All are damaged.
        UsageError
            They belong to another run, so going on would not give the result of an unbroken one.
        """
        folder, damaged = self.keeping.folder, []
        for path in [] if folder is None else (folder / NEWEST, folder / BEFORE):
            if not path.exists():
                continue
            try:
                content = _read(path)
                other = self._difference(content, path)
                if other is None:
                    check(content["state"])
            except Misfit as problem:
                damaged.append(f"{path} {problem}.")
                continue
            if other is None:
                return self._going_on(content, path, damaged)
            self._start_anew(other)
            return None
        if damaged:
            self._start_anew(ModelError(damaged[0], START_AGAIN))
        return None

    @property
    def _place(self) -> dict[str, str]:
        versions = {"cryoclass": cryoclass_version(), "torch": str(torch.__version__)}
        return {**versions, "threads": str(torch.get_num_threads()), **self.place}

    def _difference(self, content: Mapping[str, Any], path: Path) -> UsageError | None:
        changed = _changed(content["settings"], self.settings)
        if not changed:
            return None
        return UsageError(
            f"{path} belongs to another run: {changed}.",
            f"Repeat the first command, {START_AGAIN[0].lower()}{START_AGAIN[1:]}",
        )

    def _start_anew(self, why: ModelError | UsageError) -> None:
        if not self.keeping.overwrite or self.keeping.folder is None:
            raise why
        self.keeping.warn(f"{why} Starting anew, as --overwrite says.")
        remove_checkpoints(self.keeping.folder)

    def _going_on(self, content: Mapping[str, Any], path: Path, damaged: list[str]) -> tuple[State, str]:
        for words in damaged:
            self.keeping.warn(f"{words} Going on from the one before, {path.name}.")
        changed = _changed(content["place"], self._place)
        if changed:
            self.keeping.warn(
                f"{path} was made elsewhere: {changed}. The last bits of the result may differ from those of an unbroken run."
            )
        return content["state"], path.name


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints from a folder, so that a run there starts anew; only for those whose folder it is."""
    for name in (NEWEST, BEFORE):
        (folder / name).unlink(missing_ok=True)


def space(state_bytes: int, folder: Path) -> int:
    """Return the bytes that checkpoints of some size will take beyond what they take now: two, and one being written."""
    there = [folder / name for name in (NEWEST, BEFORE)]
    return max(0, 3 * state_bytes - sum(path.stat().st_size for path in there if path.exists()))


def _changed(saved: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say what differs; empty where nothing does."""
    names = [name for name in dict.fromkeys([*now, *saved]) if saved.get(name) != now.get(name)]
    return "; ".join(
        f"{name} was {saved.get(name, 'unknown')}, now {now.get(name, 'unknown')}" for name in names
    )


# --------------------------------------------------------------------------------------------- the file


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    path = folder / NEWEST
    with replacing(path) as temporary:
        with temporary.open("wb") as out:
            try:
                torch.save(content, out)
            except RuntimeError as error:  # where a write fails, torch fails again on closing its archive
                cause = error.__context__
                raise (
                    cause if isinstance(cause, OSError | KeyboardInterrupt | SystemExit) else error
                ) from None
        if path.exists():
            path.replace(folder / BEFORE)


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint: the state as it was saved, and whose it is.

    Raises
    ------
    Misfit
        Damaged, or of another format.
    ModelError
        The disk does not give it.
    """
    try:
        with path.open("rb"):  # looking for a zip file would take no leave to read for no zip file
            content = _unpacked(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", START_AGAIN) from error
    number = content.get("format") if isinstance(content, dict) else None
    if type(number) is not int or number != FORMAT:
        raise Misfit(
            f"is of another version of cryoclass: its format is {number}, and this one reads format {FORMAT}"
        )
    hold(content, {"format": int, "digest": str, "settings": Words, "place": Words, "state": dict})
    whole = _digest({name: content[name] for name in ("settings", "place", "state")})
    hold_that(content["digest"] == whole, "it does not hold what was saved")
    return cast("dict[str, Any]", content)


def _unpacked(path: Path) -> Any:
    try:
        hold_that(zipfile.is_zipfile(path), "it is no zip file")
        check_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ModelError as error:
        raise Misfit("is damaged: a part does not fit its checksum") from error
    except (*DAMAGE, zipfile.BadZipFile) as error:
        if short_of_memory(error):
            raise
        raise Misfit("is damaged, or was not made by cryoclass") from error


def _digest(value: Any) -> str:
    """Return a hash of tensors and plain values, whatever memory they lie in."""
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    """Yield what a value is made of, as bytes; Misfit where that is more than a checkpoint holds."""
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)} ".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    elif isinstance(value, dict):
        yield f"dict {len(value)} ".encode()
        yield from chain.from_iterable(_parts(part) for item in value.items() for part in item)
    elif isinstance(value, list):
        yield f"list {len(value)} ".encode()
        yield from chain.from_iterable(map(_parts, value))
    elif value is None or type(value) in (bool, int, float, str):
        yield f"{value!r} ".encode("utf-8", "surrogatepass")
    else:
        raise Misfit(f"is damaged: it holds a {type(value).__name__}")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        yield from chain.from_iterable(map(_tensors, inside))


def _is_finite(value: Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return True
    return bool(
        torch.isfinite(torch.stack(torch.aminmax(value.detach()))).all()
    )  # NaN is both, and this is quick


# ----------------------------------------------------------------------------------------- what fits


class Misfit(Exception):  # noqa: N818 - it never leaves this house: ModelError says it
    """A checkpoint is damaged, or none of this run; says what is wrong, in words that follow the name of the file."""


class Words:
    """In :func:`hold`, stands for any texts by name."""


class Numbers:
    """In :func:`hold`, stands for any numbers by name."""


def hold(found: Any, like: Any, name: str = "it") -> None:
    """Hold a value against what it should be like.

    Parameters
    ----------
    found
        The value.
    like
        A tensor of the same shape and type; a mapping with the same names, each like its own; or a type.
    name
        What the value is called.

    Raises
    ------
    Misfit
        It is not.
    """
    if like is Words:
        fits = type(found) is dict and all(type(word) is str for item in found.items() for word in item)
    elif like is Numbers:
        fits = type(found) is dict and all(
            (type(name), type(number)) == (str, float) for name, number in found.items()
        )
        fits = fits and all(map(math.isfinite, found.values()))
    elif isinstance(like, Mapping):
        fits = isinstance(found, dict) and found.keys() == like.keys()
    elif isinstance(like, Tensor):
        fits = isinstance(found, Tensor) and (found.shape, found.dtype) == (like.shape, like.dtype)
    else:
        fits = isinstance(found, like) and not (isinstance(found, bool) and like is not bool)
    hold_that(fits, f"{name} is not as it should be")
    if isinstance(like, Mapping):
        for key, part in like.items():
            hold(found[key], part, str(key) if name == "it" else f"{key} of {name}")
        return
    number = not isinstance(found, float) or math.isfinite(found)
    hold_that(number and all(map(_is_finite, _tensors(found))), f"{name} is not finite")


def hold_that(true: bool, words: str) -> None:
    """Raise Misfit, with words that say what is wrong, where something is not true."""
    if not true:
        raise Misfit(f"is damaged: {words}")


# ------------------------------------------------------------------------------------ parts of states


def read_records(found: Any, kind: type[Record]) -> list[Record]:
    """Return the lines of a history, which were saved as plain values.

    Raises
    ------
    Misfit
        They are something else.
    """
    hints = get_type_hints(kind)
    names = [line.name for line in fields(kind)]  # type: ignore[arg-type]
    like = {name: Numbers if get_origin(hints[name]) is dict else hints[name] for name in names}
    hold(found, list, "the history")
    for number, line in enumerate(found, 1):
        hold(line, like, f"line {number} of the history")
    return [kind(**line) for line in found]


def check_optimizer(found: Any, optimizer: torch.optim.Optimizer) -> None:
    """Hold what Adam remembers of each parameter, by number, against the parameters; Misfit where it does not fit."""
    hold(found, dict, "the optimizer")
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, memory in found.items():
        hold_that(
            type(number) is int and 0 <= number < len(parameters), "the optimizer knows other parameters"
        )
        weight = parameters[number]
        like = {"step": torch.zeros(()), "exp_avg": weight, "exp_avg_sq": weight}
        hold(memory, like, f"parameter {number} of the optimizer")
        hold_that(bool((memory["exp_avg_sq"] >= 0).all()), "the optimizer has negative squares")


def set_optimizer(optimizer: torch.optim.Optimizer, memory: Any) -> None:
    """Let an optimizer remember; its settings stay its own."""
    optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state(device: torch.device) -> State:
    """Return where torch's own generators are: what dropout draws from."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def check_random_state(found: Any) -> None:
    """Hold that torch's generators could go on from there; Misfit where they could not."""
    hold(found, {"cpu": Tensor, "cuda": Tensor | None}, "random")
    check_generator(found["cpu"])


def check_generator(found: Any) -> None:
    """Hold that a generator could go on from there; Misfit where it could not."""
    try:
        torch.Generator().set_state(found)
    except (RuntimeError, TypeError) as error:
        raise Misfit("is damaged: the state of a generator is none") from error


def set_random_state(state: State, device: torch.device) -> None:
    """Let torch's own generators go on from a state; one of a device that was not there then stays as it is."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)

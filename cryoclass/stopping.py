"""The signals that end a run: at once, or between two steps where a loop asks for that, so that it can keep what it has."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# What a queue, a closed terminal, SLURM's --signal, or a limit of processor time sends; Ctrl-C is Python's own.
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


class Stopped(SystemExit):
    """A signal has ended the run.

    Parameters
    ----------
    number
        The signal's number; the exit status is 128 more.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


class Waiting:
    """A signal that waits for the end of a step.

    Attributes
    ----------
    number
        The signal's number; None as long as none has come.
    """

    number: int | None = None

    def obey(self) -> None:
        """End the run where a signal waits.

        Raises
        ------
        KeyboardInterrupt, Stopped
            As without waiting.
        """
        if self.number is not None:
            _end(self.number)


# Signals come to the process, not to a thread or a context.
_waiting: list[Waiting] = []
_obeyed: list[int] = []


@contextmanager
def signals_as_exits() -> Iterator[None]:
    """Turn the signals by which a queue or a closed terminal ends a process into exits, so that it can clear up."""
    main = threading.current_thread() is threading.main_thread()  # Python handles signals there alone
    wanted = (*ENDING, signal.SIGINT) if main else ()
    before = {number: signal.getsignal(number) for number in wanted}
    mine = [number for number, how in before.items() if how in (signal.SIG_DFL, signal.default_int_handler)]
    for number in mine:  # nohup ignores SIGHUP
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])


@contextmanager
def between_steps() -> Iterator[Waiting]:
    """Let the first signal wait until the block obeys it, or ends; a second one ends the run at once."""
    waiting = Waiting()
    main = threading.current_thread() is threading.main_thread()
    ours = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _handle)
    _waiting.append(waiting)
    try:
        yield waiting
    finally:
        _waiting.remove(waiting)
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    waiting.obey()


def ask(number: int) -> None:
    """End the run as if a signal had come: now, or where a loop keeps what it has."""
    if _waiting and _waiting[-1].number is None:
        _waiting[-1].number = number
    else:
        _end(number)


def forget() -> None:
    """Let no signal that was obeyed before count any more: a command begins."""
    _obeyed.clear()


def end_as_obeyed() -> None:
    """End the run again where a signal has ended it: met while a library is loaded, it comes out as an ImportError.

    Raises
    ------
    KeyboardInterrupt, Stopped
        A signal has been obeyed since :func:`forget`.
    """
    if _obeyed:
        raise _exit_for(_obeyed[0])


def _handle(number: int, _frame: object) -> None:
    ask(number)


def _end(number: int) -> None:
    _obeyed.append(number)
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the end
    raise _exit_for(number)


def _exit_for(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)

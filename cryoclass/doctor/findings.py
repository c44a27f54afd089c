"""What a check says, and the sheet that collects it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from cryoclass.errors import CryoclassError

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's report.

    Attributes
    ----------
    level
        ``warning`` is worth a look; ``error`` would stop a command, or spoil its result.
    topic
        One or two words.
    words
        What was found, with values.
    way_out
        What to do about it; empty where nothing needs doing.
    """

    level: Level
    topic: str
    words: str
    way_out: str = ""


def ok(topic: str, words: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(level="ok", topic=topic, words=words)


def warning(topic: str, words: str, way_out: str = "") -> Finding:
    """Return a finding that is worth a look."""
    return Finding(level="warning", topic=topic, words=words, way_out=way_out)


def error(topic: str, words: str, way_out: str = "") -> Finding:
    """Return a finding that would stop a command, or spoil its result."""
    return Finding(level="error", topic=topic, words=words, way_out=way_out)


def plural(count: int, noun: str) -> str:
    """Return a number and a noun, such as ``1 particle`` and ``2 particles``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def size(count: float) -> str:
    """Return a number of bytes in words, such as ``1.6 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB" if count < 100 else f"{count:.0f} TB"


def duration(seconds: float) -> str:
    """Return a time in words, such as ``3 min``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} days"


class Sheet:
    """Collects findings and tells each one at once.

    Parameters
    ----------
    tell
        Called with every finding.
    """

    def __init__(self, tell: Callable[[Finding], None]) -> None:
        self.tell = tell
        self.findings: list[Finding] = []

    def run(self, topic: str, check: Iterable[Finding]) -> bool:
        """Take the findings of a check; what it fails of becomes one more, under ``topic``. Return whether no error."""
        well = True
        with self.surviving(topic):
            for finding in check:
                well = well and finding.level != "error"
                self._add(finding)
            return well
        return False

    @contextmanager
    def surviving(self, topic: str) -> Iterator[None]:
        """Turn what the block fails of into an error finding, with its way out; the same failure is said once."""
        try:
            yield
        except CryoclassError as problem:
            self._add_failure(error(topic, str(problem).removesuffix("."), problem.hint))
        except (OSError, MemoryError, RuntimeError) as problem:  # a RuntimeError is torch's, of a broken GPU
            self._add_failure(error(topic, f"{type(problem).__name__}: {problem}"))

    def _add_failure(self, finding: Finding) -> None:
        if finding.words not in (other.words for other in self.findings):
            self._add(finding)

    def _add(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.tell(finding)

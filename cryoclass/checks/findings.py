"""What a check says: findings, how a command obeys them, and the sheet on which the doctor collects them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from cryoclass.errors import CryoclassError, ParticleError
from cryoclass.progress import Listener

Level = Literal["ok", "unknown", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a rule says of what it looked at.

    Attributes
    ----------
    level
        ``unknown`` could not be told; ``warning`` is worth a look; ``error`` stops a command.
    topic
        One or two words.
    words
        What was found, with values and the rule.
    way_out
        What to do about it; empty where nothing needs doing.
    kind
        The error that a command raises of it.
    """

    level: Level
    topic: str
    words: str
    way_out: str = ""
    kind: type[CryoclassError] = ParticleError

    def to_dict(self) -> dict[str, str]:
        """Return plain values that JSON can hold."""
        return {"level": self.level, "topic": self.topic, "words": self.words, "way_out": self.way_out}


def ok(topic: str, words: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(level="ok", topic=topic, words=words)


def unknown(topic: str, words: str, way_out: str = "") -> Finding:
    """Return a finding that something could not be told; that is never "ok"."""
    return Finding(level="unknown", topic=topic, words=words, way_out=way_out)


def warning(topic: str, words: str, way_out: str = "") -> Finding:
    """Return a finding that is worth a look."""
    return Finding(level="warning", topic=topic, words=words, way_out=way_out)


def error(topic: str, words: str, way_out: str = "", kind: type[CryoclassError] = ParticleError) -> Finding:
    """Return a finding that stops a command."""
    return Finding(level="error", topic=topic, words=words, way_out=way_out, kind=kind)


def failure(topic: str, problem: CryoclassError) -> Finding:
    """Return what a function failed of as a finding, in its own words."""
    return error(topic, str(problem).removesuffix("."), problem.hint, type(problem))


def enforce(findings: Iterable[Finding], listener: Listener) -> None:
    """Obey findings as a command does: raise the first error, warn of warnings, and note what could not be told.

    Raises
    ------
    CryoclassError
        Of the finding's kind, with its words and its way out.
    """
    for finding in findings:
        if finding.level == "error":
            raise finding.kind(f"{finding.words}.", finding.way_out)
        if finding.level == "warning":
            listener.warn(f"{finding.words}. {finding.way_out}".strip())
        elif finding.level == "unknown":
            listener.note(f"{finding.topic}: {finding.words}")


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
            self._add_failure(failure(topic, problem))
        except (OSError, MemoryError, RuntimeError) as problem:  # a RuntimeError is torch's, of a broken GPU
            self._add_failure(error(topic, f"{type(problem).__name__}: {problem}"))

    def _add_failure(self, finding: Finding) -> None:
        if finding.words not in (other.words for other in self.findings):
            self._add(finding)

    def _add(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.tell(finding)

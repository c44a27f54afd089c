"""Downloads that go on where they broke off, and the hashes of files.

pooch, torch.hub and urllib start a file over when a transfer breaks off; weight files have hundreds of megabytes, and
clusters have slow proxies.
"""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryoclass.errors import ModelError
from cryoclass.files import output_error
from cryoclass.progress import Track

TIMEOUT = 20  # seconds without an answer
CHUNK = 1 << 18  # bytes
KILO = 1 << 10
TRIES = 4  # for an address whose transfers break off

NO_ANSWER = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ValueError,  # not an address
)
NOT_SATISFIABLE = 416  # what we have is not the beginning of what lies there
PARTIAL = 206


class _BrokenOffError(Exception):
    """A transfer ended early; what came is kept."""


def download(url: str, path: Path, track: Track) -> Path:
    """Bring a file beside ``path``, under a name of its own, and return that name; the caller moves it into place.

    What an earlier transfer from the same address left is used, where the server says that the file is still the same one
    (its ETag or date) and can send the rest.

    Raises
    ------
    ModelError
        The address does not answer, or the transfer breaks off time and again; what came is kept for the next call.
    OutputError
        The file cannot be written.
    """
    part = path.with_name(f"{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
    reason = ""
    for _ in range(TRIES):
        try:
            _transfer(url, part, track)
        except _BrokenOffError as error:
            reason = str(error)
        except urllib.error.HTTPError as error:
            if error.code != NOT_SATISFIABLE:
                raise ModelError(f"HTTP {error.code} {error.reason}") from error
            reason = str(error)
            part.unlink(missing_ok=True)
        except NO_ANSWER as error:
            raise ModelError(_words(error)) from error
        else:
            _mark(part).unlink(missing_ok=True)
            return part
    raise ModelError(f"{reason}; what came is kept, and the next try goes on from there")


def check_hash(path: Path, expected: str) -> None:
    """Hold a file against ``sha256:...`` or ``sha1:...``, a whole hash or its beginning; empty is no hash.

    Raises
    ------
    ModelError
        It has another one.
    """
    if not expected:
        return
    kind, _, beginning = expected.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if not found.startswith(beginning):
        raise ModelError(f"Its {kind} is {found}; it must be {beginning}{_dots(kind, beginning)}.")


def sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dots(kind: str, beginning: str) -> str:
    return "" if len(beginning) == 2 * hashlib.new(kind).digest_size else "..."


def _transfer(url: str, part: Path, track: Track) -> None:
    have = part.stat().st_size if part.is_file() and _mark(part).is_file() else 0
    headers = {"User-Agent": "cryoclass", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": _mark(part).read_text(encoding="utf-8")}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - addresses of the registry
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
        have = have if answer.status == PARTIAL else 0
        length = answer.headers.get("Content-Length")
        expected = int(length) if length is not None else None
        _remember(part, answer.headers)
        came = _write(part, have, track(_chunks(answer), f"{part.name} (kB)", _kilo(expected), _kilos))
    if expected is not None and came != expected:
        raise _BrokenOffError(f"the transfer broke off after {have + came} of {have + expected} bytes")


def _write(part: Path, have: int, chunks: Iterator[bytes]) -> int:
    """Write chunks behind the first ``have`` bytes of a file; return how many bytes came."""
    came = 0
    try:
        with part.open("r+b" if have else "wb") as out:
            out.seek(have)
            for chunk in chunks:
                came += out.write(chunk)
    except OSError as error:
        raise output_error(error, part) from error
    return came


def _chunks(answer: Any) -> Iterator[bytes]:
    """Yield what comes; an early end without an error is for the caller to notice."""
    try:
        while chunk := answer.read(CHUNK):
            yield chunk
    except (http.client.HTTPException, OSError) as error:
        raise _BrokenOffError(_words(error)) from error


def _mark(part: Path) -> Path:
    """Where it is kept which version of a file the part belongs to."""
    return part.with_name(f"{part.name}.mark")


def _remember(part: Path, headers: Any) -> None:
    """Keep the server's mark of this version; without one, or with a weak one, the next try starts over."""
    tag, date = headers.get("ETag", ""), headers.get("Last-Modified", "")
    mark = tag if tag and not tag.startswith("W/") else date
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        if mark:
            _mark(part).write_text(mark, encoding="utf-8")
        else:
            _mark(part).unlink(missing_ok=True)
    except OSError as error:
        raise output_error(error, part) from error


def _kilo(size: int | None) -> int | None:
    return None if size is None else -(-size // KILO)


def _kilos(chunk: bytes) -> int:
    return -(-len(chunk) // KILO)


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return f"{type(reason).__name__}: {str(reason)[:100]}"

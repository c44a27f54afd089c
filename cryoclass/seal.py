"""The seal of an exported ONNX file: a hash of all that decides what it computes, in its own metadata.

Damaged weights give other numbers and no error. The seal covers the card and everything else of the file but names, notes and
other programs' metadata; so those may be edited. Protocol buffers are a row of numbered fields: the seal is found and checked by
stepping over them, which takes no more time than the hash.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from cryoclass.errors import ModelError
from cryoclass.inputs import read_file

SEAL_KEY = "cryoclass_seal"
FORMAT = "1"  # of the seal

_OURS = b"cryoclass_"
_PROPS = 14  # the number of the field metadata_props in a ModelProto
_NOTES = range(2, 7)  # producer, its version, domain, version of the model, doc_string
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_AGAIN = "Copy it again, or run cryoclass export again."

Field = tuple[int, memoryview, memoryview]
"""The number of a field, the whole of it, and its value."""


def sealed(model: bytes) -> bytes:
    """Return a serialised ONNX model with its seal."""
    entry = _bytes_field(1, SEAL_KEY.encode()) + _bytes_field(2, _seal(model)[0].encode())
    return model + _bytes_field(_PROPS, entry)


def read_sealed(path: Path) -> tuple[bytes, str]:
    """Read a file that ``cryoclass export`` wrote: its content and its seal, checked.

    Raises
    ------
    ModelError
        It cannot be read, is no ONNX file, was not made by cryoclass, or is not what it was when it was written.
    """
    try:
        content = read_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"There is no file {path}.", "Check the path given to --onnx.") from error
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}.", "Check the path given to --onnx."
        ) from error
    try:
        found, said = _seal(content)
    except ValueError as error:
        raise ModelError(f"{path} is not an ONNX file, or is damaged: {error}.", _AGAIN) from error
    if said is None:
        raise ModelError(
            f"{path} is an ONNX file without cryoclass's seal: not made by cryoclass, or by an earlier version.",
            "Use a file written by cryoclass export; export the model again where it is an old one.",
        )
    if said != found:
        raise ModelError(
            f"{path} is damaged or altered: its content does not have the hash that was sealed into it.",
            _AGAIN,
        )
    return content, found


def _seal(model: bytes) -> tuple[str, str | None]:
    """Return the seal that a model should have, and the one that it has."""
    said, ours = [], []
    hashed = hashlib.sha256()
    for number, whole, value in _fields(memoryview(model)):
        if number == _PROPS:
            entry = {inner: bytes(text) for inner, _, text in _fields(value)}
            if entry.get(1) == SEAL_KEY.encode():
                said.append(entry.get(2, b"").decode("ascii", "replace"))
            elif entry.get(1, b"").startswith(_OURS):
                ours.append(bytes(value))
        elif number not in _NOTES:
            hashed.update(whole)
    for entry_of_ours in sorted(ours):
        hashed.update(entry_of_ours)
    return f"{FORMAT}:{hashed.hexdigest()}", said[-1] if said else None


def _fields(message: memoryview) -> Iterator[Field]:
    """Step through the fields of a message; ValueError where it is none, or ends too early."""
    start = 0
    if not message:
        raise ValueError("it is empty")
    while start < len(message):
        tag, at = _varint(message, start)
        kind = tag & 7
        if kind == _VARINT:
            _, end = _varint(message, at)
        elif kind == _BYTES:
            length, at = _varint(message, at)
            end = at + length
        elif kind in _FIXED:
            end = at + _FIXED[kind]
        else:
            raise ValueError("its bytes are no fields of a model")
        if end > len(message) or not tag >> 3:
            raise ValueError("it ends too early")
        yield tag >> 3, message[start:end], message[at:end]
        start = end


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place, octet in enumerate(message[at : at + 10]):
        value |= (octet & 127) << (7 * place)
        if octet < 128:
            return value, at + place + 1
    raise ValueError("it ends too early")


def _bytes_field(number: int, value: bytes) -> bytes:
    return _as_varint(number << 3 | _BYTES) + _as_varint(len(value)) + value


def _as_varint(value: int) -> bytes:
    octets = []
    while value > 127:
        octets.append(value & 127 | 128)
        value >>= 7
    return bytes([*octets, value])

"""What can go wrong, as a small tree.

::

    CryoclassError        anything the user can act on; exit status 1
    ├── UsageError        a wrong option or argument; exit status 2
    ├── StarError         a STAR file that is missing, damaged or of the wrong kind
    ├── VolumeError       a volume that is missing, damaged or of the wrong kind
    │   └── LeftOutError  a box that the settings leave out; nothing is wrong with its volume
    ├── ChangedError      an input that changed while it was read
    ├── ParticleError     particles that do not fit together (labels, boxes, names, coordinates)
    ├── ModelError        a model folder, a weight file or an ONNX file
    └── OutputError       something that cannot be written

A message says the value found and the rule; the hint says the way out. ``cryoclass.cli`` alone prints them.
"""


class CryoclassError(Exception):
    """An error that the user can understand and mend.

    Parameters
    ----------
    message
        One sentence: where (file, row, column), the value found, the rule.
    hint
        The way out, as an instruction.
    """

    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CryoclassError):
    """A wrong option or argument."""

    exit_status = 2


class StarError(CryoclassError):
    """A STAR file that is missing, damaged or of the wrong kind."""


class VolumeError(CryoclassError):
    """A volume that is missing, damaged or of the wrong kind."""


class LeftOutError(VolumeError):
    """A box that the settings leave out."""


class ChangedError(CryoclassError):
    """An input that changed while it was read."""


class ParticleError(CryoclassError):
    """Particles that do not fit together."""


class ModelError(CryoclassError):
    """A model folder, a weight file or an ONNX file that cannot be used."""


class OutputError(CryoclassError):
    """Something that cannot be written."""

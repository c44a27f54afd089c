"""``python -m cryoclass``, which torchrun needs."""

from cryoclass.cli import run

run()

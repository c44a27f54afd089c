"""Numbers as text: what is one, in tables and on the command line alike.

Python takes ``1_0``, digits of other scripts, ``nan`` and ``inf`` too. RELION reads 1 of the first, and whoever types them has
made a mistake: they are no numbers here.
"""

from collections.abc import Iterable

_INK = b"0123456789.+-eE"


def number(text: str) -> float:
    """Return the number that a text is, such as ``-1.5e-3``; it may be too large and then is infinite.

    Raises
    ------
    ValueError
        The text is no number.
    """
    if not in_digits([text]):
        raise ValueError(f"{text!r} is no number")
    return float(text)


def in_digits(texts: Iterable[str]) -> bool:
    """Whether texts are written in digits, signs, points and exponents alone; fast for millions of them."""
    return not "".join(texts).encode("utf-8", "surrogatepass").translate(None, _INK)

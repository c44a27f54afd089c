"""The names of the classes."""

from collections.abc import Iterator, Sequence

from cryoclass.checks.findings import Finding, warning
from cryoclass.labels import alike


def check_class_names(classes: Sequence[str]) -> Iterator[Finding]:
    """Warn of classes that are told apart here and nowhere else."""
    for names in alike(classes):
        shown = " and ".join(repr(name) for name in names)
        yield warning(
            "labels",
            f"classes {shown} differ only in how they are written; they are taught as {len(names)} classes, and files "
            "named after them are one file where disks do not tell upper and lower case",
            "Write the labels alike where they mean one class.",
        )

"""Who writes where: a folder that holds a run is not written over unasked."""

from pathlib import Path

from cryoclass.errors import UsageError


def claim(outdir: Path, result: str, *, overwrite: bool) -> None:
    """Refuse a folder that holds a finished run, told by its last-written file.

    Raises
    ------
    UsageError
        ``outdir/result`` exists and ``overwrite`` is off, or ``outdir`` is a file.
    """
    if outdir.exists() and not outdir.is_dir():
        raise UsageError(f"--outdir {outdir} is a file.", "Name a folder.")
    if (outdir / result).exists() and not overwrite:
        raise UsageError(
            f"{outdir} holds a finished run ({result}).", "Choose another --outdir, or add --overwrite."
        )


def claim_run(outdir: Path, result: str, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds a finished or an interrupted run, unless it is to be resumed or replaced.

    Raises
    ------
    UsageError
        As :func:`claim`, or there is a checkpoint.
    """
    claim(outdir, result, overwrite=overwrite or resume)  # a job that is queued again may be finished
    if not (resume or overwrite) and (outdir / "checkpoint.pt").exists():
        raise UsageError(
            f"{outdir} holds an interrupted run.", "Go on with --resume, or start again with --overwrite."
        )

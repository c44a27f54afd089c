"""Opening the boxes that a command works on: files, or crops out of tomograms on the fly."""

from pathlib import Path
from typing import TYPE_CHECKING

from cryoclass.cli import console
from cryoclass.doctor.start import check_start
from cryoclass.errors import UsageError
from cryoclass.particles import Particles
from cryoclass.settings import Cutting, Extraction
from cryoclass.subtomograms import FileSource, InvertedSource, Source, TomogramSource
from cryoclass.tomograms import find_tomograms

if TYPE_CHECKING:
    from cryoclass.classifier import ModelCard


def open_source(
    particles: Particles,
    tomograms: Path | None,
    cutting: Cutting,
    *,
    box: int | None,
    angpix: float | None,
    skip_missing: bool = False,
) -> Source:
    """Return the particles' boxes and say where they come from.

    Parameters
    ----------
    particles
        The table.
    tomograms
        Where to cut from; ``None`` reads the files that the table names.
    cutting
        How to cut; of it, files obey ``invert`` alone.
    box, angpix
        Size of the boxes to cut, in pixels and in angstroms per pixel. For files, ``angpix`` overrules the table's.
    skip_missing
        Go on without particles whose tomogram has no volume.

    Raises
    ------
    UsageError
        Tomograms were given, but no box.
    """
    console.note(f"{particles.path}: {particles.dialect.in_words()}, {len(particles)} particles")
    if tomograms is None:
        source = FileSource(particles, angpix)
        warn_at_start(source)
        console.note(f"boxes: {source.box} pixels of {source.angpix:.4g} A, from files")
        return InvertedSource(source) if cutting.invert == "yes" else source
    if box is None:
        raise UsageError(
            "--tomograms needs --box, the side of the boxes to cut.", "Add --box 32, for example."
        )
    found = find_tomograms(particles.tomograms, tomograms, particles.path, skip_missing=skip_missing)
    cut = TomogramSource(particles, found, Extraction.of(cutting, box, angpix))
    warn_at_start(cut)
    console.note(f"boxes: {cut.box} pixels of {cut.angpix:.4g} A, cut from {len(found)} tomograms on the fly")
    for line in contrast_words(cut):
        console.note(line)
    return cut


def open_model_source(
    particles: Particles,
    tomograms: Path | None,
    cutting: Cutting,
    card: "ModelCard",
    *,
    angpix: float | None,
    rescale: bool,
    skip_missing: bool = False,
) -> Source:
    """Return boxes that fit a model: cut at its size, or read from files and compared with its card.

    Raises
    ------
    ModelError
        Pixel size, box or contrast are not the model's, and nothing says what to do about it.
    """
    from cryoclass.inference.compatibility import check_contrast, fit_to_model

    source = open_source(
        particles,
        tomograms,
        cutting,
        box=card.box[0],
        angpix=angpix or card.angpix if tomograms else angpix,
        skip_missing=skip_missing,
    )
    fitting = fit_to_model(source, card, rescale=rescale)
    if cutting.invert == "auto":
        check_contrast(fitting, card)
    return fitting


def warn_at_start(source: FileSource | TomogramSource, writes_to: Path | None = None) -> None:
    """Say what the doctor would warn of, as far as that reads no voxels.

    Raises
    ------
    ParticleError
        Most boxes would lie outside their tomograms.
    """
    for finding in check_start(source, writes_to):
        console.warn(f"{finding.words}. {finding.way_out}".strip())


def contrast_words(source: TomogramSource) -> list[str]:
    """Say for which tomograms the contrast is flipped, and why."""
    bright = [p.tomogram.is_bright(source.particles.dialect) for p in source.placements]
    if source.settings.invert != "auto":
        return [f"contrast: {'flipped' if source.settings.invert == 'yes' else 'left as it is'}, as asked"]
    words = []
    if not all(bright):
        words.append(f"contrast: flipped for {bright.count(False)} tomograms (RELION, IMOD: protein is dark)")
    if any(bright):
        words.append(
            f"contrast: left as it is for {bright.count(True)} tomograms (Warp, M: protein is bright)"
        )
    return words

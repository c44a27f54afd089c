"""What several jobs open: the table, its boxes and what is asked of them, and the engine."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryoclass.errors import ParticleError, UsageError
from cryoclass.machine import cores
from cryoclass.progress import Listener
from cryoclass.settings import BoxOrigin, Cutting, Extraction, ModelChoice, Precision, TomogramFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryoclass.card import ModelCard
    from cryoclass.cutting import TomogramSource
    from cryoclass.inference.engines import Engine
    from cryoclass.inference.pipeline import Flow
    from cryoclass.outputs import Facts, Origin, Outputs, VolumeFiles
    from cryoclass.particles import Particles
    from cryoclass.sources import Boxes, Source

DEFAULT_PARTICLES = Path("particles.star")


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """What boxes have to fit: a model, and how.

    Parameters
    ----------
    card
        The model's.
    rescale
        Whether boxes of another size are brought to it.
    box
        Side in pixels that the user wants crops to have.
    """

    card: "ModelCard"
    rescale: bool
    box: int | None


def use_cores(wish: int | None) -> int:
    """Let torch compute with the wished number of threads, else with its own, and return how many threads may read.

    Its own are those of the machine; where a container or a job may use fewer, they would wait for each other.
    """
    import torch

    torch.set_num_threads(wish or min(torch.get_num_threads(), cores()))
    return wish or cores()


def particles_path(given: Path | None) -> Path:
    """Return the STAR file: the given one, or ``particles.star`` in the current folder.

    Raises
    ------
    UsageError
        None was given and there is none.
    """
    if given is None and not DEFAULT_PARTICLES.is_file():
        raise UsageError(
            "no STAR file given, and there is no particles.star here.", "Name one: cryoclass ... FILE.star"
        )
    return given or DEFAULT_PARTICLES


def teachable(path: Path) -> bool:
    """Whether a table has labels that finetune can share out as it does by default."""
    from cryoclass.labels import from_column
    from cryoclass.particles import read_particles
    from cryoclass.settings import Split
    from cryoclass.training.splits import assign_parts

    try:
        labelled = from_column(read_particles(path), None)
        assign_parts(labelled.labels, labelled.tomograms, Split(), 0, labelled.classes)
    except ParticleError:
        return False
    return True


def open_source(
    table: "Particles", origin: BoxOrigin, cutting: Cutting, box: int | None, listener: Listener
) -> "Source":
    """Return the particles' boxes and say where they come from.

    Parameters
    ----------
    table
        The particles.
    origin
        Where to take their boxes from.
    cutting
        How to cut; of it, files obey ``invert`` alone.
    box
        Side in pixels of the boxes to cut.
    listener
        Hears what was understood.

    Raises
    ------
    UsageError
        Tomograms were given, but no box.
    """
    listener.note(f"{table.path}: {table.in_words()}, {len(table)} particles")
    if origin.tomograms is None:
        return _from_files(table, origin, cutting, listener)
    settings = Extraction.of(cutting, needed_box(box), origin.angpix)
    return _from_tomograms(table, origin, settings, listener)


def needed_box(box: int | None) -> int:
    """Return the box to cut; UsageError where the user has not said it, and no model does."""
    if box is None:
        raise UsageError(
            "--tomograms needs --box, the side of the boxes to cut.", "Add --box 32, for example."
        )
    return box


def open_model_source(
    table: "Particles",
    origin: BoxOrigin,
    cutting: Cutting,
    model: "Fitting",
    listener: Listener,
) -> "Source":
    """Return boxes that fit a model: cut at its size, or read from files and compared with its card.

    Raises
    ------
    UsageError
        A box was typed that is not the model's; or none, and the model takes any.
    ModelError
        Pixel size or box are not the model's, and nothing says what to do about it.
    """
    from cryoclass.checks.findings import enforce
    from cryoclass.checks.fit import check_fit, fits
    from cryoclass.sources import RescaledSource

    card, box = model.card, _box_for(model)
    if origin.tomograms is not None and origin.angpix is None and not card.any_box:
        origin = origin.replace(angpix=card.angpix)
    source = open_source(table, origin, cutting, box, listener)
    enforce(check_fit(source, card, rescale=model.rescale), listener)
    return source if fits(source, card) else RescaledSource(source, card.box[0], card.angpix)


def _box_for(model: "Fitting") -> int | None:
    """Return the side of the boxes to cut: the model's, or the typed one where it takes any."""
    own, typed = model.card.box[0], model.box
    if model.card.any_box:
        return typed
    if typed is not None and typed != own:
        raise UsageError(
            f"--box is {typed}, but the model has learnt from boxes of {own} pixels.", "Leave out --box."
        )
    return own


def open_engine(choice: ModelChoice, device: str, precision: Precision, listener: Listener) -> "Engine":
    """Return the engine for exactly one of a model folder and an ONNX file, and say what it is.

    Raises
    ------
    UsageError
        None or both are given.
    ModelError
        The model cannot be used.
    """
    from cryoclass.inference.engines import load_engine

    engine = load_engine(choice.model, choice.onnx, device, precision)
    card = engine.card
    does = f"{len(card.classes)} classes" if card.classes else ", ".join(card.tasks)
    listener.note(f"model: {card.backbone}, {does}, {card.size_in_words}; {engine.description}")
    return engine


def facts_of(engine: "Engine", boxes: "Boxes", settings: "Mapping[str, object]") -> "Facts":
    """Return what an engine's outputs for some boxes belong to.

    Precision counts where the user asks for one. What the machine chooses by itself does not: outputs of a GPU are taken
    where there is none.
    """
    from cryoclass.outputs import Facts

    return Facts(count=len(boxes.source), input=boxes.fingerprint, model=engine.identity(), settings=settings)


def compute_outputs(
    engine: "Engine",
    boxes: "Boxes",
    outputs: "Outputs",
    flow: "Flow",
    listener: Listener,
) -> "Origin":
    """Compute what an engine says of every row, as far as it is not stored already, and return whether it was.

    Raises
    ------
    ChangedError
        A volume changed meanwhile; nothing that was stored is used again then.
    CryoclassError
        As :func:`cryoclass.inference.pipeline.compute`.
    """
    from cryoclass.errors import ChangedError
    from cryoclass.inference.pipeline import compute
    from cryoclass.outputs import origin_of

    origin, folder = origin_of(outputs), outputs.folder
    if origin == "reused":
        listener.note(
            f"{folder}: all {len(outputs)} rows are there, of this model and these boxes; nothing is computed"
        )
    elif origin == "continued":
        listener.note(
            f"{folder}: {outputs.found} of {len(outputs)} rows are there already; going on with the others"
        )
    try:
        compute(engine, boxes.source, outputs, flow)
        boxes.check_unchanged()
    except ChangedError:
        outputs.disown()
        raise
    return origin


def check_space(
    outdir: Path,
    table: "Particles",
    card: "ModelCard",
    tables: int,
    listener: Listener,
    volumes: "VolumeFiles | None" = None,
) -> None:
    """Hold, before any box is computed, that the disk has room for outputs, as far as they are not there yet, and tables.

    Parameters
    ----------
    outdir
        Where they go.
    table, card
        The particles, and what the model says of each.
    tables
        How many tables are written.
    listener
        Hears warnings.
    volumes
        Where outputs go that are volumes.

    Raises
    ------
    OutputError
        It has not.
    """
    from cryoclass.checks.disk import check_disk, outputs_bytes, table_bytes
    from cryoclass.checks.findings import enforce
    from cryoclass.outputs import FOLDER

    needed = tables * table_bytes(table.path, len(table), len(card.classes))
    needed += 0 if (outdir / FOLDER).exists() else outputs_bytes(len(table), card)
    files = volumes.still_to_write if volumes else 0
    needed += files * volumes.bytes_each if volumes else 0
    less = "--tasks without segment or recover" if files else "fewer particles"
    enforce(check_disk(outdir, needed, files, less), listener)


def check_crops(
    source: "TomogramSource", origin: TomogramFiles, listener: Listener, writes_to: Path | None = None
) -> None:
    """Enforce, before any voxel is read, what concerns boxes that are cut out of tomograms.

    Parameters
    ----------
    source
        The boxes.
    origin
        What the user says of the tomograms.
    listener
        Hears warnings.
    writes_to
        The folder that shall receive the boxes as files, if they shall be written.

    Raises
    ------
    CryoclassError
        The first error that a check finds.
    """
    from cryoclass.checks.disk import boxes_there, check_disk, extraction_bytes
    from cryoclass.checks.findings import enforce
    from cryoclass.checks.frame import check_frame
    from cryoclass.checks.inside import check_inside
    from cryoclass.checks.pixels import check_tomograms, check_volumes
    from cryoclass.checks.rules import check_rules
    from cryoclass.checks.tomograms import check_choice

    asked = origin.tomogram_angpix is not None or source.settings.coords_angpix is not None
    enforce(check_rules(source.particles), listener)
    enforce(check_choice({p.tomogram.name: p.tomogram for p in source.placements}), listener)
    enforce(check_frame(source), listener)
    enforce(check_inside(source), listener)
    enforce(check_tomograms(source, asked=asked), listener)
    enforce(check_volumes(source), listener)
    if writes_to is not None:
        count = max(0, len(source.order) - boxes_there(writes_to))
        enforce(check_disk(writes_to, extraction_bytes(count, source.settings), files=count), listener)


def crop_words(source: "TomogramSource") -> list[str]:
    """Say what was left alone, what the volumes told of coordinates, and for which tomograms contrast is flipped, and why."""
    from cryoclass.checks.tomograms import series_words

    left_alone = series_words(placement.tomogram for placement in source.placements)
    words = [f"tomograms: {left_alone}"] if left_alone else []
    if source.reading.how == "told":
        words.append(f"coordinates: {source.reading.frame.value}, as the volumes tell")
    return words + _contrast_words(source)


def _contrast_words(source: "TomogramSource") -> list[str]:
    bright = [p.tomogram.is_bright(by_table=source.particles.bright) for p in source.placements]
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


def _from_files(table: "Particles", origin: BoxOrigin, cutting: Cutting, listener: Listener) -> "Source":
    from cryoclass.checks.findings import enforce
    from cryoclass.checks.pixels import check_files
    from cryoclass.checks.rules import check_rules
    from cryoclass.images import FileSource
    from cryoclass.sources import InvertedSource

    source = FileSource(table, origin.angpix)
    enforce(check_rules(table), listener)
    enforce(check_files(source, origin.angpix), listener)
    listener.note(f"boxes: {source.box} pixels of {source.angpix:.4g} A, from files")
    return InvertedSource(source) if cutting.invert == "yes" else source


def _from_tomograms(
    table: "Particles", origin: BoxOrigin, settings: Extraction, listener: Listener
) -> "Source":
    from cryoclass.cutting import TomogramSource
    from cryoclass.tomograms import find_tomograms

    found = find_tomograms(
        table.tomograms,
        origin.tomograms,
        table.path,
        skip_missing=origin.skip_missing,
        angpix=origin.tomogram_angpix,
    )
    source = TomogramSource(table, found, settings, origin.tomogram_angpix)
    check_crops(source, origin, listener)
    size = f"{source.box} pixels of {source.angpix:.4g} A"
    listener.note(f"boxes: {size}, cut from {len(found)} tomograms on the fly")
    for line in crop_words(source):
        listener.note(line)
    return source

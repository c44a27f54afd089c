"""What the network sees, as a map."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryoclass.claims import claim
from cryoclass.errors import ParticleError, UsageError
from cryoclass.jobs.opening import (
    Fitting,
    check_space,
    compute_outputs,
    facts_of,
    open_engine,
    open_model_source,
    open_source,
    particles_path,
    use_cores,
)
from cryoclass.progress import TO_LOG, Listener
from cryoclass.records import Workplace, Writes
from cryoclass.settings import (
    BareBackbone,
    BoxOrigin,
    Cutting,
    Exemplars,
    Mapping2d,
    ModelChoice,
    Start,
    WorkRequest,
    box_to_cut_setting,
    device_setting,
    label_column_setting,
    outdir_setting,
    particles_setting,
    setting,
)

if TYPE_CHECKING:
    import numpy as np

    from cryoclass.embedding import Space, Vectors
    from cryoclass.inference.engines import Engine
    from cryoclass.inference.pipeline import Flow
    from cryoclass.labels import Labelled
    from cryoclass.outputs import Origin, Outputs
    from cryoclass.particles import Particles
    from cryoclass.sources import Boxes, Source
    from cryoclass.steadiness import Study

TABLE = "particles.star"  # comes last and says that all is there
WRITES = Writes(
    command="embed",
    last=TABLE,
    files=(
        "clusters.csv",
        "embedding.html",
        "embedding.png",
        "embeddings.npy",
        "ranked.star",
        "skipped.csv",
        "optimisation_set.star",
        "particles_incomplete.star",
        "particles_incomplete_optimisation_set.star",
    ),
    folders=("outputs",),
)
SLOW_TSNE = 100_000  # particles
QUERY = "query"  # where, among the outputs, those of the examples of another table lie

OpenBoxes = Callable[["Particles"], "Source"]


@dataclass(frozen=True, kw_only=True)
class EmbedRequest(WorkRequest):
    """Which particles to embed, with which network, and what to make of it."""

    particles: Path | None = particles_setting()
    choice: ModelChoice = ModelChoice()
    outdir: Path = outdir_setting("Embed")
    label_column: str | None = label_column_setting()
    device: str = device_setting()
    batch_size: int = setting(
        32, flags=("--batch-size", "-b"), help="Particles per batch.", minimum=1, maximum=65536
    )
    box: int | None = box_to_cut_setting()
    bare: BareBackbone = BareBackbone()
    layout: Mapping2d = Mapping2d()
    examples: Exemplars = Exemplars()
    boxes: BoxOrigin = BoxOrigin()
    cutting: Cutting = Cutting()


@dataclass(frozen=True, kw_only=True)
class EmbedResult:
    """What was embedded.

    Attributes
    ----------
    table, page, picture
        The user's table with columns added, the page and the picture of the map.
    embedding
        ``.npy`` file (n, E) in the order of the table; NaN for particles that could not be read.
    shape
        n and E.
    rows
        Numbers (from 0) of the particles that could be read.
    ranked
        The table in the order of likeness, where examples were given.
    clusters
        Clusterings, and what speaks for them; None where no clusters were asked for.
    origin
        Whether the embedding was computed, reused or continued.
    """

    table: Path
    page: Path
    picture: Path
    embedding: Path
    shape: tuple[int, int]
    rows: "np.ndarray"
    ranked: Path | None
    clusters: "Study | None"
    origin: "Origin"


def embed(request: EmbedRequest, listener: Listener = TO_LOG) -> EmbedResult:
    """Show particles as a network sees them; no label is needed.

    Fills ``outputs/`` in the folder of the results, or finds there what an earlier run with the same particles and network said;
    map, clusters and ranking start from that.

    Raises
    ------
    CryoclassError
        Something that the user can mend; the message says what, and the way out.
    """
    path, query = particles_path(request.particles), request.examples.query
    inputs = (path, query, request.boxes.tomograms, request.choice.onnx, request.bare.weights)
    with claim(request.outdir, WRITES, inputs, overwrite=request.overwrite) as place:
        return _embed(_with_network(request), path, place, listener)


def _embed(request: EmbedRequest, path: Path, place: Workplace, listener: Listener) -> EmbedResult:
    from cryoclass.inference.pipeline import Flow
    from cryoclass.outputs import FOLDER, open_outputs
    from cryoclass.particles import read_particles
    from cryoclass.results import WHERE_LOST
    from cryoclass.sources import too_many_lost

    workers = use_cores(request.num_workers)
    table = read_particles(path)
    _check_layout(request.layout, len(table), listener)
    _check_rows(request.examples, len(table))
    labelled = _known_labels(table, request.label_column)
    engine, boxes, open_boxes = _open(request, table, workers, listener)
    check_space(request.outdir, table, engine.card, 1, listener)
    flow = Flow(batch_size=request.batch_size, workers=workers, track=listener.track)
    place.begin()
    examples = _examples(request, engine, boxes, open_boxes, flow, listener)
    facts = facts_of(engine, boxes, {"precision": "auto"})
    outputs = open_outputs(request.outdir / FOLDER, facts)
    origin = compute_outputs(engine, boxes, outputs, flow, listener)
    said = _Said(
        table=table,
        engine=engine,
        outputs=outputs,
        labelled=labelled,
        examples=examples,
        origin=origin,
        problem=too_many_lost(outputs.lost, len(table), request.max_unreadable, WHERE_LOST),
    )
    with place.finishing():
        result = _write(request, said, listener)
    if said.problem is not None:
        raise said.problem
    return result


@dataclass(frozen=True, kw_only=True)
class _Said:
    """All that the written files follow from; ``examples`` (m, E) are None where none were given, the problem is that too much is unreadable."""

    table: "Particles"
    engine: "Engine"
    outputs: "Outputs"
    labelled: "Labelled | None"
    examples: "np.ndarray | None"
    origin: "Origin"
    problem: "ParticleError | None"


# ----------------------------------------------------------------------------------------------- opening


def _with_network(request: EmbedRequest) -> EmbedRequest:
    """Name what looks at the particles where no model does: the backbone that was named, or the usual one."""
    choice, bare = request.choice, request.bare
    if sum(given is not None for given in (choice.model, choice.onnx, bare.backbone)) > 1:
        raise UsageError("give one of --model, --onnx and --backbone, or none.")
    if choice.given or bare.backbone is not None:
        return request
    return request.replace(bare=bare.replace(backbone=Start().backbone))


def _open(
    request: EmbedRequest, table: "Particles", workers: int, listener: Listener
) -> "tuple[Engine, Boxes, OpenBoxes]":
    """Return the engine, the boxes, and how to open the boxes of another table in the same way."""
    from cryoclass.checks.boxes import flips
    from cryoclass.checks.findings import enforce
    from cryoclass.checks.fit import check_contrast
    from cryoclass.sources import Boxes
    from cryoclass.tasks import CLASSIFY

    if request.bare.backbone is None:
        engine = open_engine(request.choice, request.device, "auto", listener).asked((CLASSIFY,))
        card = engine.card
        model = Fitting(card=card, rescale=request.choice.rescale, box=request.box)

        def open_boxes(wanted: "Particles") -> "Source":
            return open_model_source(wanted, request.boxes, request.cutting, model, listener)

        boxes = Boxes(source=open_boxes(table), workers=workers)
        check = check_contrast(boxes.sample, card, request.cutting.invert, flipped=flips(boxes.source))
        enforce(check, listener)
        return engine, boxes, open_boxes

    def open_bare(wanted: "Particles") -> "Source":
        return open_source(wanted, request.boxes, request.cutting, request.box, listener)

    boxes = Boxes(source=open_bare(table), workers=workers)
    return _backbone_engine(request.bare, boxes, request.device, listener), boxes, open_bare


def _backbone_engine(bare: BareBackbone, boxes: "Boxes", device: str, listener: Listener) -> "Engine":
    import torch

    from cryoclass.backbones.registry import load_backbone, spec
    from cryoclass.checks.findings import enforce
    from cryoclass.checks.fit import check_domain
    from cryoclass.inference.engines import BackboneEngine
    from cryoclass.machine import choose_device

    name = bare.backbone or Start().backbone
    place, entry, source = choose_device(device), spec(name), boxes.source
    if bare.weights is None and not entry.trained_on:
        listener.warn(f"{name} has no pretrained weights: this map shows what a random network sees.")
        torch.manual_seed(0)
    preparation = entry.resolve(bare, box=source.box)
    backbone = load_backbone(name, weights=bare.weights, as_pretrained=True, track=listener.track)
    engine = BackboneEngine(name, backbone, preparation, source, place)
    listener.note(f"backbone: {name}; {engine.description}; grey values {preparation.intensity}")
    learnt_from = backbone.facts.learnt_from
    if learnt_from.known:
        enforce(check_domain(source, boxes.sample.contrast, name, learnt_from, preparation), listener)
    return engine


def _check_layout(layout: Mapping2d, count: int, listener: Listener) -> None:
    """Refuse, before anything is computed, what cannot be done afterwards."""
    if isinstance(layout.clusters, int) and layout.clusters > count:
        raise UsageError(f"--clusters is {layout.clusters}; it must be at most the {count} particles.")
    if layout.method == "tsne" and count > SLOW_TSNE:
        listener.warn(f"t-SNE of {count} particles takes hours; --map pca takes seconds.")
    if layout.method == "umap":
        from cryoclass.embedding import load_umap

        load_umap()


def _known_labels(table: "Particles", label_column: str | None) -> "Labelled | None":
    """Return the labels to colour by: of the named column, or of the usual one where it has any."""
    from cryoclass.labels import from_column

    usual = table.has_own_labels and any(table.labels("cryoclassLabel"))
    return from_column(table, label_column) if label_column or usual else None


# ----------------------------------------------------------------------------------------------- ranking


def _check_rows(examples: Exemplars, count: int) -> None:
    """Hold the rows that were pointed at against the table."""
    for row in examples.like or []:
        if row > count:
            raise UsageError(f"--like is {row}; the table has {count} particles, counted from 1.")


def _examples(
    request: EmbedRequest,
    engine: "Engine",
    boxes: "Boxes",
    open_boxes: OpenBoxes,
    flow: "Flow",
    listener: Listener,
) -> "np.ndarray | None":
    """Embed the examples of another table (m, E) before all else, so that a wrong one costs no time; None where there is none."""
    for row in request.examples.like or []:
        _check_readable(boxes, row)
    if request.examples.query is None:
        return None
    from cryoclass.checks.findings import enforce
    from cryoclass.checks.fit import check_same_boxes
    from cryoclass.outputs import FOLDER, open_outputs
    from cryoclass.particles import read_particles
    from cryoclass.sources import Boxes

    source = open_boxes(read_particles(request.examples.query))
    enforce(check_same_boxes(source, boxes.source), listener)
    shown = Boxes(source=source, workers=flow.workers)
    facts = facts_of(engine, shown, {"precision": "auto"})
    outputs = open_outputs(request.outdir / FOLDER / QUERY, facts)
    compute_outputs(engine, shown, outputs, flow, listener)
    return outputs["embedding"][outputs.done]


def _check_readable(boxes: "Boxes", row: int) -> None:
    """Hold that a row that was pointed at, from 1, can be read."""
    from cryoclass.errors import VolumeError

    try:
        boxes.source.read(row - 1)
    except VolumeError as problem:
        raise UsageError(
            f"--like {row}: that particle cannot be read: {problem}", "Choose another."
        ) from None


def _likeness(request: EmbedRequest, said: _Said, space: "Space", features: "Vectors") -> "np.ndarray | None":
    """Return how like each row is to the examples (n,), -1 for those that are not done; None where none were given."""
    like = request.examples.like
    if said.examples is None and not like:
        return None
    import numpy as np

    from cryoclass.embedding import likeness

    pointed_at = [row - 1 for row in like or []]
    examples = said.outputs["embedding"][pointed_at] if said.examples is None else said.examples
    alike = np.full(len(said.table), -1.0)
    alike[said.outputs.done] = likeness(features, space.place(examples))
    return alike


# ----------------------------------------------------------------------------------------------- writing


def _placed(said: _Said) -> "tuple[Space, Vectors]":
    """Return the space that map, clusters and likeness share, and the particles that are done (m, E) in it."""
    from cryoclass.embedding import fit_space

    embedding = said.outputs["embedding"][said.outputs.done]
    space = fit_space(embedding, natural_units=said.engine.card.natural_units)
    return space, space.place(embedding)


def _write(request: EmbedRequest, said: _Said, listener: Listener) -> EmbedResult:
    """Write everything."""
    import numpy as np

    from cryoclass.files import same_file_at
    from cryoclass.jobs.clusters import study_clusters, write_clusters
    from cryoclass.jobs.layout import Placed, lay_out
    from cryoclass.report.pages import embedding_page, embedding_png
    from cryoclass.results import INCOMPLETE, write_optimisation_sets, write_skipped

    outdir, table, rows = request.outdir, said.table, said.outputs.done
    name = INCOMPLETE if said.problem else TABLE
    star, page, picture = (outdir / name for name in (name, "embedding.html", "embedding.png"))
    space, features = _placed(said)
    alike, ranked = _likeness(request, said, space, features), outdir / "ranked.star"
    clusters = study_clusters(features, request.layout, listener)
    placed = Placed(
        table=table,
        outputs=said.outputs,
        features=features,
        card=said.engine.card,
        labelled=said.labelled,
    )
    content, columns = lay_out(placed, request.layout, clusters)
    if clusters is not None:
        write_clusters(outdir / "clusters.csv", clusters)
    if alike is not None:
        cells = {"cryoclassLikeness": [f"{value:.4f}" for value in alike]}
        order = rows[np.argsort(-alike[rows], kind="stable")]
        table.with_columns(cells).select(order.tolist()).write(ranked)
        columns |= cells
    embedding_png(picture, content)
    embedding_page(page, content)
    stored = said.outputs.folder / "embedding.npy"
    same_file_at(stored, outdir / "embeddings.npy")
    write_skipped(outdir / "skipped.csv", table, said.outputs.reasons)
    write_optimisation_sets(table, request.boxes.tomograms, [star])
    table.with_columns(columns).write(star)
    return EmbedResult(
        table=star,
        page=page,
        picture=picture,
        embedding=outdir / "embeddings.npy",
        shape=said.outputs["embedding"].shape[:2],
        rows=rows,
        ranked=ranked if alike is not None else None,
        clusters=clusters,
        origin=said.origin,
    )

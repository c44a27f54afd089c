"""``cryoclass embed``: what the network sees, as a map."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cryoclass.cli import console
from cryoclass.cli.options import (
    Angpix,
    BatchSize,
    BoxToCut,
    Device,
    Jobs,
    LabelColumn,
    ModelFolder,
    OnnxFile,
    Outdir,
    Overwrite,
    ParticlesArgument,
    Rescale,
    Seed,
    SkipMissing,
    Tomograms,
    claim,
    cores,
    particles_path,
    with_settings,
)
from cryoclass.errors import UsageError
from cryoclass.settings import BEAM_AXIS_HELP, DEPTH_HELP, BeamAxis, Cutting, DepthPolicy

if TYPE_CHECKING:
    import numpy as np

    from cryoclass.inference.engines import Engine
    from cryoclass.inference.pipeline import Predictions
    from cryoclass.labels import Labelled
    from cryoclass.particles import Particles
    from cryoclass.report.content import Embedded
    from cryoclass.settings import Preparation
    from cryoclass.subtomograms import Source

Method = Literal["tsne", "pca", "umap"]


@with_settings
def embed(
    particles: ParticlesArgument = None,
    model: ModelFolder = None,
    onnx: OnnxFile = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            metavar="NAME",
            help="A backbone as it is, with its pretrained weights, instead of a model.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="Weights for --backbone from a file.", show_default=False
        ),
    ] = None,
    input_size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(
            "--input-size",
            metavar="D H W",
            help="With --backbone: what it sees; the backbone's own default where left out.",
            show_default=False,
        ),
    ] = None,
    depth: Annotated[DepthPolicy, typer.Option("--depth", help=f"With --backbone. {DEPTH_HELP}")] = "resize",
    beam_axis: Annotated[
        BeamAxis, typer.Option("--beam-axis", help=f"With --backbone. {BEAM_AXIS_HELP}")
    ] = "z",
    outdir: Outdir = Path("Embed"),
    method: Annotated[
        Method, typer.Option("--map", help="How to lay the embedding out on a plane.")
    ] = "tsne",
    clusters: Annotated[
        int | None,
        typer.Option(
            "--clusters", metavar="K", min=2, help="Group the particles by k-means.", show_default=False
        ),
    ] = None,
    label_column: LabelColumn = None,
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    jobs: Jobs = cores(),
    rescale: Rescale = False,
    tomograms: Tomograms = None,
    box: BoxToCut = None,
    angpix: Angpix = None,
    skip_missing: SkipMissing = False,
    overwrite: Overwrite = False,
    *,
    cutting: Cutting,
) -> None:
    """Show particles as a network sees them.

    Writes the embedding (embeddings.npy, in the order of the STAR file), a map of it as a picture and as a page, and
    your STAR file with map and cluster columns added.

    Example: cryoclass embed particles.star --model Finetune/ --clusters 6
    """
    claim(outdir, "particles.star", overwrite=overwrite)
    if sum(choice is not None for choice in (model, onnx, backbone)) != 1:
        raise UsageError(
            "give one of --model, --onnx and --backbone.",
            "With no model yet: --backbone r3d34-k400 shows what the video network sees.",
        )
    import numpy as np

    from cryoclass.backbones.registry import spec
    from cryoclass.cli.sources import open_model_source, open_source
    from cryoclass.inference.pipeline import embed as embed_all
    from cryoclass.particles import read_particles
    from cryoclass.report.pages import embedding_page, embedding_png
    from cryoclass.results import write_optimisation_sets

    table = read_particles(particles_path(particles))
    _check_map(method, clusters, len(table))
    labelled = _known_labels(table, label_column)
    engine: Engine
    if backbone is not None:
        source = open_source(table, tomograms, cutting, box=box, angpix=angpix, skip_missing=skip_missing)
        wish = spec(backbone).preparation(input_size).replace(depth=depth, beam_axis=beam_axis)
        engine = _backbone_engine(backbone, weights, wish, source, device)
    else:
        from cryoclass.cli.engines import open_engine

        engine = open_engine(model, onnx, device, "auto")
        source = open_model_source(
            table, tomograms, cutting, engine.card, angpix=angpix, rescale=rescale, skip_missing=skip_missing
        )
    path = outdir / "embeddings.npy"
    predictions = embed_all(engine, source, path, batch_size, jobs, console.track)
    rows = predictions.readable
    embedding = np.load(path, mmap_mode="r")[rows]
    content, columns = _map(
        table, embedding, predictions, engine.card.classes, labelled, method, clusters, seed
    )
    embedding_png(outdir / "embedding.png", content)
    embedding_page(outdir / "embedding.html", content)
    write_optimisation_sets(table, tomograms, [outdir / "particles.star"])
    table.with_columns(columns).star.write(outdir / "particles.star")
    console.rows(
        "embedded",
        [
            ("particles", f"{len(rows)} of {len(table)}"),
            ("embedding", f"{path}, {embedding.shape[1]} numbers per particle"),
            ("table", outdir / "particles.star"),
            ("look at", f"{outdir / 'embedding.html'}, {outdir / 'embedding.png'}"),
        ],
    )


def _backbone_engine(
    name: str, weights: Path | None, preparation: "Preparation", source: "Source", device: str
) -> "Engine":
    import torch

    from cryoclass.backbones.registry import load_backbone, spec
    from cryoclass.devices import choose_device
    from cryoclass.inference.engines import BackboneEngine

    place = choose_device(device)
    entry = spec(name)
    if weights is None and not entry.trained_on:
        console.warn(f"{name} has no pretrained weights: this map shows what a random network sees.")
        torch.manual_seed(0)
    preparation = entry.prepare(preparation, source.box)
    backbone = load_backbone(name, weights=weights, as_pretrained=True, track=console.track)
    engine = BackboneEngine(name, backbone, preparation, source, place)
    console.note(f"backbone: {name}; {engine.description}; grey values {preparation.intensity}")
    return engine


def _map(
    table: "Particles",
    embedding: "np.ndarray",
    predictions: "Predictions",
    classes: tuple[str, ...],
    labelled: "Labelled | None",
    method: Method,
    clusters: int | None,
    seed: int,
) -> tuple["Embedded", dict[str, list[str]]]:
    """Lay the embedding out; return what the page shows, and the columns for the table."""
    import numpy as np

    from cryoclass.report.content import Embedded, Grouping
    from cryoclass.report.maps import clusters as group
    from cryoclass.report.maps import project

    rows = predictions.readable
    points = project(embedding, method, seed)
    place = np.zeros((len(table), 2))
    place[rows] = points
    columns = {f"cryoclassMap{axis}": [f"{v:.6f}" for v in place[:, i]] for i, axis in enumerate("XY")}
    groupings = []
    if labelled is not None:
        groupings.append(Grouping(title="label", names=labelled.classes, index=labelled.labels[rows]))
    if classes:
        groupings.append(
            Grouping(
                title="predicted class", names=classes, index=predictions.probabilities[rows].argmax(axis=1)
            )
        )
    if clusters is not None or not groupings:
        found = group(embedding, clusters or 1, seed)
        count = int(found.max()) + 1
        groupings.append(Grouping(title="cluster", names=[str(n + 1) for n in range(count)], index=found))
        number = np.zeros(len(table), dtype=int)
        number[rows] = found + 1
        columns["cryoclassCluster"] = [str(n) for n in number.tolist()]
    content = Embedded(
        points=points,
        rows=rows,
        tomograms=[table.tomograms[row] for row in rows.tolist()],
        groupings=groupings,
        probability=predictions.probabilities[rows].max(axis=1) if classes else None,
        method=method,
        settings={"map": method, "clusters": clusters or "-", "seed": seed},
    )
    return content, columns


def _check_map(method: Method, clusters: int | None, count: int) -> None:
    """Refuse, before anything is computed, what cannot be done afterwards."""
    if clusters is not None and clusters > count:
        raise UsageError(f"--clusters is {clusters}; it must be at most the {count} particles.")
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise UsageError(
            "--map umap needs the package umap-learn, which is not installed.",
            "Run: pip install umap-learn, or use --map tsne.",
        )


def _known_labels(table: "Particles", label_column: str | None) -> "Labelled | None":
    """Return the labels to colour by: of the named column, or of the usual one where it has any."""
    from cryoclass.labels import from_column

    usual = "cryoclassLabel" in table.block.labels and any(table.labels("cryoclassLabel"))
    return from_column(table, label_column) if label_column or usual else None

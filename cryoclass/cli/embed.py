"""``cryoclass embed``: what the network sees, as a map."""

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
from cryoclass.settings import Cutting

if TYPE_CHECKING:
    import numpy as np

    from cryoclass.inference.engines import Engine
    from cryoclass.inference.pipeline import Predictions
    from cryoclass.particles import Particles
    from cryoclass.report.content import Embedded, Grouping
    from cryoclass.settings import Size3
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
            help="With --backbone: what it sees. [default: 32 128 128]",
            show_default=False,
        ),
    ] = None,
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

    from cryoclass.cli.sources import open_model_source, open_source
    from cryoclass.inference.pipeline import embed as embed_all
    from cryoclass.particles import read_particles
    from cryoclass.report.pages import embedding_page, embedding_png

    table = read_particles(particles_path(particles))
    engine: Engine
    if backbone is not None:
        source = open_source(table, tomograms, cutting, box=box, angpix=angpix, skip_missing=skip_missing)
        engine = _backbone_engine(backbone, weights, input_size, source, device)
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
        table, embedding, predictions, engine.card.classes, label_column, method, clusters, seed
    )
    embedding_png(outdir / "embedding.png", content)
    embedding_page(outdir / "embedding.html", content)
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
    name: str, weights: Path | None, input_size: "Size3 | None", source: "Source", device: str
) -> "Engine":
    import torch

    from cryoclass.backbones.registry import load_backbone, spec
    from cryoclass.devices import choose_device
    from cryoclass.inference.engines import BackboneEngine
    from cryoclass.settings import Preparation

    place = choose_device(device)
    if weights is None and not spec(name).trained_on:
        console.warn(f"{name} has no pretrained weights: this map shows what a random network sees.")
        torch.manual_seed(0)
    preparation = Preparation(input_size=input_size) if input_size else Preparation()
    engine = BackboneEngine(name, load_backbone(name, weights=weights), preparation, source, place)
    console.note(f"backbone: {name}; {engine.description}")
    return engine


def _map(
    table: "Particles",
    embedding: "np.ndarray",
    predictions: "Predictions",
    classes: tuple[str, ...],
    label_column: str | None,
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
    groupings = list(_label_grouping(table, label_column, rows))
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


def _label_grouping(table: "Particles", label_column: str | None, rows: "np.ndarray") -> list["Grouping"]:
    from cryoclass.labels import from_column
    from cryoclass.report.content import Grouping

    if label_column is None and "cryoclassLabel" not in table.block.labels:
        return []
    labelled = from_column(table, label_column)
    return [Grouping(title="label", names=labelled.classes, index=labelled.labels[rows])]

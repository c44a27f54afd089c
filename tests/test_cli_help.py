"""Help is instant and fits a terminal, and the rooms of the house import downwards only."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import cryoclass

PACKAGE = Path(cryoclass.__file__).parent
HEAVY = {
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pandas",
    "starfile",
    "mrcfile",
    "jinja2",
    "safetensors",
    "pooch",
}
COMMANDS = [
    (),
    *(
        (name,)
        for name in (
            *("simulate", "extract", "demo", "finetune", "pretrain"),
            *("predict", "embed", "export", "doctor"),
        )
    ),
    *(("backbones", *more) for more in ((), ("list",), ("fetch",), ("import",), ("verify",))),
]

LOADED = """
import json, sys
from cryoclass.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


@pytest.mark.parametrize("argv", [["--help"], ["extract", "--help"], ["finetune", "--help"], ["--version"]])
def test_help_loads_no_heavy_module(argv):
    ran = subprocess.run(
        [sys.executable, "-c", LOADED, *argv], capture_output=True, text=True, check=True, timeout=60
    )
    status, modules = json.loads(ran.stderr.splitlines()[-1])
    assert status == 0
    assert not HEAVY & set(modules)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_eighty_columns(cryoclass, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    ran = cryoclass(*command, "--help")
    assert ran.status == 0
    assert f"Usage: {' '.join(['cryoclass', *command])}" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "…" not in ran.out, "a name or a default is cut off"


def test_every_command_is_tested():
    """A command that is added later has to be added to the lists above."""
    from typer.main import get_command

    from cryoclass.cli import app

    assert set(get_command(app).commands) == {name for name, *_ in filter(None, COMMANDS)}


def test_verbose_says_the_settings_and_where_an_error_arose(cryoclass, tmp_path):
    missing = tmp_path / "no.star"
    quiet = cryoclass("extract", missing, "--box", "16")
    verbose = cryoclass("extract", missing, "--box", "16", "-v")
    assert quiet.status == verbose.status == 1
    assert "Traceback" not in quiet.err
    assert "Traceback" in verbose.err
    assert "box = 16" in verbose.err
    assert "Traceback" not in cryoclass("extract", missing, "--box", "16").err, (
        "-v holds for one command only"
    )


# --------------------------------------------------------------------------------------------- floors

FLOORS = {
    "cli": 5,
    "jobs": 4,
    "doctor": 4,  # looks at what the rooms below would say, so it stands above them
    "pretraining": 4,  # shows what simulation invents to what training trains
    **dict.fromkeys(["training", "inference", "exporting", "report", "simulation", "extraction"], 3),
    **dict.fromkeys(
        ["particles", "tomograms", "images", "cutting", "sources", "outputs", "labels", "results"], 2
    ),
    **dict.fromkeys(["card", "preparation", "classifier", "backbones", "metrics", "embedding", "tasks"], 2),
    **dict.fromkeys(["star", "volumes"], 1),
    **dict.fromkeys(["settings", "errors", "files", "claims", "progress", "machine"], 0),
}
DOORS = {"__init__", "__main__"}  # the package's own name and version, and python -m


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Return the rooms that a file imports, wherever in the file it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name.split(".")[1] for name in found if name.startswith("cryoclass.")}
    return inside & set(FLOORS)


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_a_floor():
    assert {room(path) for path in FILES} - DOORS == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    own = room(path)
    if own in DOORS:
        return
    for other in imports(path) - {own}:
        assert FLOORS[other] <= FLOORS[own], f"{own} imports {other}, which lies above it"
        if FLOORS[own] == 3:
            assert FLOORS[other] < 3, f"{own} imports {other}, which lies beside it"


def test_volumes_and_backbones_know_no_star_files():
    for path in FILES:
        if room(path) in ("volumes", "backbones"):
            assert not imports(path) & {"star", "particles", "tomograms", "images", "cutting", "cli"}, path


def test_only_the_command_line_prints():
    for path in FILES:
        if room(path) != "cli":
            calls = [
                node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
            ]
            assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], path

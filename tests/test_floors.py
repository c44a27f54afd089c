"""The rooms of the house import downwards only; on which floor each one stands, the README says."""

import ast
import re
from pathlib import Path

import pytest

import cryoclass

PACKAGE = Path(cryoclass.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
DOORS = {"__init__", "__main__"}  # the package's own name and version, and python -m
ABSTRACT = 3  # the floor whose rooms stand beside each other and know nothing of each other
BUILDS_ON = {"pretraining": {"simulation", "training"}}  # shows what is simulated to what trains

SECTION = (PACKAGE.parent / "README.md").read_text().partition("## For developers")[2]
ROWS = re.findall(r"^\| (\d) \| (.*?) \|$", SECTION, re.MULTILINE)
FLOORS = {room: int(floor) for floor, rooms in ROWS for room in re.findall(r"`(\w+)(?:\.py|/)`", rooms)}


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


def test_every_room_has_a_floor_and_every_floor_its_rooms():
    assert {room(path) for path in FILES} - DOORS == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    own = room(path)
    if own in DOORS:
        return
    for other in imports(path) - {own} - BUILDS_ON.get(own, set()):
        assert FLOORS[other] <= FLOORS[own], f"{own} imports {other}, which lies above it"
        if FLOORS[own] == ABSTRACT:
            assert FLOORS[other] < ABSTRACT, f"{own} imports {other}, which lies beside it"


def test_what_computes_knows_no_star_files():
    """Another kind of table or of volume then changes nothing in them."""
    tables = {"star", "particles", "tomograms", "images", "cutting", "results", "labels"}
    for path in FILES:
        if room(path) in (
            "volumes",
            "backbones",
            "sources",
            "outputs",
            "preparation",
            "inference",
            "training",
            "pretraining",
        ):
            assert not imports(path) & tables, path


def test_only_the_command_line_prints():
    for path in FILES:
        if room(path) != "cli":
            calls = [
                node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
            ]
            assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], path


def functions() -> list[tuple[str, ast.FunctionDef]]:
    return [
        (f"{path.relative_to(PACKAGE)}: {node.name}", node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]


def test_functions_are_small_and_commands_smaller():
    for name, node in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len(arguments) - (bool(arguments) and arguments[0].arg in ("self", "cls"))
        assert count <= 6, f"{name} has {count} parameters"
        lines = (node.end_lineno or 0) - node.lineno + 1
        command = name.startswith("cli/") and any(
            "with_request" in ast.unparse(d) for d in node.decorator_list
        )
        assert lines <= (30 if command else 60), f"{name} has {lines} lines"

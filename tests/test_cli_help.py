"""Help is instant and fits a terminal."""

import json
import subprocess
import sys

import pytest

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
            *("predict", "select", "embed", "export", "doctor"),
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

"""What ``benchmarks/fuzz.py`` sees; its short form runs in CI (``.ci/run``)."""

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz():
    found = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    module = importlib.util.module_from_spec(found)
    sys.modules["fuzz"] = module
    found.loader.exec_module(module)
    return module


def test_damage_is_the_same_for_the_same_seed(fuzz):
    content = bytes(range(256)) * 20
    once, again = ([fuzz.damaged(content, random.Random(seed)) for seed in range(50)] for _ in range(2))
    assert once == again
    assert len(set(once)) > 40


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("import time; time.sleep(60)", "hang"),
        ("import os; os.kill(os.getpid(), 11)", "crash"),
        ("print(json.dumps({'case': 'card:0', 'outcome': '0'}))", "0"),
    ],
)
def test_what_waits_and_what_dies_is_named(fuzz, monkeypatch, code, outcome):
    monkeypatch.setattr(fuzz, "PATIENCE", 2.0)
    begins = json.dumps({"begins": "card:0"})
    argv = [sys.executable, "-c", f"import json; print({begins!r}, flush=True); {code}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        (found,) = fuzz._listen(child, "card:0")
    assert (found["case"], found["outcome"]) == ("card:0", outcome)


def test_what_is_left_is_seen(fuzz, tmp_path):
    (tmp_path / "O" / "outputs").mkdir(parents=True)
    for name in ("O/particles.star", "O/outputs/a.npy", "O/checkpoint.pt", "O/.cryoclass-ab.star"):
        (tmp_path / name).touch()
    failed = list(fuzz._halves(tmp_path, set(), failed=True))
    assert failed == ["O/.cryoclass-ab.star is left", "O/particles.star is there after a failure"]
    assert list(fuzz._halves(tmp_path, set(), failed=False)) == ["O/.cryoclass-ab.star is left"]

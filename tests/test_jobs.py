"""The jobs from Python, and what is computed once only."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import table

import cryoclass as package
from cryoclass.files import TEMPORARY
from cryoclass.inference.engines import BackboneEngine, OnnxEngine, TorchEngine
from cryoclass.jobs.opening import use_cores
from cryoclass.progress import Listener

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def engine_calls(monkeypatch) -> list[int]:
    """Count the boxes that each call of an engine gets."""
    calls: list[int] = []

    def counting(run):
        def counted(self, voxels):
            calls.append(len(voxels))
            return run(self, voxels)

        return counted

    for kind in (TorchEngine, OnnxEngine, BackboneEngine):
        monkeypatch.setattr(kind, "run", counting(kind.run))
    return calls


def content(folder: str, *names: str) -> list[bytes]:
    return [Path(folder, name).read_bytes() for name in names]


# ---------------------------------------------------------------------------------------- stored outputs


@pytest.mark.parametrize("model", ["--model", "--onnx"])
def test_another_threshold_computes_nothing(cryoclass, exported, engine_calls, model):
    path = exported.model if model == "--model" else exported.onnx
    argv = ("predict", exported.particles, model, path)
    assert cryoclass(*argv, "-o", "P").status == 0
    assert sum(engine_calls) == 36
    engine_calls.clear()
    ran = cryoclass(*argv, "--min-probability", 0.9, "--overwrite", "-o", "P")
    assert ran.status == 0, ran.err
    assert not engine_calls
    assert "P/outputs: all 36 rows are there" in ran.err
    assert cryoclass(*argv, "--min-probability", 0.9, "-o", "Fresh").status == 0
    names = ("particles.star", "classes.star", "metrics.json", "skipped.csv")
    assert content("P", *names) == content("Fresh", *names)


def test_other_clusters_and_examples_compute_nothing(cryoclass, extracted, engine_calls):
    argv = ("embed", extracted.particles, "--map", "pca", "--device", "cpu", "-o", "E")
    assert cryoclass(*argv, "--clusters", 2).status == 0
    assert sum(engine_calls) == 36
    first = np.load("E/embeddings.npy")
    engine_calls.clear()
    ran = cryoclass(*argv, "--overwrite", "--clusters", 3, "--like", 1, "--like", 2)
    assert ran.status == 0, ran.err
    assert not engine_calls
    assert set(table(Path("E/particles.star"))["cryoclassCluster"]) == {1, 2, 3}
    assert len(table(Path("E/ranked.star"))) == 36
    np.testing.assert_array_equal(np.load("E/embeddings.npy"), first)
    assert cryoclass(*argv, "--overwrite", "--query", extracted.particles).status == 0
    assert sum(engine_calls) == 36, "the examples of another table, once"
    engine_calls.clear()
    assert cryoclass(*argv, "--overwrite", "--clusters", 2, "--query", extracted.particles).status == 0
    assert not engine_calls


def test_another_model_or_other_boxes_are_computed_anew(cryoclass, exported, engine_calls):
    argv = ("predict", exported.particles, "-o", "P", "--overwrite")
    assert cryoclass(*argv, "--model", exported.model).status == 0
    engine_calls.clear()
    assert cryoclass(*argv, "--onnx", exported.onnx).status == 0
    assert sum(engine_calls) == 36
    engine_calls.clear()
    assert cryoclass(*argv, "--onnx", exported.onnx, "--invert", "yes").status == 0
    assert sum(engine_calls) == 36


def test_a_volume_that_was_mended_or_replaced_is_looked_at_again(cryoclass, trained, engine_calls):
    shutil.copytree(trained.root / "Extract", "Own")
    rows = trained.particles.read_text().replace("Extract/", "Own/")
    Path("Own/particles.star").write_text(rows)
    first, *_ = sorted(Path("Own/Subtomograms").rglob("*.mrc"))
    whole = first.read_bytes()
    first.write_bytes(whole[:500])
    argv = ("predict", "Own/particles.star", "--model", trained.model, "-o", "P", "--overwrite")
    assert cryoclass(*argv).status == 0
    assert (table(Path("P/particles.star"))["cryoclassClassName"] == "unreadable").sum() == 1
    first.write_bytes(whole)
    assert cryoclass(*argv).status == 0
    assert not (table(Path("P/particles.star"))["cryoclassClassName"] == "unreadable").any()
    engine_calls.clear()
    first.write_bytes(whole[:1024] + np.frombuffer(whole, "<f4")[256:][::-1].tobytes())
    assert cryoclass(*argv).status == 0
    assert sum(engine_calls) == 36


def test_a_killed_prediction_goes_on_where_it_stopped(cryoclass, trained, engine_calls, monkeypatch):
    argv = ("predict", trained.particles, "--model", trained.model, "-b", 8)
    run = TorchEngine.run

    def dying(self, voxels):
        if sum(engine_calls) >= 16:
            raise KeyboardInterrupt
        return run(self, voxels)

    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "run", dying)
        assert cryoclass(*argv, "-o", "P").status == 130
    assert sum(engine_calls) == 16
    engine_calls.clear()
    ran = cryoclass(*argv, "-o", "P")
    assert ran.status == 0, ran.err
    assert "P/outputs: 16 of 36 rows are there already" in ran.err
    assert sum(engine_calls) == 20
    assert cryoclass(*argv, "-o", "Fresh").status == 0
    names = ("particles.star", "outputs/logits.npy", "outputs/embedding.npy", "outputs/status.npy")
    assert content("P", *names) == content("Fresh", *names)
    assert not [path for path in Path("P").rglob("*") if path.name.startswith(TEMPORARY)]


# --------------------------------------------------------------------------------------------- from Python


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, cryoclass; print(sorted({'torch', 'numpy', 'typer', 'rich'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented():
    for name in package.__all__:
        assert getattr(package, name)
        assert name == "__version__" or getattr(package, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'predikt'"):
        package.predikt  # noqa: B018
    assert set(package.__all__) <= set(dir(package))
    assert (Path(package.__file__).parent / "py.typed").exists()


class Heard(Listener):
    """Keeps what was said."""

    def __init__(self):
        self.notes, self.warnings, self.events = [], [], []

    def note(self, line):
        self.notes.append(line)

    def warn(self, line):
        self.warnings.append(line)

    def tell(self, event):
        self.events.append(event)


def test_a_job_prints_nothing_and_tells_its_listener(trained, capfd):
    heard = Heard()
    choice = package.ModelChoice(model=trained.model)
    request = package.PredictRequest(particles=trained.particles, choice=choice, outdir=Path("P"))
    result = package.predict(request, heard)
    assert capfd.readouterr() == ("", "")
    assert result.decisions.probabilities.shape == (36, 3)
    assert result.origin == "computed"
    assert any("36 particles" in note for note in heard.notes)
    assert table(result.table)["rlnClassNumber"].tolist() == (result.decisions.classes + 1).tolist()
    again = package.predict(request.replace(overwrite=True, min_probability=0.99), heard)
    assert again.origin == "reused"
    np.testing.assert_array_equal(again.decisions.probabilities, result.decisions.probabilities)


def test_a_request_checks_itself():
    with pytest.raises(package.CryoclassError, match="--min-probability is 2; it must be at most 1"):
        package.PredictRequest(min_probability=2)
    with pytest.raises(
        package.CryoclassError, match="--precision is bf17; it must be one of auto, fp32, bf16"
    ):
        package.PredictRequest(precision="bf17")


@pytest.mark.usefixtures("extracted")
def test_the_readmes_example_from_python_runs(monkeypatch):
    readme = (Path(package.__file__).parents[1] / "README.md").read_text()
    section = readme.partition("## From Python")[2].partition("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    monkeypatch.setattr("builtins.print", lambda *_: None)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - our own README
    assert Path("Predict/particles.star").exists()


def test_no_room_takes_the_name_of_a_verb():
    """Importing a room sets its name on the package, over the function of that name."""
    rooms = {path.stem for path in Path(package.__file__).parent.iterdir()}
    assert not rooms & set(package.__all__)


@pytest.mark.parametrize(("wish", "quota", "expected"), [(None, 1, 1), (None, 64, 2), (3, 1, 3)])
def test_torch_computes_with_no_more_threads_than_the_job_may_use(wish, quota, expected, monkeypatch):
    """Beyond a container's quota they would only wait for each other."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(quota)), raising=False)
        assert use_cores(wish) >= 1
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)

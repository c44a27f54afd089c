"""The training loop on toy volumes that a small network learns in seconds."""

import dataclasses
import itertools
import math
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from network_helpers import edit_checkpoint
from torch import nn

from cryoclass.backbones.spec import Backbone
from cryoclass.backbones.weights import check_zip
from cryoclass.calibration import at_temperature
from cryoclass.classifier import Classifier
from cryoclass.errors import CryoclassError, ModelError, ParticleError, UsageError, VolumeError
from cryoclass.metrics import evaluate
from cryoclass.settings import Preparation, Recipe
from cryoclass.stopping import Stopped, signals_as_exits
from cryoclass.training.boxes import read_boxes
from cryoclass.training.checkpoint import Keeper, Keeping
from cryoclass.training.frozen import fit_frozen
from cryoclass.training.loop import LabelledBoxes, Run, fit
from cryoclass.training.recipes import RECIPES, learning_rate, recipe

CLASSES = ("bar", "sheet")
CPU = torch.device("cpu")
SHORT = Recipe(
    name="short",
    epochs=3,
    lr=1e-3,
    batch_size=8,
    schedule="one-cycle",
    preparation=Preparation(input_size=(8, 16, 16), intensity="standard"),
)


class Toys:
    """Boxes of 8 voxels in noise: bars along z, and sheets across it; some rows cannot be read."""

    angpix, box = 10.0, 8

    def __init__(self, count, bad=()):
        generator = np.random.default_rng(7)
        self.labels = np.arange(count) % 2
        self.voxels = generator.normal(0, 0.5, (count, 8, 8, 8)).astype(np.float32)
        self.voxels[self.labels == 0, :, 3:5, 3:5] += 2
        self.voxels[self.labels == 1, 3:5] += 2
        self.bad = bad
        self.order = np.arange(count)[::-1]

    def __len__(self):
        return len(self.voxels)

    def read(self, index):
        if index in self.bad:
            raise VolumeError(f"box {index} is empty.")
        return self.voxels[index]

    def fingerprint(self):
        return "toys"


class StopError(Exception):
    """Stands for a kill or Ctrl-C."""


class Tiny(Backbone):
    """A network with all that needs care: batch statistics, dropout, weights."""

    width = 16

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, 16, 3, stride=2, bias=False),
            nn.BatchNorm3d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
        )

    def forward(self, x):
        return self.layers(x)


def examples(count=40, bad=()):
    toys = Toys(count, bad)
    parts = np.array(["train", "train", "train", "val", "test"] * (count // 5))
    return LabelledBoxes(source=toys, labels=toys.labels, parts=parts, classes=CLASSES)


def r3d10():
    torch.manual_seed(0)
    return Classifier("r3d10", len(CLASSES))


def tiny(seed=0):
    with torch.device("meta"):
        network = Classifier("r3d10", len(CLASSES))
    torch.manual_seed(seed)
    network.backbone, network.heads["classify"] = Tiny(), nn.Linear(Tiny.width, len(CLASSES))
    return network


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.values(), two.values(), strict=True))


def stop_after(epoch):
    def on_epoch(record):
        if record.epoch == epoch:
            raise StopError

    return on_epoch


@pytest.fixture(scope="module")
def trained():
    """Return a classifier after an unbroken run of three epochs, and its history."""
    network = tiny()
    return network, fit(network, examples(), SHORT, Run(device=CPU, seed=4))


def test_r3d10_learns_and_resumes_like_an_unbroken_run(tmp_path):
    short, data = SHORT.replace(epochs=4), examples()
    unbroken, resumed = r3d10(), r3d10()
    history = fit(unbroken, data, short, Run(device=CPU))
    test = data.parts[history.rows] == "test"
    assert evaluate(history.probabilities[test], data.labels[history.rows[test]], CLASSES).accuracy == 1
    with pytest.raises(StopError):
        fit(resumed, data, short, Run(device=CPU, keeping=Keeping(folder=tmp_path), on_record=stop_after(1)))
    fit(resumed, data, short, Run(device=CPU, keeping=Keeping(folder=tmp_path)))
    assert same(unbroken.state_dict(), resumed.state_dict())


def test_history_speaks_of_every_epoch_and_of_all_held_out_rows(trained):
    _, history = trained
    data = examples()
    assert [record.epoch for record in history.records] == [1, 2, 3]
    assert np.array_equal(history.rows, np.flatnonzero(data.parts != "train"))
    assert history.probabilities.shape == (len(history.rows), 2)
    assert history.probabilities.sum(1) == pytest.approx(1, abs=1e-5)
    assert history.skipped == {}


def test_the_best_epoch_is_the_last_of_the_best_areas(trained):
    _, history = trained
    areas = [record.val_auc for record in history.records]
    assert history.best.epoch == max(
        record.epoch for record in history.records if record.val_auc == max(areas)
    )


def test_the_classifier_ends_with_the_weights_of_the_best_epoch(tmp_path):
    network, data = tiny(), examples()
    history = fit(network, data, SHORT.replace(lr=0.05), Run(device=CPU, keeping=Keeping(folder=tmp_path)))
    val = data.parts[history.rows] == "val"
    uncalibrated = at_temperature(history.probabilities[val], 1 / history.trust.temperature)
    metrics = evaluate(uncalibrated, data.labels[history.rows[val]], CLASSES)
    best = history.records[history.best.epoch - 1]
    assert best.best
    assert (metrics.auc, metrics.log_loss) == (best.val_auc, pytest.approx(best.val_loss, rel=1e-5))


def test_same_seed_same_weights_and_another_seed_other_weights(trained):
    network, _ = trained
    again, other = tiny(), tiny()
    fit(again, examples(), SHORT, Run(device=CPU, seed=4))
    fit(other, examples(), SHORT.replace(epochs=1), Run(device=CPU, seed=5))
    assert same(network.state_dict(), again.state_dict())
    assert not same(network.state_dict(), other.state_dict())


@pytest.mark.parametrize("epoch", [1, 2])
def test_resuming_after_a_kill_gives_the_result_of_an_unbroken_run(trained, tmp_path, epoch):
    unbroken, history = trained
    with pytest.raises(StopError):
        fit(
            tiny(),
            examples(),
            SHORT,
            Run(device=CPU, seed=4, keeping=Keeping(folder=tmp_path), on_record=stop_after(epoch)),
        )
    resumed, seen = tiny(seed=99), []
    run = Run(device=CPU, seed=4, keeping=Keeping(folder=tmp_path), on_record=seen.append)
    again = fit(resumed, examples(), SHORT, run)
    assert [record.epoch for record in seen] == list(range(epoch + 1, 4))
    assert same(unbroken.state_dict(), resumed.state_dict())
    assert np.array_equal(history.probabilities, again.probabilities)
    assert history.records == again.records


def test_resuming_a_finished_run_only_brings_its_weights_back(trained, tmp_path):
    run = Run(device=CPU, seed=4, keeping=Keeping(folder=tmp_path))
    fit(tiny(), examples(), SHORT, run)
    again = tiny(seed=99)
    history = fit(again, examples(), SHORT, dataclasses.replace(run, on_record=stop_after(3)))
    assert same(trained[0].state_dict(), again.state_dict())
    assert history.best.epoch == trained[1].best.epoch


def test_resuming_before_the_first_checkpoint_starts_from_the_beginning(tmp_path):
    run = Run(device=CPU, keeping=Keeping(folder=tmp_path))
    assert len(fit(tiny(), examples(), SHORT.replace(epochs=1), run).records) == 1


def test_a_checkpoint_of_other_settings_is_refused_with_their_names(tmp_path):
    run = Run(device=CPU, keeping=Keeping(folder=tmp_path))
    fit(tiny(), examples(), SHORT.replace(epochs=1), run)
    other = SHORT.replace(epochs=1, lr=0.5)
    with pytest.raises(UsageError, match=r"lr was 0.001, now 0.5.*seed was 0, now 3") as raised:
        fit(tiny(), examples(), other, dataclasses.replace(run, seed=3))
    assert "--overwrite" in raised.value.hint
    with pytest.raises(UsageError, match="particles was"):
        fit(tiny(), examples(50), SHORT.replace(epochs=1), run)


# ------------------------------------------------------------------------------- between two steps


def signalled(step, number=signal.SIGTERM, name="Epoch"):
    """Return a track that sends this very process a signal while a step is under way, counted from 1."""
    taken = itertools.count(1)

    def track(items, description, *_):
        for item in items:
            if description.startswith(name) and next(taken) == step:
                os.kill(os.getpid(), number)
            yield item

    return track


def stopped(run, how=Stopped, network=None):
    """Train until a signal ends that; return the state in the newest checkpoint."""
    with pytest.raises(how), signals_as_exits():
        fit(network or tiny(), examples(), SHORT, run)
    return torch.load(run.keeping.folder / "checkpoint.pt")["state"]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_after_its_step_and_it_goes_on_to_the_same_end(trained, tmp_path, step, number):
    """Three steps make an epoch; dropout and augmentation go on with the numbers that they would have drawn."""
    unbroken, history = trained
    run = Run(device=CPU, seed=4, keeping=Keeping(folder=tmp_path), track=signalled(step, number))
    state = stopped(run, KeyboardInterrupt if number == signal.SIGINT else Stopped)
    assert 3 * len(state["records"]) + state["epoch"]["step"] == step
    notes, network = [], tiny(seed=99)
    run = Run(device=CPU, seed=4, keeping=Keeping(folder=tmp_path, note=notes.append))
    again = fit(network, examples(), SHORT, run)
    epoch, within = divmod(step - 1, 3)
    assert notes == [
        f"going on after epoch {epoch} of 3, within the next one after {within + 1} steps, from checkpoint.pt"
    ]
    assert same(unbroken.state_dict(), network.state_dict())
    assert again.records == history.records
    assert np.array_equal(history.probabilities, again.probabilities)


def test_a_run_that_is_stopped_after_every_step_comes_to_the_same_end(trained, tmp_path):
    for _ in range(9):
        stopped(Run(device=CPU, seed=4, keeping=Keeping(folder=tmp_path), track=signalled(1)))
    network = tiny(seed=99)
    fit(network, examples(), SHORT, Run(device=CPU, seed=4, keeping=Keeping(folder=tmp_path)))
    assert same(trained[0].state_dict(), network.state_dict())


def test_a_signal_while_an_epoch_is_scored_keeps_all_its_steps(trained, tmp_path):
    class Signals(Tiny):
        def forward(self, x):
            if not self.training:
                os.kill(os.getpid(), signal.SIGUSR1)
            return super().forward(x)

    network = tiny()
    network.backbone = Signals()
    network.backbone.load_state_dict(tiny().backbone.state_dict())
    state = stopped(Run(device=CPU, seed=4, keeping=Keeping(folder=tmp_path)), network=network)
    assert (state["records"], state["epoch"]["step"]) == ([], 3)
    network = tiny(seed=99)
    fit(network, examples(), SHORT, Run(device=CPU, seed=4, keeping=Keeping(folder=tmp_path)))
    assert same(trained[0].state_dict(), network.state_dict())


def test_a_second_signal_ends_a_run_within_its_step_and_nothing_half_done_is_kept(trained, tmp_path):
    class Twice(Tiny):
        steps = 0

        def forward(self, x):
            found = super().forward(x)
            self.steps += self.training
            if self.steps == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
            return found

    network = tiny()
    network.backbone = Twice()
    network.backbone.load_state_dict(tiny().backbone.state_dict())
    state = stopped(Run(device=CPU, seed=4, keeping=Keeping(folder=tmp_path, seconds=0)), network=network)
    assert state["epoch"]["step"] == 2
    network = tiny(seed=99)
    fit(network, examples(), SHORT, Run(device=CPU, seed=4, keeping=Keeping(folder=tmp_path)))
    assert same(trained[0].state_dict(), network.state_dict())


def test_checkpoints_come_by_time_and_the_one_before_is_kept(tmp_path):
    seen = []

    def track(items, description, *_):
        for item in items:
            if description.startswith("Epoch"):
                states = [
                    torch.load(path)["state"]["epoch"]["step"] if path.exists() else None
                    for path in (tmp_path / "checkpoint.pt", tmp_path / "checkpoint-1.pt")
                ]
                seen.append(tuple(states))
            yield item

    run = Run(device=CPU, keeping=Keeping(folder=tmp_path, seconds=0), track=track)
    fit(tiny(), examples(), SHORT.replace(epochs=1), run)
    assert seen == [(None, None), (1, None), (2, 1)]
    rare = tmp_path / "rare"
    with pytest.raises(StopError):
        fit(
            tiny(),
            examples(),
            SHORT,
            Run(device=CPU, keeping=Keeping(folder=rare), on_record=stop_after(1)),
        )
    assert {path.name for path in rare.iterdir()} == {"checkpoint.pt"}, "the end of an epoch alone"


# ------------------------------------------------------------------------------ damaged checkpoints


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with the checkpoint of a step within the second epoch, and before it that of the first epoch's end."""
    folder = tmp_path_factory.mktemp("kept")
    stopped(Run(device=CPU, seed=4, keeping=Keeping(folder=folder), track=signalled(5)))
    return folder


@pytest.fixture
def broken(kept, tmp_path):
    """A copy of it, to be damaged."""
    shutil.copytree(kept, tmp_path / "broken")
    return tmp_path / "broken"


def first(content, part):
    """Return the first tensor of a part of a state, by its name."""
    return next((name, value) for name, value in content["state"][part].items() if value.is_floating_point())


def reshape(part):
    return lambda c: c["state"][part].update({first(c, part)[0]: torch.zeros(3)})


def retype(part):
    return lambda c: c["state"][part].update({first(c, part)[0]: first(c, part)[1].double()})


def spoil(part, value=torch.nan):
    return lambda c: first(c, part)[1].view(-1)[:1].fill_(value)


def put(*path):
    """Return an edit that puts the last of ``path`` where the others lead."""

    def edit(content):
        *way, name, value = path
        inner = content["state"]
        for step in way:
            inner = inner[step]
        inner[name] = value

    return edit


DAMAGE = {
    "no state": lambda c: c.pop("state"),
    "a state that is a list": lambda c: c.update(state=[1]),
    "settings that are a list": lambda c: c.update(settings=["lr"]),
    "settings that are numbers": lambda c: c["settings"].update(lr=0.001),
    "no settings": lambda c: c.pop("settings"),
    "a place that is none": lambda c: c.update(place=None),
    "a tuple": lambda c: c["state"].update(best=(1, 2)),
    "no classifier": lambda c: c["state"].pop("classifier"),
    "one part more": lambda c: c["state"].update(more=1),
    "a classifier that is a tensor": put("classifier", torch.zeros(3)),
    "a weight less": lambda c: c["state"]["classifier"].pop(first(c, "classifier")[0]),
    "a weight more": put("classifier", "more", torch.zeros(1)),
    "a weight of another shape": reshape("classifier"),
    "a weight of another type": retype("classifier"),
    "a weight that is no number": spoil("classifier"),
    "an endless weight": spoil("classifier", torch.inf),
    "best that is a list": put("best", []),
    "best that is empty": put("best", {}),
    "best of another shape": reshape("best"),
    "best that is no number": spoil("best"),
    "an optimizer that is a list": put("optimizer", []),
    "an optimizer of other parameters": put("optimizer", 99, {}),
    "an optimizer with names": lambda c: put("optimizer", "0", c["state"]["optimizer"][0])(c),
    "an optimizer that knows less": put("optimizer", 0, {}),
    "moments of another shape": put("optimizer", 0, "exp_avg", torch.zeros(2)),
    "moments that are no tensor": put("optimizer", 0, "exp_avg", 0.5),
    "moments that are no number": lambda c: c["state"]["optimizer"][0]["exp_avg"].fill_(torch.nan),
    "negative squares": lambda c: c["state"]["optimizer"][0]["exp_avg_sq"].sub_(1),
    "steps that are a text": put("optimizer", 0, "step", "3"),
    "a history that is no list": put("records", {}),
    "a history of numbers": put("records", [1, 2]),
    "a record with a field more": put("records", 0, "more", 1),
    "a record with a field less": lambda c: c["state"]["records"][0].pop("lr"),
    "a record with a text for a number": put("records", 0, "val_loss", "0.1"),
    "a record with no number": put("records", 0, "val_loss", math.nan),
    "a record of another epoch": put("records", 0, "epoch", 2),
    "no best record": put("records", 0, "best", False),
    "records beyond the last epoch": lambda c: put("records", c["state"]["records"] * 9)(c),
    "an epoch that is a number": put("epoch", 2),
    "an epoch with a part less": lambda c: c["state"]["epoch"].pop("total"),
    "a step beyond the epoch": put("epoch", "step", 4),
    "a step before the first": put("epoch", "step", -1),
    "a step that is true": put("epoch", "step", True),
    "a total that is no number": put("epoch", "total", torch.tensor(torch.nan)),
    "a total of another shape": put("epoch", "total", torch.zeros(5)),
    "seconds that are none": put("epoch", "seconds", None),
    "a generator of zeros": put("epoch", "generator", torch.zeros(5056, dtype=torch.uint8)),
    "half a generator": put("epoch", "generator", torch.zeros(9, dtype=torch.uint8)),
    "no torch generator": put("epoch", "random", {}),
    "a torch generator of floats": put("epoch", "random", "cpu", torch.zeros(5056)),
    "no format": lambda c: c.pop("format"),
    "a newer format": lambda c: c.update(format=99),
    "a format that is true": lambda c: c.update(format=True),
}
SILENT = {
    "no digest": lambda c: c.pop("digest"),
    "another weight": spoil("classifier", 0.5),
    "another moment": lambda c: c["state"]["optimizer"][0]["exp_avg"].mul_(2),
    "another score": put("records", 0, "val_auc", 0.5),
    "another total": put("epoch", "total", torch.tensor(1.0)),
    "another step": put("epoch", "step", 1),
    "other settings": lambda c: c["settings"].update(lr="0.5"),
}


@pytest.mark.parametrize(
    ("edit", "hashed"),
    [*((edit, True) for edit in DAMAGE.values()), *((edit, False) for edit in SILENT.values())],
    ids=[*DAMAGE, *SILENT],
)
def test_what_is_no_checkpoint_of_the_run_is_refused_in_words(broken, edit, hashed):
    (broken / "checkpoint-1.pt").unlink()
    edit_checkpoint(broken / "checkpoint.pt", edit, hashed=hashed)
    with pytest.raises(ModelError, match=r"checkpoint.pt is (damaged|of another version)") as raised:
        fit(tiny(), examples(), SHORT, Run(device=CPU, seed=4, keeping=Keeping(folder=broken)))
    assert "--overwrite" in raised.value.hint


def test_an_edit_that_changes_nothing_is_not_seen(trained, broken):
    edit_checkpoint(broken / "checkpoint.pt", lambda _: None)
    edit_checkpoint(broken / "checkpoint.pt", lambda _: None, hashed=False)
    network, notes = tiny(seed=99), []
    keeping = Keeping(folder=broken, note=notes.append)
    fit(network, examples(), SHORT, Run(device=CPU, seed=4, keeping=keeping))
    assert "within the next one after 2 steps, from checkpoint.pt" in notes[0]
    assert same(trained[0].state_dict(), network.state_dict())


CUT = {
    "empty": lambda _: b"",
    "cut": lambda raw: raw[: len(raw) // 2],
    "zeros": lambda raw: bytes(len(raw)),
    "zeros in the middle": lambda raw: raw[:1000] + bytes(2000) + raw[3000:],
    "text": lambda _: b"not a checkpoint",
    "nonsense": lambda _: b"PK\3\4 nonsense",
}


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_where_the_newest_checkpoint_is_damaged_the_one_before_is_taken(trained, broken, cut):
    path, warnings, notes = broken / "checkpoint.pt", [], []
    path.write_bytes(cut(path.read_bytes()))
    keeping = Keeping(folder=broken, note=notes.append, warn=warnings.append)
    network = tiny(seed=99)
    fit(network, examples(), SHORT, Run(device=CPU, seed=4, keeping=keeping))
    assert len(warnings) == 1
    assert "checkpoint.pt is damaged" in warnings[0]
    assert "Going on from the one before, checkpoint-1.pt" in warnings[0]
    assert notes == ["going on after epoch 1 of 3, from checkpoint-1.pt"]
    assert same(trained[0].state_dict(), network.state_dict())


def test_where_both_are_damaged_the_run_starts_anew_only_when_asked(trained, broken):
    for name in ("checkpoint.pt", "checkpoint-1.pt"):
        edit_checkpoint(broken / name, put("classifier", {}))
    run = Run(device=CPU, seed=4, keeping=Keeping(folder=broken))
    with pytest.raises(ModelError, match=r"checkpoint.pt is damaged") as raised:
        fit(tiny(), examples(), SHORT, run)
    assert "start again with --overwrite" in raised.value.hint
    warnings, network = [], tiny()
    keeping = Keeping(folder=broken, overwrite=True, warn=warnings.append)
    fit(network, examples(), SHORT, dataclasses.replace(run, keeping=keeping))
    assert "Starting anew" in warnings[0]
    assert same(trained[0].state_dict(), network.state_dict())


def test_a_kill_between_the_names_leaves_the_one_before(trained, broken):
    (broken / "checkpoint.pt").unlink()
    network = tiny(seed=99)
    fit(network, examples(), SHORT, Run(device=CPU, seed=4, keeping=Keeping(folder=broken)))
    assert same(trained[0].state_dict(), network.state_dict())


def test_a_flipped_bit_never_gives_other_numbers(tmp_path):
    def keeper():
        return Keeper(keeping=Keeping(folder=tmp_path, warn=lambda _: None), settings={"lr": "1"})

    states = [{"value": torch.arange(20.0) + number, "names": ["a", 1, None]} for number in (0, 1)]
    for state in states:
        keeper().save(state)
    path, found = tmp_path / "checkpoint.pt", []
    raw, generator = path.read_bytes(), np.random.default_rng(0)
    for place in generator.permutation(len(raw))[:400]:
        flipped = bytearray(raw)
        flipped[place] ^= 1 << generator.integers(8)
        path.write_bytes(flipped)
        state, name = keeper().find(lambda _: None)
        expected = states[name == "checkpoint.pt"]
        assert torch.equal(state["value"], expected["value"])
        assert state["names"] == expected["names"]
        found.append(name)
    assert {*found} == {"checkpoint.pt", "checkpoint-1.pt"}, "some bytes only fill gaps"


def test_a_flipped_bit_within_a_tensor_does_not_fit_its_checksum(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.full((1000,), 7.0)}, path)
    check_zip(path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(torch.full((1000,), 7.0).numpy().tobytes()) + 100] ^= 1
    path.write_bytes(raw)
    assert torch.load(path)["weight"].unique().numel() == 2, "torch itself does not see it"
    with pytest.raises(ModelError, match=r"weights.pth is damaged: weights/data/0 does not fit its checksum"):
        check_zip(path)


def test_a_checkpoint_that_was_made_elsewhere_is_taken_and_said(broken):
    edit_checkpoint(broken / "checkpoint.pt", lambda c: c["place"].update(torch="1.0", threads="64"))
    warnings = []
    run = Run(device=CPU, seed=4, keeping=Keeping(folder=broken, warn=warnings.append))
    fit(tiny(), examples(), SHORT, run)
    assert len(warnings) == 1
    assert f"torch was 1.0, now {torch.__version__}; threads was 64, now " in warnings[0]


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(broken):
    path = broken / "checkpoint.pt"
    path.unlink()
    path.mkdir()  # root may read everything
    run = Run(device=CPU, seed=4, keeping=Keeping(folder=broken, overwrite=True))
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        fit(tiny(), examples(), SHORT, run)
    assert (broken / "checkpoint-1.pt").exists()


def test_a_run_with_memory_for_one_batch_too_few_says_so(monkeypatch):
    for lack, words in [(lambda: torch.empty(10**15), "computer"), (lambda: np.empty(10**15), "computer")]:
        monkeypatch.setattr(Tiny, "forward", lambda *_, lack=lack: lack())
        with pytest.raises(CryoclassError, match=f"The {words} has too little memory") as raised:
            fit(tiny(), examples(), SHORT, Run(device=CPU))
        assert "--batch-size" in raised.value.hint
    monkeypatch.setattr(Tiny, "forward", lambda *_: torch.zeros(2) + torch.zeros(3))
    with pytest.raises(RuntimeError, match="must match"):
        fit(tiny(), examples(), SHORT, Run(device=CPU))


def test_freezing_fits_the_head_alone():
    network = tiny()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fit_frozen(network, examples(), SHORT, Run(device=CPU))
    after = network.state_dict()
    assert {name.partition(".")[0] for name in after.keys() - before.keys()} == {"familiarity"}
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"heads.classify.weight", "heads.classify.bias"}


def test_a_lone_particle_in_the_last_batch_does_not_stop_batch_norm():
    data = examples()  # 24 to train: batches of 23 and 1
    history = fit(tiny(), data, SHORT.replace(epochs=1, batch_size=23), Run(device=CPU))
    assert np.isfinite(history.records[0].train_loss)


def test_bad_particles_are_left_out_with_their_reason():
    history = fit(tiny(), examples(bad={0, 3}), SHORT.replace(epochs=1), Run(device=CPU))
    assert history.skipped == {0: "box 0 is empty.", 3: "box 3 is empty."}
    assert 3 not in history.rows


def test_too_many_bad_particles_are_an_error():
    with pytest.raises(
        ParticleError, match=r"left for bar; 20 could not be read, the first in row 38: box 38"
    ):
        fit(tiny(), examples(bad=set(range(0, 40, 2))), SHORT, Run(device=CPU))
    with pytest.raises(ParticleError, match="left for validation"):
        fit(tiny(), examples(bad=set(range(3, 40, 5))), SHORT, Run(device=CPU))


def test_a_loss_that_explodes_is_an_error_and_never_a_checkpoint(tmp_path):
    data, run = examples(), Run(device=CPU, keeping=Keeping(folder=tmp_path))
    network = tiny()
    with torch.no_grad():
        network.head.weight.fill_(torch.inf)
    with pytest.raises(CryoclassError, match=r"epoch 1.*no longer a number") as raised:
        fit(network, data, SHORT, run)
    assert "--lr" in raised.value.hint
    assert not (tmp_path / "checkpoint.pt").exists()


def test_voxels_beyond_the_memory_budget_are_read_batch_by_batch_with_the_same_result(trained):
    network = tiny()
    fit(network, examples(), SHORT, Run(device=CPU, seed=4, memory=0))
    assert same(trained[0].state_dict(), network.state_dict())


def test_voxels_are_kept_within_the_memory_budget():
    toys, rows = Toys(10, bad={2}), np.arange(8)
    for memory, kept in ((8 * 4 * 8**3, True), (8 * 4 * 8**3 - 1, False)):
        boxes = read_boxes(toys, rows, memory, 1, lambda items, *_: iter(items))
        assert (boxes.stack is not None) == kept
        assert boxes.rows.tolist() == [7, 6, 5, 4, 3, 1, 0]  # the source's order
        batches = [torch.tensor([1, 0]), torch.tensor([5])]
        read = torch.cat([voxels for _, voxels in boxes.stream(batches)]).numpy()
        assert np.array_equal(read, toys.voxels[[6, 7, 1]])


def test_progress_is_told_within_every_epoch():
    seen = []

    def track(items, description, total=None, size=None):
        for item in items:
            seen.append((description, total, size(item) if size else 1))
            yield item

    fit(tiny(), examples(), SHORT.replace(epochs=1), Run(device=CPU, track=track))
    assert seen.count(("Reading particles", 40, 1)) == 40
    assert [entry for entry in seen if entry[0] == "Epoch 1/1"] == [("Epoch 1/1", 24, 8)] * 3


def test_recipe_of_the_paper():
    video, random = recipe("paper", "pretrained"), recipe("paper", "random")
    assert (video.epochs, video.lr, random.epochs, random.lr) == (30, 1e-4, 100, 1e-3)
    rates = [learning_rate(video, epoch) for epoch in (0, 14.9, 15, 21.9, 22, 29)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])
    assert learning_rate(random, 50) == pytest.approx(1e-4)
    assert learning_rate(random, 75) == pytest.approx(1e-5)
    assert (video.batch_size, video.weight_decay) == (32, 0)
    assert video.preparation.intensity == "unit"


def test_milestones_never_come_before_the_first_epoch_has_ended():
    assert learning_rate(recipe("paper", "pretrained").replace(epochs=1), 0.5) == pytest.approx(1e-4)


def test_one_cycle_rises_to_the_highest_rate_and_falls_to_nothing():
    rates = [learning_rate(SHORT.replace(epochs=100), epoch) for epoch in range(101)]
    assert max(rates) == rates[30] == SHORT.lr
    assert rates[0] == pytest.approx(SHORT.lr / 25)
    assert rates[100] == pytest.approx(0)
    assert rates == sorted(rates[:31]) + sorted(rates[31:], reverse=True)


def test_unknown_recipe_suggests_the_nearest():
    assert set(RECIPES) == {"paper", "quick", "few"}
    with pytest.raises(UsageError, match="papr") as raised:
        recipe("papr", "pretrained")
    assert "--recipe paper" in raised.value.hint

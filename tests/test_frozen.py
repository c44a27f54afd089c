"""``--freeze``: the head alone is fitted, on embeddings that are computed once."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import table
from network_helpers import edit_checkpoint, small_card
from sklearn.metrics import log_loss
from torch import nn

from cryoclass.backbones.spec import Backbone
from cryoclass.calibration import at_temperature
from cryoclass.classifier import Classifier, WholeModel
from cryoclass.errors import ModelError, ParticleError
from cryoclass.settings import Preparation, Recipe, Start, Training
from cryoclass.stopping import Stopped, signals_as_exits
from cryoclass.training.checkpoint import Keeping
from cryoclass.training.finetune import choose_recipe
from cryoclass.training.frozen import FREEDOMS, fit_frozen
from cryoclass.training.head import FREEDOM
from cryoclass.training.loop import LabelledBoxes, Run

CPU = torch.device("cpu")
RECIPE = Recipe(
    name="head",
    epochs=20,
    lr=1e-2,
    batch_size=8,
    preparation=Preparation(input_size=(8, 16, 16), intensity="standard"),
)


class Counting(Backbone):
    """A network whose embedding has numbers of very unlike size, and that counts what goes through it."""

    width = 16

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv3d(1, 16, 3, stride=2)
        self.register_buffer("sizes", 10.0 ** torch.linspace(-3, 3, 16))
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return self.convolution(x).relu().mean((2, 3, 4)) * self.sizes + self.sizes


class Toys:
    """Boxes of 8 voxels in noise: bars along z, and sheets across it."""

    angpix, box = 10.0, 8

    def __init__(self, count):
        generator = np.random.default_rng(7)
        self.labels = np.arange(count) % 2
        self.voxels = generator.normal(0, 0.5, (count, 8, 8, 8)).astype(np.float32)
        self.voxels[self.labels == 0, :, 3:5, 3:5] += 2
        self.voxels[self.labels == 1, 3:5] += 2
        self.order = np.arange(count)

    def __len__(self):
        return len(self.voxels)

    def read(self, index):
        return self.voxels[index]

    def fingerprint(self):
        return "toys"


def labelled(toys):
    parts = np.array(["train", "train", "train", "val", "test"])[np.arange(len(toys)) // 2 % 5]
    return LabelledBoxes(source=toys, labels=toys.labels, parts=parts, classes=("bar", "sheet"))


@pytest.fixture
def examples():
    return labelled(Toys(60))


def network():
    torch.manual_seed(1)
    classifier = Classifier("r3d10", 2)
    classifier.backbone, classifier.heads["classify"] = Counting(), nn.Linear(16, 2)
    return classifier


def test_each_particle_goes_through_the_backbone_once(examples):
    classifier = network()
    before = {name: value.clone() for name, value in classifier.backbone.state_dict().items()}
    history = fit_frozen(classifier, examples, RECIPE, Run(device=CPU))
    assert classifier.backbone.seen == 60
    assert all(torch.equal(value, before[name]) for name, value in classifier.backbone.state_dict().items())
    assert history.best.val_accuracy == 1


def stopping_after(step):
    """Return a track that sends this process SIGTERM while a batch is embedded, counted from 1."""

    def track(items, description, *_):
        for number, item in enumerate(items, 1):
            if description == "Embedding" and number == step:
                os.kill(os.getpid(), signal.SIGTERM)
            yield item

    return track


def test_a_run_that_is_stopped_embeds_no_particle_twice(examples, tmp_path):
    unbroken, broken, resumed = network(), network(), network()
    history = fit_frozen(unbroken, examples, RECIPE, Run(device=CPU))
    with pytest.raises(Stopped), signals_as_exits():
        fit_frozen(
            broken,
            examples,
            RECIPE,
            Run(device=CPU, keeping=Keeping(folder=tmp_path), track=stopping_after(3)),
        )
    assert broken.backbone.seen == 24
    notes = []
    again = fit_frozen(
        resumed, examples, RECIPE, Run(device=CPU, keeping=Keeping(folder=tmp_path, note=notes.append))
    )
    assert notes == ["going on after 24 of 60 embedded particles, from checkpoint.pt"]
    assert resumed.backbone.seen == 36
    assert again.records == history.records
    assert torch.equal(resumed.head.weight, unbroken.head.weight)
    assert np.array_equal(again.probabilities, history.probabilities)
    once_more = network()
    fit_frozen(once_more, examples, RECIPE, Run(device=CPU, keeping=Keeping(folder=tmp_path)))
    assert once_more.backbone.seen == 0
    assert torch.equal(once_more.head.weight, unbroken.head.weight)


def test_what_is_embedded_is_kept_by_time(examples, tmp_path):
    found = []

    def track(items, description, *_):
        for item in items:
            path = tmp_path / "checkpoint.pt"
            found.append(len(torch.load(path)["state"]["embedded"]) if path.exists() else 0)
            yield item
        assert description in ("Reading particles", "Embedding")

    fit_frozen(
        network(), examples, RECIPE, Run(device=CPU, keeping=Keeping(folder=tmp_path, seconds=0), track=track)
    )
    assert found == [0] * 60 + [0, 8, 16, 24, 32, 40, 48, 56]


@pytest.mark.parametrize(
    "damage",
    [
        torch.zeros(24, 15),
        torch.zeros(23, 16),
        torch.zeros(68, 16),
        torch.zeros(0, 16),
        torch.zeros(24, 16).double(),
        torch.zeros(24),
        torch.full((24, 16), torch.nan),
        [1.0, 2.0],
        None,
    ],
    ids=["width", "part of a batch", "too many", "none", "type", "axes", "nan", "no tensor", "nothing"],
)
def test_an_embedding_of_something_else_is_refused(examples, tmp_path, damage):
    with pytest.raises(Stopped), signals_as_exits():
        fit_frozen(
            network(),
            examples,
            RECIPE,
            Run(device=CPU, keeping=Keeping(folder=tmp_path), track=stopping_after(3)),
        )
    edit_checkpoint(tmp_path / "checkpoint.pt", lambda content: content["state"].update(embedded=damage))
    with pytest.raises(ModelError, match="is damaged") as raised:
        fit_frozen(network(), examples, RECIPE, Run(device=CPU, keeping=Keeping(folder=tmp_path)))
    assert "--overwrite" in raised.value.hint


def test_the_head_takes_plain_embeddings_in_the_end(examples):
    classifier = network()
    history = fit_frozen(classifier, examples, RECIPE, Run(device=CPU))
    card = small_card(classes=("bar", "sheet"), preparation=RECIPE.preparation)
    whole = WholeModel(classifier, card).eval()
    with torch.inference_mode():
        raw = torch.from_numpy(examples.source.voxels[history.rows])
        probabilities = whole(raw)["probabilities"].numpy()
    np.testing.assert_allclose(probabilities, history.probabilities, atol=1e-4)


def test_the_validation_particles_choose_the_freedom_and_the_simpler_of_equals():
    toys = Toys(60)
    toys.voxels += np.random.default_rng(1).normal(0, 2, toys.voxels.shape)  # so that not every head is right
    examples, told = labelled(toys), []
    history = fit_frozen(network(), examples, RECIPE, Run(device=CPU, on_record=told.append))
    assert tuple(record.freedom for record in history.records) == FREEDOMS
    assert told == [*history.records]
    ranks = [record.rank for record in history.records]
    assert history.best.rank == max(ranks)
    assert history.best is history.records[ranks.index(max(ranks))]
    val = examples.parts[history.rows] == "val"
    before = at_temperature(history.probabilities[val], 1 / history.trust.temperature)
    loss = log_loss(examples.labels[history.rows[val]], before)
    assert loss == pytest.approx(history.best.val_loss, rel=1e-4)
    losses = [record.train_loss for record in history.records]
    assert (np.diff(losses) < 0).all(), "the freer, the closer to the training particles"


def test_of_equal_heads_the_simplest_is_kept(examples):
    examples.source.voxels[:] = examples.source.voxels[0]  # nothing tells the classes apart
    history = fit_frozen(network(), examples, RECIPE, Run(device=CPU))
    assert history.best.freedom == FREEDOMS[0]


def test_who_cannot_choose_gets_the_usual_freedom(examples):
    history = fit_frozen(network(), examples, RECIPE, Run(device=CPU, keep_last=True))
    assert [record.freedom for record in history.records] == [FREEDOM]


def test_the_test_particles_play_no_part_and_those_of_validation_set_the_temperature_alone(examples):
    same, tested, other = network(), network(), network()
    fit_frozen(same, examples, RECIPE, Run(device=CPU, keep_last=True))
    examples.source.voxels[examples.parts == "test"] *= 100
    fit_frozen(tested, examples, RECIPE, Run(device=CPU, keep_last=True))
    for name, value in same.state_dict().items():
        assert torch.equal(value, tested.state_dict()[name]), name
    examples.source.voxels[examples.parts == "val"] *= -3
    fit_frozen(other, examples, RECIPE, Run(device=CPU, keep_last=True))
    ratio = other.head.weight / same.head.weight
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-3)


def test_an_embedding_that_is_not_finite_names_the_trouble(examples):
    classifier = network()
    with torch.no_grad():
        classifier.backbone.sizes[0] = torch.inf
    with pytest.raises(ParticleError, match="not finite"):
        fit_frozen(classifier, examples, RECIPE, Run(device=CPU))


def test_a_head_alone_has_the_preparation_of_its_recipe_and_no_epochs():
    start = Start(backbone="r3d10")
    alone, whole = choose_recipe(start, Training(freeze=True)), choose_recipe(start, Training())
    assert (alone.freeze, whole.freeze) == (True, False)
    assert alone.replace(freeze=False) == whole
    assert not Training(epochs=3, lr=0.5).idle
    assert not Training(freeze=True).idle
    words = Training(freeze=True, epochs=3, lr=0.5).idle
    assert [word.partition(" does nothing with --freeze")[0] for word in words] == ["--epochs 3", "--lr 0.5"]


# ------------------------------------------------------------------------------------ from end to end


@pytest.mark.usefixtures("here")
def test_a_frozen_run_writes_all_that_a_run_writes_and_says_little(cryoclass):
    argv = ("finetune", "Extract/particles.star", "--freeze", "--device", "cpu", "-o", "F")
    ran = cryoclass(*argv)
    assert ran.status == 0, ran.err
    assert len(ran.err.splitlines()) < 15
    history = [*csv.DictReader(Path("F/history.csv").read_text().splitlines())]
    assert [float(line["freedom"]) for line in history] == [*FREEDOMS]
    best = [line["freedom"] for line in history if line["best"] == "True"][-1]
    card = json.loads(Path("F/model.json").read_text())["training"]
    assert card["freedom"] == float(best)
    assert card["recipe"].keys() == {"name", "freeze", "batch_size", "preparation"}
    assert f"best freedom       {float(best):g}, of 0.001 to 100" in ran.out
    assert f"best freedom ({float(best):g})" in Path("F/report.html").read_text()
    assert json.loads(Path("F/metrics.json").read_text())["test"]["accuracy"] > 0.5
    assert set(table("F/predictions.star")["cryoclassSplit"]) == {"val", "test"}
    first = Path("F/model.safetensors").read_bytes()
    ran = cryoclass(*argv, "--resume")  # a job that is queued again
    assert ran.status == 0, ran.err
    assert Path("F/model.safetensors").read_bytes() == first
    assert cryoclass("predict", "Extract/particles.star", "--model", "F", "-o", "P").status == 0
    ran = cryoclass(*argv, "--overwrite", "--epochs", 5)
    assert ran.status == 0
    assert "warning: --epochs 5 does nothing with --freeze" in ran.err
    assert Path("F/model.safetensors").read_bytes() == first


@pytest.mark.parametrize(
    ("typed", "freeze", "shown"),
    [
        (None, True, "as-pretrained"),
        (None, False, "unit"),
        ("unit", True, "unit"),
    ],
)
def test_a_video_network_that_does_not_learn_is_shown_the_grey_values_of_its_training(typed, freeze, shown):
    recipe = choose_recipe(Start(backbone="r3d34-k400", intensity=typed), Training(freeze=freeze))
    assert recipe.preparation.intensity == shown
    assert (
        recipe.preparation.input_size
        == choose_recipe(Start(backbone="r3d34-k400"), Training()).preparation.input_size
    )

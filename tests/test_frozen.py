"""``--freeze``: the head alone is trained, on embeddings that are computed once."""

import numpy as np
import pytest
import torch
from network_helpers import small_card
from torch import nn

from cryoclass.backbones.spec import Backbone
from cryoclass.classifier import Classifier, WholeModel
from cryoclass.settings import Preparation, Recipe, Start, Training
from cryoclass.training.finetune import choose_recipe
from cryoclass.training.frozen import standardise
from cryoclass.training.loop import LabelledBoxes, Run, fit

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


@pytest.fixture
def examples():
    toys = Toys(60)
    parts = np.array(["train", "train", "train", "val", "test"])[np.arange(60) // 2 % 5]
    return LabelledBoxes(source=toys, labels=toys.labels, parts=parts, classes=("bar", "sheet"))


def network():
    torch.manual_seed(1)
    classifier = Classifier("r3d10", 2)
    classifier.backbone, classifier.heads["classify"] = Counting(), nn.Linear(16, 2)
    return classifier


def test_each_particle_goes_through_the_backbone_once(examples):
    classifier = network()
    before = {name: value.clone() for name, value in classifier.backbone.state_dict().items()}
    history = fit(classifier, examples, RECIPE, Run(device=CPU, freeze=True))
    assert classifier.backbone.seen == 60
    assert all(torch.equal(value, before[name]) for name, value in classifier.backbone.state_dict().items())
    assert history.epochs[-1].val_accuracy == 1


def test_the_head_takes_plain_embeddings_in_the_end(examples):
    classifier = network()
    history = fit(classifier, examples, RECIPE, Run(device=CPU, freeze=True))
    card = small_card(classes=("bar", "sheet"), preparation=RECIPE.preparation)
    whole = WholeModel(classifier, card).eval()
    with torch.inference_mode():
        raw = torch.from_numpy(examples.source.voxels[history.rows])
        probabilities = whole(raw)["probabilities"].numpy()
    np.testing.assert_allclose(probabilities, history.probabilities, atol=1e-4)


class StopError(Exception):
    """Stands for a kill or Ctrl-C."""


def test_a_resumed_run_gives_the_same_head(examples, tmp_path):
    def stop(record):
        if record.epoch == 7:
            raise StopError

    unbroken, broken, resumed = network(), network(), network()
    fit(unbroken, examples, RECIPE, Run(device=CPU, freeze=True))
    with pytest.raises(StopError):
        fit(broken, examples, RECIPE, Run(device=CPU, freeze=True, folder=tmp_path, on_epoch=stop))
    fit(resumed, examples, RECIPE, Run(device=CPU, freeze=True, folder=tmp_path, resume=True))
    assert torch.equal(resumed.head.weight, unbroken.head.weight)
    assert torch.equal(resumed.head.bias, unbroken.head.bias)


def test_numbers_that_never_change_stay_harmless():
    embedding = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 100.0, 0.0]
    )
    made = standardise(embedding, np.arange(10), np.arange(20), {})
    assert torch.equal(made.stack[:, 2], torch.zeros(20))
    torch.testing.assert_close(made.stack[:10, :2].std(0, correction=0), torch.ones(2))
    head = nn.Linear(3, 2)
    wanted = head(made.stack)
    made.unfold(head)
    torch.testing.assert_close(head(embedding), wanted, rtol=1e-4, atol=1e-4)


def test_a_head_alone_has_numbers_of_its_own_unless_the_user_has():
    start = Start(backbone="r3d10")
    alone, whole = choose_recipe(start, Training(freeze=True)), choose_recipe(start, Training())
    assert (alone.epochs, alone.lr) == (100, 1e-2)
    assert alone.replace(epochs=whole.epochs, lr=whole.lr) == whole
    assert choose_recipe(start, Training(freeze=True, epochs=3, lr=0.5)).replace(lr=1.0).epochs == 3

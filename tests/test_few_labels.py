"""A start that knows shapes already: the network in the package, the recipe for few labels, and embedding with no label."""

import contextlib
import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
from cli_helpers import SPECIES, table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from torch import nn

from cryoclass.backbones import packaged
from cryoclass.backbones.registry import facts_of_weights, load_backbone, spec
from cryoclass.calibration import at_temperature
from cryoclass.card import LearntFrom
from cryoclass.checks.fit import check_domain
from cryoclass.classifier import Classifier
from cryoclass.cli import main
from cryoclass.clustering import group, points_of
from cryoclass.embedding import fit_space, likeness, project
from cryoclass.errors import ModelError
from cryoclass.preparation import Preparer
from cryoclass.records import RECORD
from cryoclass.settings import Augmentation, Preparation, Recipe, Start, Training
from cryoclass.sources import take_sample
from cryoclass.training.augmentation import draw, resample
from cryoclass.training.checkpoint import Keeping
from cryoclass.training.finetune import choose_recipe
from cryoclass.training.head import FREEDOM, fit_head
from cryoclass.training.loop import LabelledBoxes, Run, fit
from cryoclass.training.recipes import recipe

CPU = torch.device("cpu")
FEW = recipe("few", "pretrained")
SMALL = Preparation(input_size=(16, 16, 16), intensity="standard")
PAIRS = ((2, 3), (2, 4), (3, 4))  # axes that a half turn reverses


class Toys:
    """Boxes of 8 voxels in noise: bars along z, and sheets across it."""

    def __init__(self, count=40, angpix=40.0, brightness=2.0):
        self.angpix, self.box = angpix, 8
        generator = np.random.default_rng(7)
        self.labels = np.arange(count) % 2
        self.voxels = generator.normal(0, 0.5, (count, 8, 8, 8)).astype(np.float32)
        self.voxels[self.labels == 0, :, 3:5, 3:5] += brightness
        self.voxels[self.labels == 1, 3:5, 2:6, 2:6] += brightness
        self.order = np.arange(count)

    def __len__(self):
        return len(self.voxels)

    def read(self, index):
        return self.voxels[index]

    def fingerprint(self):
        return "toys"


@pytest.fixture(scope="module")
def examples():
    toys = Toys()
    parts = np.array(["train", "train", "train", "val", "test"] * (len(toys) // 5))
    return LabelledBoxes(source=toys, labels=toys.labels, parts=parts, classes=("bar", "sheet"))


def network(seed=0):
    torch.manual_seed(seed)
    return Classifier("res32", 2)


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, before):
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def short(**changes) -> Recipe:
    return FEW.replace(**{"preparation": SMALL, "epochs": 2} | changes)


# -------------------------------------------------------------------------------------- what is usual


def test_who_names_no_backbone_gets_weights_that_need_no_download():
    assert spec(Start().backbone).packaged


@pytest.mark.parametrize(
    ("start", "wish", "name"),
    [
        (Start(backbone="res32-species"), "auto", "few"),
        (Start(backbone="res32-species", init="random"), "auto", "paper"),
        (Start(backbone="res32-species"), "quick", "quick"),
        (Start(backbone="r3d34-k400"), "auto", "paper"),
        (Start(backbone="r3d10"), "auto", "paper"),
        (Start(backbone="r3d10"), "few", "few"),
    ],
)
def test_the_usual_recipe_is_the_one_that_suits_the_start(start, wish, name):
    assert choose_recipe(start, Training(recipe=wish)).name == name


@pytest.mark.parametrize("wish", ["few", "paper", "quick"])
def test_a_network_for_boxes_has_a_size_and_grey_values_of_its_own(wish):
    start = Start(backbone="res32-species")
    made = choose_recipe(start, Training(recipe=wish)).preparation
    assert (made.input_size, made.intensity) == ((32, 32, 32), "standard")
    own = choose_recipe(start.replace(input_size=(16, 24, 24), intensity="unit"), Training(recipe=wish))
    assert (own.preparation.input_size, own.preparation.intensity) == ((16, 24, 24), "unit")


# ----------------------------------------------------------------------------------------- head first


@pytest.mark.parametrize("natural_units", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_fitted_head_is_a_logistic_regression_on_plain_embeddings(classes, natural_units):
    generator = np.random.default_rng(classes)
    targets = (np.arange(90) % 5).clip(max=classes - 1)  # the last class has the most particles
    sizes = 10.0 ** np.linspace(-1, 1, 6)
    embedding = (generator.normal(size=(90, 6)) + targets[:, None] / 2) * sizes + sizes
    embedding = embedding.astype(np.float32)
    space, layer = fit_space(embedding[:60], natural_units=natural_units), nn.Linear(6, classes)
    features = space.place(embedding)
    head = fit_head(features[:60], targets[:60])
    head.write_to(layer, space)

    scaler = StandardScaler(with_std=not natural_units).fit(embedding[:60])
    wanted = LogisticRegression(C=FREEDOM, max_iter=1000).fit(scaler.transform(embedding[:60]), targets[:60])
    probabilities = wanted.predict_proba(scaler.transform(embedding))
    np.testing.assert_allclose(head.probabilities(features), probabilities, atol=2e-3)
    found = layer(torch.from_numpy(embedding)).softmax(1).detach().numpy()
    np.testing.assert_allclose(found, probabilities, atol=2e-3)
    assert head.loss(features[:60], targets[:60]) == pytest.approx(
        log_loss(targets[:60], probabilities[:60]), abs=2e-3
    )


def test_only_sharpened_weights_are_in_natural_units():
    assert load_backbone("res32-species").facts.natural_units
    assert not load_backbone("res32").facts.natural_units
    assert not load_backbone("res32-species", init="random").facts.natural_units


def test_the_head_alone_stays_where_no_later_epoch_is_better(examples):
    classifier, told = network(), []
    before = copied(classifier.backbone)
    history = fit(classifier, examples, short(lr=1.0), Run(device=CPU, on_record=told.append))
    assert [record.epoch for record in history.records] == [0, 1, 2]
    assert told == [*history.records]
    assert history.best.epoch == 0, "a learning rate of 1 spoils everything"
    assert not changed(classifier.backbone, before)
    val = examples.parts[history.rows] == "val"
    labels = examples.labels[history.rows[val]]
    temperature = history.trust.temperature
    said = at_temperature(history.probabilities[val], 1 / temperature)
    assert log_loss(labels, said) == pytest.approx(history.records[0].val_loss, rel=1e-4)
    train = examples.parts == "train"
    with torch.inference_mode():
        preparer, raw = Preparer(SMALL), torch.from_numpy(examples.source.voxels[train])
        said = classifier.finish(classifier.eval()(preparer(raw), preparer.grey(raw)))
    loss = log_loss(examples.labels[train], at_temperature(said["probabilities"].numpy(), 1 / temperature))
    assert loss == pytest.approx(history.records[0].train_loss, rel=1e-2), "the head takes plain embeddings"


@pytest.mark.parametrize(("head_first", "epochs"), [(False, [1]), (True, [0, 1])])
def test_the_head_is_fitted_first_only_where_the_recipe_says_so(examples, head_first, epochs):
    made = short(head_first=head_first, epochs=1)
    history = fit(network(), examples, made, Run(device=CPU))
    assert [record.epoch for record in history.records] == epochs


class StopError(Exception):
    """Stands for a kill or Ctrl-C."""


def test_a_resumed_run_fits_the_head_once(examples, tmp_path):
    def stop(record):
        if record.epoch == 1:
            raise StopError

    unbroken, broken, resumed = network(), network(), network(9)
    history = fit(unbroken, examples, short(), Run(device=CPU))
    with pytest.raises(StopError):
        fit(broken, examples, short(), Run(device=CPU, keeping=Keeping(folder=tmp_path), on_record=stop))
    seen = []
    run = Run(device=CPU, keeping=Keeping(folder=tmp_path), on_record=seen.append)
    again = fit(resumed, examples, short(), run)
    assert [record.epoch for record in seen] == [2]
    assert again.records == history.records
    assert not changed(resumed, unbroken.state_dict())


@pytest.mark.parametrize("freeze_norm", [True, False])
def test_freeze_norm_leaves_the_statistics_as_they_are(examples, freeze_norm):
    classifier = network()
    before = copied(classifier.backbone)
    fit(
        classifier,
        examples,
        short(head_first=False, epochs=1, freeze_norm=freeze_norm),
        Run(device=CPU),
    )
    moved = changed(classifier.backbone, before)
    assert "conv1.weight" in moved
    assert any("running" in name for name in moved) is not freeze_norm


# ----------------------------------------------------------------------------------------- half turns


def test_half_turns_draw_the_four_turns_that_keep_the_wedge_and_no_mirror():
    still = Augmentation(probability=0.0, half_turns=True)
    drawn = draw(4000, still, torch.Generator().manual_seed(0))
    plane, z = drawn.plane[:, :, :2], torch.where(drawn.mirror_z, -1.0, 1.0)
    found = torch.stack([plane[:, 0, 0], plane[:, 1, 1], z], dim=1)
    assert torch.equal(plane, torch.diag_embed(found[:, :2])), "x stays x and y stays y"
    assert torch.equal(found.prod(dim=1), torch.ones(4000)), "the determinant is 1: hands stay hands"
    turns, counts = torch.unique(found, dim=0, return_counts=True)
    assert len(turns) == 4
    assert (counts / 4000).tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_the_recipe_for_few_labels_mirrors_no_box():
    drawn = draw(500, FEW.augmentation, torch.Generator().manual_seed(1))
    hands = torch.linalg.det(drawn.plane[:, :, :2]) * torch.where(drawn.mirror_z, -1, 1)
    assert (hands > 0).all()


def test_what_is_drawn_is_a_half_turn_of_the_box():
    box = torch.randn(1, 1, 8, 12, 12, generator=torch.Generator().manual_seed(2))
    drawn = draw(40, Augmentation(probability=0.0, half_turns=True), torch.Generator().manual_seed(3))
    made = resample(box.expand(40, -1, -1, -1, -1), drawn, Preparation(input_size=(8, 12, 12)))
    wanted = [box, *(box.flip(axes) for axes in PAIRS)]
    seen = [
        next(n for n, turned in enumerate(wanted) if torch.allclose(one, turned[0], atol=1e-5))
        for one in made
    ]
    assert set(seen) == {0, 1, 2, 3}


@torch.inference_mode()
def test_what_res32_says_of_a_box_depends_on_no_other_box():
    backbone = load_backbone("res32-species").eval()
    batch = torch.randn(3, 1, 32, 32, 32, generator=torch.Generator().manual_seed(4))
    together, alone = backbone(batch), torch.cat([backbone(box[None]) for box in batch])
    assert together.shape == (3, backbone.width)
    assert torch.allclose(together, alone, atol=1e-4 * float(alone.abs().mean()))


# ------------------------------------------------------------------------------ weights in the package


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A copy of the weights in the package, to be damaged."""
    shutil.copytree(packaged.FOLDER, tmp_path / "packaged")
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "packaged")
    return tmp_path / "packaged"


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("safetensors", b"other", "is not the file that its card describes"),
        ("safetensors", None, "cannot be read: No such file"),
        ("json", b"{", "is not valid JSON"),
        ("json", None, "cannot be read"),
        ("json", b"{}", "is missing"),
    ],
)
def test_damaged_weights_in_the_package_are_refused(folder, file, content, says):
    load_backbone("res32-species")
    path = folder / f"res32-species.{file}"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ModelError, match=says) as raised:
        load_backbone("res32-species")
    assert raised.value.hint == "Install cryoclass again."


def test_boxes_unlike_those_that_it_has_learnt_from_are_named():
    learnt_from = facts_of_weights("res32-species").learnt_from

    def said(toys, contrast, learnt_from=learnt_from):
        found = check_domain(toys, contrast, "mine", learnt_from, spec("res32-species").resolve())
        return [(finding.level, f"{finding.words}. {finding.way_out}") for finding in found]

    [(level, _)] = said(Toys(angpix=40), "bright")  # 10 A in its own voxels
    assert level == "ok"
    [(level, words)] = said(Toys(angpix=40), "unknown")
    assert level == "unknown", "what could not be told is never ok"
    assert "could not be told" in words
    [(level, words)] = said(Toys(angpix=8), "unknown")
    assert level == "warning"
    assert "mine sees these boxes in voxels of 2 A" in words
    assert "boxes of 128 to 512 A" in words
    dark = take_sample(Toys(angpix=40, brightness=-2)).contrast
    [(level, words)] = said(Toys(angpix=40, brightness=-2), dark)
    assert level == "warning"
    assert "look dark" in words
    assert "--invert yes" in words
    assert len(said(Toys(angpix=8, brightness=-2), dark)) == 2
    assert said(Toys(angpix=8, brightness=-2), dark, LearntFrom()) == []


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("command", ["embed", "finetune"])
def test_commands_warn_of_such_boxes_where_the_weights_of_the_package_are_used(cryoclass, command):
    argv = (command, "Extract/particles.star", "--invert", "yes", "--device", "cpu")
    argv += ("--map", "pca") if command == "embed" else ("--epochs", 1)
    ran = cryoclass(*argv, "-o", "A")
    assert ran.status == 0, ran.err
    assert "warning: these particles look dark, and res32-species has learnt from bright ones" in ran.err
    own = packaged.FOLDER / "res32-species.safetensors"
    ran = cryoclass(*argv, "--backbone", "res32", "--weights", own, "-o", "B")
    assert ran.status == 0, ran.err
    assert "learnt from" not in ran.err


# ------------------------------------------------------------------------------------ from end to end


@pytest.fixture(scope="module")
def tuned(extracted, tmp_path_factory):
    """A model folder of few epochs, made without naming a network or a recipe."""
    folder = tmp_path_factory.mktemp("tuned") / "Few"  # a new one: a worker may come back to this module
    with contextlib.chdir(extracted.root):
        argv = ["finetune", "Extract/particles.star", "--device", "cpu", "--epochs", "2", "-o", str(folder)]
        assert main(argv) == 0
    return folder


def test_finetune_on_a_cpu_takes_the_network_of_the_package_and_its_recipe(tuned):
    card = json.loads((tuned / "model.json").read_text())
    assert card["backbone"] == card["training"]["start"]["backbone"] == "res32-species"
    assert card["training"]["recipe"]["name"] == "few"
    assert card["training"]["epochs"] == 2
    assert card["preparation"]["input_size"] == [32, 32, 32]
    with (tuned / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [line["epoch"] for line in history] == ["0", "1", "2"]
    assert float(history[0]["lr"]) == 0 < float(history[1]["lr"])
    best = [line["epoch"] for line in history if line["best"] == "True"]
    assert str(card["training"]["best_epoch"]) == best[-1]


@pytest.mark.usefixtures("here")
def test_an_exported_model_embeds_as_its_folder_does(cryoclass, tuned):
    ran = cryoclass("export", tuned, "-o", "model.onnx")
    assert ran.status == 0, ran.err
    assert "the same class for every box" in ran.out
    for engine in (("--onnx", "model.onnx"), ("--model", tuned)):
        argv = ("embed", "Extract/particles.star", *engine, "--device", "cpu", "--map", "pca")
        assert cryoclass(*argv, "-o", engine[0].strip("-")).status == 0
    onnx, model = (np.load(Path(name) / "embeddings.npy") for name in ("onnx", "model"))
    np.testing.assert_allclose(onnx, model, atol=1e-3 * np.abs(model).mean())


# -------------------------------------------------------------------------------- with no label at all

EMBED = ("embed", "Extract/particles.star", "--device", "cpu", "--map", "pca")


def rankings(folder: str):
    return table(Path(folder) / "ranked.star"), table(Path(folder) / "particles.star")


def cells(frame, columns):
    """Return columns, without the folders of tomograms: their paths are written anew where they would lead nowhere."""
    names = frame["rlnMicrographName"].map(lambda name: Path(name).name)
    return frame[columns].assign(rlnMicrographName=names)


@pytest.mark.usefixtures("here")
def test_embed_needs_no_model(cryoclass, extracted):
    ran = cryoclass(*EMBED, "--clusters", 3, "-o", "E")
    assert ran.status == 0, ran.err
    assert "backbone: res32-species" in ran.err
    assert "warning" not in ran.err
    assert {path.name for path in Path("E").iterdir()} == {
        *(
            "embeddings.npy",
            "clusters.csv",
            "particles.star",
            "embedding.html",
            "embedding.png",
            "skipped.csv",
            "outputs",
            RECORD,
        )
    }
    embedding = np.load("E/embeddings.npy")
    assert embedding.shape == (36, spec("res32-species").width)
    assert np.isfinite(embedding).all()
    before, after = table(extracted.particles), table(Path("E/particles.star"))
    assert cells(after, before.columns).equals(cells(before, before.columns))
    assert set(after["cryoclassCluster"]) == {1, 2, 3}
    assert "cryoclassLikeness" not in after


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("row", [1, 20])
def test_like_ranks_by_likeness_to_a_row(cryoclass, extracted, row):
    ran = cryoclass(*EMBED, "--like", row, "-o", "E")
    assert ran.status == 0, ran.err
    assert re.search(r"most alike first +E/ranked.star", ran.out)
    before = table(extracted.particles)
    ranked, whole = rankings("E")
    assert ranked["rlnImageName"][0] == before["rlnImageName"][row - 1]
    assert ranked["cryoclassLikeness"][0] == pytest.approx(1, abs=1e-3)
    assert (ranked["cryoclassLikeness"].diff()[1:] <= 0).all()
    assert ranked["cryoclassLikeness"].min() < 0.5
    assert [*ranked.columns] == [*before.columns, "cryoclassLikeness"]
    by_image = ranked.set_index("rlnImageName").loc[before["rlnImageName"]].reset_index()
    same = cells(by_image, before.columns).equals(cells(before, before.columns))
    assert same, "every row once, and nothing lost"
    assert list(by_image["cryoclassLikeness"]) == list(whole["cryoclassLikeness"])
    assert "optics" in starfile.read("E/ranked.star", always_dict=True)


@pytest.mark.usefixtures("here")
def test_like_may_be_given_several_times(cryoclass, extracted):
    before = table(extracted.particles)
    rows = [n for n, label in enumerate(before["cryoclassLabel"], 1) if label == SPECIES[1]][:3]
    several = [word for row in rows for word in ("--like", row)]
    assert cryoclass(*EMBED, *several, "-o", "E").status == 0
    alike = table(Path("E/particles.star"))["cryoclassLikeness"]
    chosen = alike[[row - 1 for row in rows]]
    assert chosen.min() > alike.median()


@pytest.mark.usefixtures("here")
def test_query_ranks_by_likeness_to_another_table(cryoclass, extracted, tuned):
    blocks = starfile.read(extracted.particles)
    few = blocks["particles"].iloc[[4, 30]].drop(columns="cryoclassLabel")
    starfile.write({"optics": blocks["optics"], "particles": few}, "few.star")
    for model in ((), ("--model", tuned)):
        for folder, wish in (("L", ("--like", 5, "--like", 31)), ("Q", ("--query", "few.star"))):
            ran = cryoclass(*EMBED, *model, *wish, "--overwrite", "-o", folder)
            assert ran.status == 0, ran.err
        (like, _), (query, _) = rankings("L"), rankings("Q")
        found = query.set_index("rlnImageName")["cryoclassLikeness"]
        wanted = like.set_index("rlnImageName")["cryoclassLikeness"]
        np.testing.assert_allclose(found.loc[wanted.index], wanted, atol=2e-4)


@pytest.mark.usefixtures("here")
def test_what_cannot_be_read_is_not_ranked(cryoclass, extracted):
    blocks = starfile.read(extracted.particles)
    blocks["particles"].loc[2, "rlnImageName"] = "gone.mrc"
    starfile.write(blocks, "gaps.star")
    argv = ("embed", "gaps.star", "--device", "cpu", "--map", "pca", "--like", 1, "-o", "E")
    ran = cryoclass(*argv)
    assert ran.status == 0, ran.err
    ranked, whole = rankings("E")
    assert len(ranked) == 35
    assert "gone.mrc" not in set(ranked["rlnImageName"])
    assert whole["cryoclassLikeness"][2] == -1


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("backbone", "natural_units"), [("res32-species", True), ("r3d10", False)])
def test_map_clusters_and_ranking_of_one_run_see_one_space(cryoclass, backbone, natural_units):
    network = ("--backbone", backbone, "--input-size", 16, 16, 16)
    argv = (*EMBED, *network, "--clusters", 3, "--like", 4, "-o", "E")
    ran = cryoclass(*argv)
    assert ran.status == 0, ran.err
    embedding, written = np.load("E/embeddings.npy"), table(Path("E/particles.star"))
    space = fit_space(embedding, natural_units=natural_units)
    features = space.place(embedding)
    assert (
        list(written["cryoclassCluster"] - 1) == group(points_of(features, 0), "cosine", [3], 0)[0].tolist()
    )
    alike = likeness(features, features[[3]])
    np.testing.assert_allclose(written["cryoclassLikeness"], alike, atol=1e-4)
    places = written[["cryoclassMapX", "cryoclassMapY"]].to_numpy()
    np.testing.assert_allclose(places, project(features, "pca", 0), atol=1e-4)

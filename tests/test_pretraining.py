"""Pre-training on species without end."""

import csv
import dataclasses
import hashlib
import json
import math
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from network_helpers import edit_checkpoint
from torch import nn

from cryoclass import PretrainRequest, pretrain
from cryoclass.backbones.registry import load_backbone, spec
from cryoclass.backbones.res32 import Res32
from cryoclass.backbones.spec import Backbone
from cryoclass.errors import CryoclassError, ModelError, OutputError, UsageError
from cryoclass.preparation import Preparer
from cryoclass.pretraining import loop, retrieval, shape
from cryoclass.pretraining import sharpen as sharpening
from cryoclass.pretraining.batches import snr_at
from cryoclass.pretraining.loop import PretrainingRun, learning_rate, period_of
from cryoclass.pretraining.objective import Tasks, contrastive_loss
from cryoclass.pretraining.own import altered, reversed_about_centre
from cryoclass.pretraining.shape import teach_shape
from cryoclass.progress import Listener
from cryoclass.records import RECORD
from cryoclass.settings import (
    BoxOrigin,
    Invention,
    Learner,
    NetworkInput,
    Preparation,
    Pretraining,
    Yardsticks,
)
from cryoclass.simulation import optics
from cryoclass.stopping import Stopped
from cryoclass.training.checkpoint import Keeping

CPU = torch.device("cpu")
FILES = {
    "backbone.safetensors",
    "backbone.json",
    "history.csv",
    "times.csv",
    "checkpoint.pt",
    "checkpoint-1.pt",
}
# Every short period ends with a score, and every run begins with a spread; few species are enough for them here.
FEW = Yardsticks(
    reference=100,
    held_out_species=10,
    held_out_views=2,
    sharpening_species=8,
    sharpening_batches=(2, 2),
)
SHORT = PretrainRequest(
    device="cpu",
    num_workers=1,
    pretraining=Pretraining(steps=4, species=4),
    learner=Learner(input_size=(16, 16, 16)),
    yardsticks=FEW,
)


class Heard(Listener):
    """Keeps what it hears, and plays Ctrl-C after a step."""

    def __init__(self, stop_after=None):
        self.stop_after, self.notes, self.steps = stop_after, [], []

    def note(self, line):
        self.notes.append(line)

    def tell(self, event):
        self.steps.append(event.step)
        if event.step == self.stop_after:
            raise KeyboardInterrupt


def short(folder, *, learner=None, **pretraining):
    """Return a request for a short run with some settings changed."""
    return SHORT.replace(
        outdir=folder,
        pretraining=SHORT.pretraining.replace(**pretraining),
        learner=SHORT.learner.replace(**(learner or {})),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of an unbroken run."""
    folder = tmp_path_factory.mktemp("finished") / "P"
    pretrain(short(folder))
    return folder


def weights_of(folder):
    return Path(folder, "backbone.safetensors").read_bytes()


def card_of(folder):
    return json.loads(Path(folder, "backbone.json").read_text())


def history_of(folder):
    with Path(folder, "history.csv").open() as file:
        return list(csv.DictReader(file))


def small(name):
    entry = spec(name)
    return entry.resolve(NetworkInput(input_size=(16, 16, 16)), box=32)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ----------------------------------------------------------------------------------------------- schedules


def test_the_snr_goes_geometrically_from_the_first_to_the_last():
    settings, invention = Pretraining(ramp=0.5), Invention(first_snr=(1.0, 4.0), snr=(0.01, 1.0))
    found = {done: snr_at(done, settings, invention) for done in (0, 0.125, 0.25, 0.5, 0.9, 1)}
    assert found[0] == pytest.approx((1, 4))
    assert found[0.125] == pytest.approx((0.01**0.25, 4**0.75))
    assert found[0.25] == pytest.approx((0.1, 2))
    assert found[0.5] == found[0.9] == found[1] == pytest.approx((0.01, 1))


def test_the_learning_rate_rises_along_a_line_and_falls_along_a_cosine():
    assert learning_rate(0, 2.0) == pytest.approx(0.02)
    assert learning_rate(0.015, 2.0) == pytest.approx(2 * 0.505)
    assert learning_rate(0.03, 2.0) == pytest.approx(2)
    assert learning_rate(0.03 + 0.97 / 4, 2.0) == pytest.approx(1 + math.sqrt(0.5))
    assert learning_rate(0.03 + 0.97 / 2, 2.0) == pytest.approx(1)
    assert learning_rate(1, 2.0) == pytest.approx(0)
    rates = [learning_rate(step / 1000, 1.0) for step in range(1001)]
    assert rates == sorted(rates[:31]) + sorted(rates[31:], reverse=True)


@pytest.mark.parametrize(("steps", "period"), [(1, 1), (39, 1), (400, 10), (10_000_000, 1000)])
def test_the_history_has_about_forty_lines_and_none_is_too_long(steps, period):
    assert period_of(Pretraining(steps=steps)) == period


# ----------------------------------------------------------------------------------------------- objective


def slow_contrastive_loss(vectors, numbers, temperature):
    """NT-Xent as it is written down, pair by pair."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    count, total = len(unit), 0.0
    for one in range(count):
        likenesses = {
            other: math.exp(float(unit[one] @ unit[other]) / temperature)
            for other in range(count)
            if other != one
        }
        same = [other for other in likenesses if numbers[other] == numbers[one]]
        total -= sum(math.log(likenesses[other] / sum(likenesses.values())) for other in same) / len(same)
    return total / count


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_contrastive_loss_is_nt_xent(views, temperature):
    vectors = np.random.default_rng(views).normal(size=(5 * views, 7))
    numbers = np.random.default_rng(0).permutation(np.repeat(np.arange(5), views))
    found = contrastive_loss(torch.tensor(vectors), torch.tensor(numbers), temperature)
    assert float(found) == pytest.approx(slow_contrastive_loss(vectors, numbers, temperature), rel=1e-5)


@pytest.mark.parametrize("views", [2, 3])
def test_the_contrastive_loss_is_low_where_views_of_a_species_agree(views):
    numbers = torch.arange(6).repeat_interleave(views)
    noise = torch.randn((6 * views, 32), generator=seeded())
    species = torch.randn((6, 32), generator=seeded(1))[numbers]
    losses = [
        float(contrastive_loss(species + share * noise, numbers, 0.1)) for share in (0.0, 0.5, 2.0, 1e3)
    ]
    assert losses == sorted(losses)
    assert losses[0] < 0.5 * losses[-1]
    assert float(contrastive_loss(species, numbers.roll(1), 0.1)) > losses[1]


def tasks(mean=0.5, std=2.0):
    torch.manual_seed(0)
    return Tasks(8, torch.full((5,), mean), torch.full((5,), std))


def test_descriptions_are_learnt_in_units_of_their_spread():
    heads, vectors = tasks(), torch.randn((6, 8), generator=seeded())
    description = torch.randn((6, 5), generator=seeded(1))
    losses = heads(vectors, torch.arange(6), description, None)
    off = (heads.say(vectors) - (description - 0.5) / 2).abs()
    expected = torch.where(
        off < 1, off**2 / 2, off - 0.5
    ).mean()  # what is far off counts by its distance alone
    assert (off > 1).any()
    assert torch.allclose(losses.describe, expected)
    assert losses.contrast == 0


def test_boxes_that_nobody_can_describe_are_compared_only():
    heads, vectors = tasks(), torch.randn((6, 8), generator=seeded())
    description = torch.randn((6, 5), generator=seeded(1))
    unknown = description.clone()
    unknown[[1, 4]] = torch.nan
    species = torch.arange(3).repeat_interleave(2)
    losses, known = heads(vectors, species, unknown, 0.1), [0, 2, 3, 5]
    assert torch.equal(
        losses.describe, heads(vectors[known], species[known], description[known], None).describe
    )
    assert torch.equal(losses.contrast, heads(vectors, species, description, 0.1).contrast)
    (losses.describe + losses.contrast).backward()
    assert all(value.grad.isfinite().all() for value in heads.parameters())


def test_a_batch_that_nobody_can_describe_is_compared_only():
    heads, vectors = tasks(), torch.randn((4, 8), generator=seeded())
    losses = heads(vectors, torch.tensor([0, 0, 1, 1]), torch.full((4, 5), torch.nan), 0.1)
    assert losses.describe == 0
    assert losses.contrast > 0


def test_a_number_that_never_changes_does_not_blow_up_the_loss():
    heads = tasks(std=0.0)
    losses = heads(torch.zeros((2, 8)), torch.arange(2), torch.full((2, 5), 0.5), None)
    assert losses.describe < 1


# ------------------------------------------------------------------------------------------------- own boxes

WIDE = Invention(tilt=(89, 89), axis_spread=0, odd_axis=0, shift=0)


def with_wedge(count, side=16, tilt=50):
    """Noise that a tilt series has seen, and what of its spectrum is empty."""
    seen = torch.tensor(optics.seen_by_tilts((side,) * 3, tilt))
    noise = torch.randn((count, side, side, side), generator=seeded(9))
    spectrum = torch.fft.rfftn(noise, dim=(1, 2, 3)) * seen
    return torch.fft.irfftn(spectrum, s=(side,) * 3, dim=(1, 2, 3)), ~seen


def test_altering_a_box_adds_nothing_to_its_missing_wedge():
    raw, empty = with_wedge(10)
    views = altered(raw, 4, WIDE, seeded())
    assert views.shape == (10, 4, 16, 16, 16)
    found = torch.fft.rfftn(views, dim=(2, 3, 4)).abs()
    # The planes of the last frequency have no opposite: a turned box may show them elsewhere.
    kz, ky, kx = optics.frequencies((16,) * 3)
    inner = torch.tensor((kz > -0.5) & (ky > -0.5) & (kx < 0.5))
    assert found[..., empty & inner].max() < 1e-5 * found.max()
    assert (found[..., ~empty & inner] > 1e-3).float().mean() > 0.95


def test_altering_takes_away_what_other_tilts_would_not_have_seen():
    raw, _ = with_wedge(4, tilt=60)
    views = altered(raw, 3, WIDE.replace(tilt=(45, 45)), seeded())
    found = torch.fft.rfftn(views, dim=(2, 3, 4)).abs()
    unseen = torch.tensor(~optics.seen_by_tilts((16,) * 3, 45))
    assert found[..., unseen].max() < 1e-5 * found.max()


def test_altered_views_show_the_same_particle_in_four_positions_under_new_noise():
    blob = torch.zeros((1, 16, 16, 16))
    blob[0, 3:6, 4:9, 9:14] = 10
    raw = blob + torch.randn(blob.shape, generator=seeded())
    views = altered(raw, 60, WIDE, seeded())[0]
    assert len(torch.unique(views.flatten(1), dim=0)) == 60
    positions = torch.stack(
        [reversed_about_centre(blob, axes).flatten() for axes in ((), (2, 3), (1, 3), (1, 2))]
    )
    alike = torch.tensor(np.corrcoef(torch.cat([positions, views.flatten(1)]))[:4, 4:])
    assert alike.amax(0).min() > 0.3
    assert alike.sort(0).values[2].max() < 0.2
    assert set(alike.argmax(0).tolist()) == {0, 1, 2, 3}
    assert alike.amax(0).max() > 1.4 * alike.amax(0).min()  # some views are nearly clean, others not


@pytest.mark.parametrize("side", [7, 8])
def test_a_half_turn_keeps_the_central_voxel_in_place(side):
    box = torch.randn((1, side, side, side), generator=seeded())
    turned = reversed_about_centre(box, (1, 3))
    middle = side // 2
    assert torch.equal(turned[0, middle, :, middle], box[0, middle, :, middle])
    assert turned[0, middle + 1, 2, middle - 2] == box[0, middle - 1, 2, middle + 2]
    assert torch.equal(reversed_about_centre(turned, (1, 3)), box)
    assert reversed_about_centre(box, ()) is box


def test_altered_views_are_shifted_by_half_the_allowance_at_most():
    raw = torch.zeros((1, 17, 17, 17))
    raw[0, 8, 8, 8] = 1
    places = {
        tuple(int(place) for place in np.unravel_index(int(view.argmax()), view.shape))
        for view in altered(raw, 200, WIDE.replace(shift=4.5), seeded())[0]
    }
    assert {place[axis] for place in places for axis in range(3)} == {6, 7, 8, 9, 10}


def test_altering_is_repeatable_and_takes_boxes_of_any_size():
    for side in (9, 16):
        raw, _ = with_wedge(3, side)
        one, same, other = (altered(raw, 2, Invention(), seeded(seed)) for seed in (0, 0, 1))
        assert one.shape == (3, 2, side, side, side)
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


# ------------------------------------------------------------------------------------------------- retrieval


class Oracle(Backbone):
    """Sees the grey value of one voxel of each box, as a direction."""

    width = 10

    def forward(self, x):
        assert not self.training
        return nn.functional.one_hot(x[:, 0, 0, 0, 0].long(), 10).float()


def test_retrieval_is_the_share_of_boxes_nearest_to_their_own_species():
    species = torch.arange(10).repeat_interleave(3)
    told = torch.cat([torch.arange(10).repeat_interleave(3)[:-3], torch.tensor([0, 1, 2])])
    oracle = Oracle()

    class Raw(Preparer):
        def forward(self, raw):
            return raw[:, None]

    preparer = Raw(Preparation(input_size=(8, 8, 8)))
    boxes = told[:, None, None, None].expand(-1, 8, 8, 8).float()
    for seen, score in ((boxes, 27 / 30), (species[:, None, None, None].expand(-1, 8, 8, 8).float(), 1)):
        found = retrieval.retrieval(oracle, preparer, retrieval.HeldOut(boxes=seen, species=species))
        assert found == pytest.approx(score)
    assert oracle.training


def test_held_out_species_are_always_the_same():
    one, same = (retrieval.held_out(Invention(), FEW) for _ in range(2))
    assert one.boxes.shape == (20, 32, 32, 32)
    assert torch.equal(one.boxes, same.boxes)
    assert one.species.tolist() == np.repeat(np.arange(10), 2).tolist()


# ---------------------------------------------------------------------------------------------- learning


def test_the_losses_fall():
    settings = Pretraining(steps=40, species=16, views=2, contrast=0.1)
    # As many voxels as the network sees: the boxes of 32 pixels of 8 A would be resampled to these.
    easy = Invention(
        box=16, pixel_range=(16, 16), first_snr=(20, 20), snr=(20, 20), neighbours=0, membrane_chance=0
    )
    # A few rare species make much of the spread, so that it needs many.
    yardsticks = dataclasses.replace(FEW, reference=1000, held_out_views=1)
    torch.manual_seed(0)
    run = PretrainingRun(device=CPU, yardsticks=yardsticks)
    records = teach_shape(load_backbone("res32"), small("res32"), settings, easy, run).periods
    assert [record.step for record in records] == list(range(1, 41))
    assert [record.boxes for record in records] == [32 * record.step for record in records]
    contrast, describe = ([record.figures[part] for record in records] for part in ("contrast", "describe"))
    assert np.median(contrast[-10:]) < 0.9 * np.median(contrast[:5])
    assert np.median(describe[-20:]) < 0.9 * np.median(describe[:10])
    assert all(0 < record.drawing < 1 for record in records)


def measured(**change):
    """Return the first loss in units of the reference, and the discriminants, of a run of one step."""
    yardsticks = dataclasses.replace(FEW, **change)
    torch.manual_seed(0)
    backbone, boxes = load_backbone("res32"), Invention(box=16, pixel_range=(8, 32))
    run = PretrainingRun(device=CPU, yardsticks=yardsticks)
    found = teach_shape(backbone, small("res32"), Pretraining(steps=1, species=2), boxes, run)
    assert found.yardsticks == yardsticks
    return found.periods[0].figures["describe"], backbone.sharpen


@pytest.mark.parametrize(
    "change", [{"reference": 50}, {"sharpening_species": 5}, {"sharpening_batches": (1, 1)}], ids=str
)
def test_every_yardstick_is_used(change):
    loss, discriminants = measured()
    found_loss, found_discriminants = measured(**change)
    assert (found_loss != loss) == ("reference" in change)
    assert not torch.equal(found_discriminants, discriminants)


def test_a_gpu_with_too_little_memory_is_told_which_option_to_lower(monkeypatch):
    def too_much(*_ignored):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(shape, "draw_batch", too_much)  # no GPU here that would run out of it
    settings, run = Pretraining(steps=2, species=4), PretrainingRun(device=CPU, yardsticks=FEW)
    with pytest.raises(CryoclassError, match="too little memory") as raised:
        teach_shape(load_backbone("res32"), small("res32"), settings, Invention(), run)
    assert "--batch-species" in raised.value.hint


# -------------------------------------------------------------------------------------------- whole runs


def test_a_run_leaves_weights_card_and_history(finished):
    assert {path.name for path in finished.iterdir()} == FILES | {RECORD}
    card, history = card_of(finished), history_of(finished)
    assert card["backbone"] == "res32"
    assert card["start"] == "random"
    assert card["device"] == "cpu"
    assert card["boxes"] == 16
    assert card["threads"] == 1
    assert card["own_particles"] == 0
    assert card["weights_sha256"] == hashlib.sha256(weights_of(finished)).hexdigest()
    assert card["bytes"] == len(weights_of(finished))
    assert card["preparation"]["input_size"] == [16, 16, 16]
    assert card["pretraining"] == Pretraining(steps=4, species=4).to_dict()
    assert card["pretraining"]["seed"] == 0
    assert card["invention"] == Invention().to_dict()
    written = load_backbone("res32", weights=finished / "backbone.safetensors")
    found = retrieval.retrieval(written, Preparer(small("res32")), retrieval.held_out(Invention(), FEW))
    assert card["scores"]["retrieval"] == pytest.approx(found, abs=1e-4)
    assert "20 boxes of 10 invented species" in card["scores"]["what"]
    assert [row["step"] for row in history] == ["1", "2", "3", "4"]
    assert [row["boxes"] for row in history] == ["4", "8", "12", "16"]
    assert {row["contrast"] for row in history} == {"0.0"}
    assert all(np.isfinite([float(cell) for cell in row.values()]).all() for row in history)
    assert (float(history[0]["snr_low"]), float(history[-1]["snr_low"])) == pytest.approx((0.5, 0.02))


def test_the_weights_can_be_used(finished):
    path = finished / "backbone.safetensors"
    written = safetensors.torch.load_file(path)
    start = load_backbone("res32").state_dict()
    loaded = load_backbone("res32", weights=path).state_dict()
    assert loaded.keys() == written.keys() == start.keys()
    assert all(torch.equal(loaded[name], value) for name, value in written.items())
    assert all(value.isfinite().all() for value in written.values())
    assert int(written["bn1.num_batches_tracked"]) == 4


def test_the_card_says_what_the_weights_have_learnt_from(finished):
    card = card_of(finished)
    assert card["format"] == 2
    assert card["natural_units"] is True
    # From 4 to 16 A in boxes of 32 pixels, which the network saw in 16.
    assert card["learnt_from"] == {"pixel_range": [8, 32], "contrast": "bright"}
    assert card["outputs"] == {"embedding": ["N", 256]}
    facts = load_backbone("res32", weights=finished / "backbone.safetensors").facts
    assert facts.natural_units
    assert facts.learnt_from.pixel_range == (8, 32)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(finished, tmp_path):
    for seed in (0, 1):
        pretrain(short(tmp_path / str(seed), seed=seed))
    assert weights_of(tmp_path / "0") == weights_of(finished)
    assert weights_of(tmp_path / "1") != weights_of(finished)
    assert history_of(tmp_path / "0") == history_of(finished)


@pytest.fixture(scope="module")
def interrupted_once(tmp_path_factory):
    """The folder of a run that Ctrl-C has ended after its second step."""
    folder = tmp_path_factory.mktemp("interrupted") / "P"
    with pytest.raises(KeyboardInterrupt):
        pretrain(short(folder), Heard(stop_after=2))
    kept = {"checkpoint.pt", "checkpoint-1.pt", "history.csv", "times.csv"}
    assert {path.name for path in folder.iterdir()} == kept | {RECORD}
    assert [row["step"] for row in history_of(folder)] == ["1", "2"]
    return folder


@pytest.fixture
def interrupted(interrupted_once, tmp_path):
    """A copy of it."""
    shutil.copytree(interrupted_once, tmp_path / "P")
    return tmp_path / "P"


def test_a_resumed_run_gives_the_weights_of_an_unbroken_one(finished, interrupted):
    heard = Heard()
    pretrain(short(interrupted), heard)
    assert heard.steps == [3, 4]
    for name in RESULTS:
        assert (interrupted / name).read_bytes() == (finished / name).read_bytes()
    with (interrupted / "times.csv").open() as file:
        times = [*csv.DictReader(file)]
    assert [row["step"] for row in times] == ["1", "2", "3", "4"]
    assert all(float(row["seconds"]) > 0 and 0 < float(row["drawing"]) < 1 for row in times)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 0.001}, "lr was 0.003, now 0.001"),
        ({"seed": 3}, "seed was 0, now 3"),
        ({"tilt": (50, 60)}, "tilt was [45.0, 68.0], now [50, 60]"),
        ({"input_size": (16, 16, 8)}, "input_size was [16, 16, 16], now [16, 16, 8]"),
        ({"backbone": "r3d10"}, "backbone was res32, now r3d10"),
        ({"reference": 200}, "yardsticks was {'reference': 100,"),
    ],
)
def test_a_run_is_resumed_with_its_own_settings_only(interrupted, change, words):
    before = (interrupted / "checkpoint.pt").read_bytes()
    with pytest.raises(UsageError, match="belongs to another run") as raised:
        pretrain(changed(short(interrupted), **change))
    assert words in str(raised.value)
    assert "--overwrite" in raised.value.hint
    assert (interrupted / "checkpoint.pt").read_bytes() == before


def changed(request, **change):
    """Return a request with a setting changed in whichever of its groups has one of that name."""
    (name,) = change
    groups = {key: getattr(request, key) for key in ("pretraining", "invention", "learner", "yardsticks")}
    key = next(key for key, group in groups.items() if hasattr(group, name))
    return request.replace(**{key: dataclasses.replace(groups[key], **change)})


def test_another_run_takes_the_place_of_an_interrupted_one_only_when_asked(interrupted):
    heard = Heard()
    pretrain(short(interrupted, seed=3).replace(overwrite=True), heard)
    assert heard.steps == [1, 2, 3, 4]
    assert card_of(interrupted)["pretraining"]["seed"] == 3


def test_a_finished_run_is_overwritten_only_when_asked(tmp_path):
    pretrain(short(tmp_path, steps=1))
    before = weights_of(tmp_path)
    again = short(tmp_path, steps=1, seed=1)
    with pytest.raises(UsageError, match="holds a finished run"):
        pretrain(again)
    assert weights_of(tmp_path) == before
    pretrain(again.replace(overwrite=True))
    assert weights_of(tmp_path) != before
    assert card_of(tmp_path)["pretraining"]["seed"] == 1
    assert len(history_of(tmp_path)) == 1


def test_resuming_a_finished_run_takes_no_further_step(finished, tmp_path):
    folder, heard = tmp_path / "P", Heard()
    shutil.copytree(finished, folder)
    pretrain(short(folder).replace(resume=True), heard)
    assert heard.steps == []
    assert weights_of(folder) == weights_of(finished)


RESULTS = ("backbone.safetensors", "backbone.json", "history.csv")


@pytest.fixture
def one_period(monkeypatch):
    """Let the four steps of a short run be one period."""
    monkeypatch.setattr(loop, "PERIODS", 1)


@pytest.mark.usefixtures("one_period")
def test_a_signal_within_a_period_ends_it_after_its_step_and_the_run_goes_on_to_the_same_bytes(
    tmp_path, monkeypatch
):
    forward = Res32.forward  # dropout draws from torch's own generator, which is seeded once
    monkeypatch.setattr(
        Res32, "forward", lambda self, x: nn.functional.dropout(forward(self, x), 0.5, self.training)
    )
    pretrain(short(tmp_path / "unbroken"))

    class Signals(Heard):
        @property
        def track(self):
            def track(items, description, *_):
                for number, item in enumerate(items, 1):
                    if description == "Step 4/4" and number == 1:
                        os.kill(os.getpid(), signal.SIGTERM)
                    yield item

            return track

    for step in (1, 2):
        with pytest.raises(Stopped):
            pretrain(short(tmp_path / "P"), Signals())
        assert torch.load(tmp_path / "P" / "checkpoint.pt")["state"]["step"] == step
    heard = Heard()
    pretrain(short(tmp_path / "P"), heard)
    assert heard.steps == [4]
    assert "going on after step 2 of 4, from checkpoint.pt" in heard.notes
    for name in RESULTS:
        assert (tmp_path / "P" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_a_disk_that_is_too_small_is_told_before_the_first_step(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"1 MB free in .*to be written") as raised:
        pretrain(short(tmp_path / "P"))
    assert "--outdir" in raised.value.hint
    assert not (tmp_path / "P").exists()


def change(**parts):
    return lambda content: content["state"].update(parts)


@pytest.mark.parametrize(
    "edit",
    [
        change(step=9),
        change(step=1),
        change(losses=torch.zeros(3)),
        change(losses=torch.full((2,), torch.nan)),
        change(boxes=0),
        change(random={}),
        change(records=[]),
        change(backbone={}),
        change(optimizer={0: {"step": 1}}),
        lambda content: content["state"]["records"].reverse(),
        lambda content: content["state"].pop("drawing"),
    ],
)
def test_what_is_no_checkpoint_of_a_run_is_refused_in_words(interrupted, edit):
    (interrupted / "checkpoint-1.pt").unlink()
    edit_checkpoint(interrupted / "checkpoint.pt", edit)
    with pytest.raises(ModelError, match=r"checkpoint.pt is damaged") as raised:
        pretrain(short(interrupted))
    assert "--overwrite" in raised.value.hint


def test_other_voxels_of_ones_own_are_another_run(here, extracted):
    (here / "Extract").unlink()
    shutil.copytree(extracted.root / "Extract", here / "Extract")
    own = Path("Extract/particles.star")
    request = short(here / "P", steps=1, views=2, contrast=0.1).replace(particles=own)
    pretrain(request)
    first, second, *_ = sorted((here / "Extract").rglob("*.mrc"))
    times = first.stat()
    shutil.copyfile(second, first)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UsageError, match="voxels was"):
        pretrain(request.replace(resume=True))


def test_typed_as_a_command_it_is_interrupted_and_goes_on(cryoclass, tmp_path, monkeypatch):
    argv = ["pretrain", "-n", 2, "-b", 4, "-j", 1, "--device", "cpu", "--input-size", 16, 16, 16]
    argv = [*map(str, argv), "--backbone", "rb3d", "-o", str(tmp_path / "P")]
    say = sys.modules["cryoclass.cli.pretrain"]

    def interrupt(_period):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(say, "_say_period", interrupt)
        ran = cryoclass(*argv)
    assert ran.status == 130
    assert "interrupted" in ran.err
    monkeypatch.setattr(sys, "argv", ["cryoclass", *argv, "--overwrite"])
    ran = cryoclass(*argv, "--overwrite")
    assert ran.status == 0, ran.err
    assert "step      1" not in ran.err
    assert "step      2" in ran.err
    assert shlex.split(card_of(tmp_path / "P")["command"]) == ["cryoclass", *argv]
    assert "240 boxes of 60 invented species" in card_of(tmp_path / "P")["scores"]["what"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--views 1 --contrast 0.1", "compares boxes of one species, but --views is 1"),
        ("--contrast 0 --describe 0", "--describe and --contrast are both 0"),
        ("--snr 1 0.1", "--snr is 1 0.1; the smaller number comes first"),
        ("--pixel-range 1 8", "hold species of up to 27 angstroms"),
        ("--pixel-range 8 100", "show species of 400 angstroms or more"),
        ("--steps 0", "--steps is 0; it must be at least 1"),
        ("Extract/particles.star", "nobody knows what your own particles are like"),
        ("--backbone res", "There is no backbone named 'res'"),
        ("--input-size 4 16 16", "--input-size is 4"),
        ("--weights nothing.safetensors", "nothing.safetensors cannot be read"),
        ("missing.star --views 2 --contrast 0.1", "missing.star"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(cryoclass, here, argv, words):
    ran = cryoclass("pretrain", "-o", "P", "--device", "cpu", "-j", 1, *argv.split())
    assert ran.status in (1, 2)
    assert words in " ".join(ran.err.split())
    assert not (here / "P").exists()


def test_a_loss_that_explodes_is_an_error_and_never_a_checkpoint(tmp_path):
    backbone = load_backbone("res32")
    with torch.no_grad():
        backbone.conv1.weight.fill_(torch.inf)
    settings = Pretraining(steps=2, species=4)
    run = PretrainingRun(device=CPU, keeping=Keeping(folder=tmp_path), yardsticks=FEW)
    with pytest.raises(CryoclassError, match=r"before step 1.*no longer a number") as raised:
        teach_shape(backbone, small("res32"), settings, Invention(), run)
    assert "--lr" in raised.value.hint
    assert not list(tmp_path.iterdir())


def test_another_network_can_be_taught(tmp_path):
    pretrain(short(tmp_path, steps=2, learner={"backbone": "r3d10", "input_size": (8, 16, 16)}))
    assert card_of(tmp_path)["backbone"] == "r3d10"
    assert card_of(tmp_path)["preparation"]["input_size"] == [8, 16, 16]
    assert card_of(tmp_path)["natural_units"] is False, "only Res32 ends with discriminants"
    loaded = load_backbone("r3d10", weights=tmp_path / "backbone.safetensors")
    assert loaded(torch.zeros((2, 1, 8, 16, 16))).isfinite().all()


def test_a_run_can_start_from_the_weights_of_another(finished, tmp_path):
    path, statistics = finished / "backbone.safetensors", []
    before = safetensors.torch.load_file(path)
    for seed, lr in ((0, 1e-9), (0, 1e-8), (1, 1e-9)):
        request = short(tmp_path, steps=1, seed=seed, lr=lr, learner={"weights": path})
        pretrain(request.replace(overwrite=True))
        assert card_of(tmp_path)["start"] == str(path)
        after = safetensors.torch.load(weights_of(tmp_path))
        assert torch.allclose(before["conv1.weight"], after["conv1.weight"], atol=1e-6)
        statistics.append(after["bn1.running_mean"])
    # From the same weights, only other boxes make other statistics in the first step.
    assert torch.equal(statistics[0], statistics[1])
    assert not torch.allclose(statistics[0], statistics[2], atol=1e-4)


def test_own_particles_take_part_whatever_their_box(here):
    heard, own = Heard(), Path("Extract/particles.star")
    pretrain(short(here / "P", steps=2, views=2, contrast=0.1).replace(particles=own), heard)
    assert "36 of 36 particles of Extract/particles.star take part" in heard.notes
    card, history = card_of(here / "P"), history_of(here / "P")
    assert card["own_particles"] == 36
    assert card["boxes"] == 2 * 2 * (4 + 1)  # steps, views, invented species and own particles
    assert all(float(row["contrast"]) > 0 and float(row["describe"]) > 0 for row in history)
    assert all(value.isfinite().all() for value in safetensors.torch.load(weights_of(here / "P")).values())


def test_own_particles_of_another_depth_cannot_keep_it(here):
    request = short(here / "P", views=2, contrast=0.1, learner={"depth": "keep"})
    with pytest.raises(
        UsageError, match="keep leaves your boxes 16 slices and the invented ones 32"
    ) as raised:
        pretrain(request.replace(particles=Path("Extract/particles.star")))
    assert "--depth resize" in raised.value.hint
    assert not (here / "P").exists()


def test_boxes_can_keep_their_depth(tmp_path):
    pretrain(short(tmp_path, steps=1, learner={"depth": "keep"}))
    assert card_of(tmp_path)["preparation"]["depth"] == "keep"


def test_comparing_alone_can_be_learnt_with_own_particles(here):
    request = short(here / "P", steps=1, views=3, contrast=1, describe=0)
    pretrain(request.replace(particles=Path("Extract/particles.star")))
    assert card_of(here / "P")["boxes"] == 3 * (4 + 1)


def test_own_particles_are_known_by_what_they_are(here, extracted, monkeypatch):
    request = short(here / "P", steps=1, views=2, contrast=0.1)
    pretrain(request.replace(particles=Path("Extract/particles.star")))
    lines = extracted.particles.read_text().rstrip().split("\n")
    (here / "others.star").write_text("\n".join([*lines[:-1], ""]))
    with pytest.raises(CryoclassError, match="voxels was"):
        pretrain(request.replace(particles=Path("others.star"), resume=True))
    monkeypatch.chdir(extracted.root.parent)
    before = weights_of(here / "P")
    pretrain(request.replace(particles=extracted.particles, resume=True))
    assert weights_of(here / "P") == before


def test_own_particles_can_be_cut_from_tomograms(tmp_path, extracted):
    request = short(tmp_path / "P", steps=1, views=2, contrast=0.1)
    boxes = BoxOrigin(tomograms=extracted.tomograms)
    pretrain(request.replace(particles=extracted.coordinates, boxes=boxes, box=32))
    card = card_of(tmp_path / "P")
    assert card["own_particles"] == 36
    assert card["learnt_from"]["pixel_range"] == [8, 40], "the user's 20 A in boxes of 32 pixels, seen in 16"


# ----------------------------------------------------------------------------------------------- settings


def test_settings_that_teach_nothing_are_refused():
    with pytest.raises(UsageError, match="nothing to learn"):
        Pretraining(describe=0, contrast=0)
    with pytest.raises(UsageError, match="--views is 1") as raised:
        Pretraining(contrast=0.1)
    assert "--views 2" in raised.value.hint


# --------------------------------------------------------------------------------------- discriminants


def test_discriminants_weigh_every_direction_by_what_it_says_about_the_species():
    """Four numbers with a spread of 1 within a species, mixed; between species they spread by 3, 1, 0.3 and not at all."""
    rng = np.random.default_rng(0)
    apart = np.array([3, 1, 0.3, 0])
    views = rng.standard_normal((3000, 1, 4)) * apart + rng.standard_normal((3000, 4, 4))
    mix = np.linalg.qr(rng.standard_normal((4, 4)))[0] * [2, 1, 0.5, 1]
    turned = (views @ mix.T) @ sharpening.discriminants(views @ mix.T).T
    within = (turned - turned.mean(1, keepdims=True)).reshape(-1, 4)
    covariance = within.T @ within / (3000 * 3)
    shares = apart**2 / (apart**2 + 1)
    assert np.diag(covariance) == pytest.approx(shares, abs=0.05)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.03


def test_pre_training_ends_with_discriminants(finished):
    state = safetensors.torch.load_file(finished / "backbone.safetensors")
    assert not torch.equal(state["sharpen"], torch.eye(spec("res32").width))
    assert state["centre"].abs().sum() > 0
    plain = load_backbone("res32").state_dict()
    assert torch.equal(plain["sharpen"], torch.eye(spec("res32").width))
    assert not plain["centre"].any()

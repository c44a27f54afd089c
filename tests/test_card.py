"""The cards of models and backbones: what is kept, brought up to date, refused; and the facts of weights that stand there."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from network_helpers import small_card, small_classifier

from cryoclass.backbones.packaged import FOLDER, packaged_card
from cryoclass.backbones.registry import facts_of_weights, load_backbone, spec
from cryoclass.card import (
    BACKBONE_FOLDER,
    FORMAT,
    BackboneCard,
    LearntFrom,
    ModelCard,
    WeightFacts,
    check_said,
    read_folder,
    write_folder,
)
from cryoclass.classifier import Classifier, load_card, load_model, save_model, start_classifier
from cryoclass.errors import ModelError, OutputError
from cryoclass.settings import Preparation, Start
from cryoclass.training.finetune import facts_of_start

SMALL = Preparation(input_size=(8, 16, 16), intensity="standard")
KNOWN = WeightFacts(natural_units=True, learnt_from=LearntFrom(pixel_range=(5.0, 9.0), contrast="bright"))


def read(content) -> ModelCard:
    return ModelCard.from_json(json.dumps(content), "model.json")


def written(**changes) -> dict:
    """Return the content of a card's file, with fields changed, or gone."""
    content = {**json.loads(small_card().to_json()), **changes}
    return {name: value for name, value in content.items() if value != "gone"}


# ---------------------------------------------------------------------------------------------- formats


def test_a_card_says_its_format_first():
    assert next(iter(json.loads(small_card().to_json()).items())) == ("format", FORMAT)


def test_an_unknown_field_is_kept_and_written_again():
    learnt_from = {"pixel_range": [4, 8], "contrast": "dark", "dose": 3.5}
    card = read(written(from_the_future={"temperature": 1.5}, learnt_from=learnt_from))
    again = json.loads(card.replace(angpix=12.0).to_json())
    assert again["from_the_future"] == {"temperature": 1.5}
    assert again["learnt_from"]["dose"] == 3.5
    assert again["angpix"] == 12
    assert read(again) == card.replace(angpix=12.0)


def test_a_model_folder_passes_an_unknown_field_on(tmp_path):
    save_model(tmp_path / "A", small_classifier(), small_card(from_the_future=[1, 2]))
    classifier, card = load_model(tmp_path / "A")
    save_model(tmp_path / "B", classifier, card)
    assert (tmp_path / "A" / "model.json").read_bytes() == (tmp_path / "B" / "model.json").read_bytes()
    assert "from_the_future" in (tmp_path / "B" / "model.json").read_text()


OF_FORMAT_1 = {
    "backbone": "r3d10",
    "classes": ["ribosome", "junk"],
    "angpix": 10.0,
    "box": [12, 12, 12],
    "contrast": "bright",
    "preparation": SMALL.to_dict(),
    "training": {"seed": 3},
    "metrics": {},
    "versions": {"cryoclass": "0.1.0"},
    "weights_sha256": "0" * 64,
}


def test_a_card_of_format_1_is_brought_up_to_date():
    card = read(OF_FORMAT_1)
    assert card.format == FORMAT
    assert (card.classes, card.angpix, card.preparation) == (("ribosome", "junk"), 10.0, SMALL)
    assert card.facts == WeightFacts()
    assert [*card.outputs] == ["probabilities", "logits", "embedding"]
    assert card.tasks == ("classify",)
    assert read(json.loads(card.to_json())) == card


@pytest.mark.parametrize(
    ("backbone", "natural"), [("res32-species", True), ("res32", True), ("r3d10", False)]
)
def test_natural_units_followed_from_the_name_in_format_1(backbone, natural):
    assert read({**OF_FORMAT_1, "backbone": backbone}).natural_units is natural
    assert not read({**written(natural_units="gone"), "backbone": backbone}).natural_units


def test_the_card_of_a_backbone_of_format_1_says_what_it_has_learnt_from():
    content = {"backbone": "res32", "preparation": SMALL.to_dict(), "invention": {"pixel_range": [4, 16]}}
    card = BackboneCard.from_json(json.dumps(content), "backbone.json")
    assert card.facts == WeightFacts(
        natural_units=True, learnt_from=LearntFrom(pixel_range=(4.0, 16.0), contrast="bright")
    )


@pytest.mark.parametrize("number", [FORMAT + 1, 10**12])
def test_a_newer_format_is_refused_by_its_number(number):
    with pytest.raises(ModelError, match=f"model.json has the format {number}; .* up to format 2") as caught:
        read(written(format=number, classes={"a": "shape that nobody knows yet"}))
    assert "newer cryoclass" in caught.value.hint


@pytest.mark.parametrize("number", [0, -1, 1.0, True, "2", None, [2]])
def test_a_format_that_is_no_number_is_refused(number):
    with pytest.raises(ModelError, match=r"the field 'format' is .*; it must be a whole number"):
        read(written(format=number))


def test_a_field_that_stands_twice_is_refused():
    text = json.dumps(written()).replace('"angpix": 10.0', '"angpix": 10.0, "angpix": 20.0')
    with pytest.raises(ModelError, match=r"model\.json: the field 'angpix' stands there twice"):
        ModelCard.from_json(text, "model.json")


@pytest.mark.parametrize("value", ["[" * 10**5, "[" * 5000 + "]" * 5000, "9" * 5000, '"\\ud800"'])
def test_depth_halves_of_letters_and_endless_numbers_are_no_json(value):
    text = json.dumps(written()).replace('"angpix": 10.0', f'"angpix": {value}')
    with pytest.raises(ModelError, match=r"model\.json is not valid JSON"):
        ModelCard.from_json(text, "model.json")


# ----------------------------------------------------------------------------------------------- fields

NEED = ["backbone", "preparation", "classes", "angpix", "box"]
MAY_LACK = ["contrast", "outputs", "tasks", "natural_units", "learnt_from", "training", "metrics", "versions"]


@pytest.mark.parametrize("name", NEED)
def test_a_missing_field_without_which_nothing_works_is_named(name):
    with pytest.raises(ModelError, match=f"the field '{name}' is missing"):
        read(written(**{name: "gone"}))


@pytest.mark.parametrize("name", MAY_LACK)
def test_other_missing_fields_have_defaults(name):
    card = read(written(**{name: "gone"}))
    assert getattr(card, name) == ModelCard.model_fields[name].default


PREPARATION = Preparation(input_size=(8, 8, 8)).to_dict()
WRONG_FIELDS = {
    "backbone": [3],
    "classes": [[], ["a", "a"], "ab", [1, 2]],
    "angpix": [0, -1, "ten", "10", None, True, 10**400, 1e300],
    "box": [[8, 8], [8, 8, 0], [8.5, 8, 8], [8.0, 8, 8], 8, [8, 8, 10**30]],
    "contrast": ["grey", ["bright"]],
    "preparation": [
        {},
        3,
        {name: value for name, value in PREPARATION.items() if name != "depth"},
        {**PREPARATION, "intensity": "loud"},
        {**PREPARATION, "input_size": [4, 8, 8]},
        {**PREPARATION, "input_size": [8.0, 8, 8]},
        {**PREPARATION, "input_size": [8, 8, 10**20]},
        {**PREPARATION, "depth": "half"},
        {**PREPARATION, "beam_axis": "w"},
        {**PREPARATION, "limits": [1, 0]},
        {**PREPARATION, "limits": [0, math.inf]},
        {**PREPARATION, "limits": [0]},
        {**PREPARATION, "colour": "red"},
    ],
    "training": [3],
    "weights_sha256": ["abc", 5, "z" * 64],
    "natural_units": [1, "yes"],
    "learnt_from": [5, {"pixel_range": [4]}, {"pixel_range": [0, 4]}, {"contrast": "grey"}],
    "outputs": [
        [],
        {"logits": 3},
        {"logits": ["classes", "N"]},
        {"logits": ["N", 0]},
        {"logits": ["N", 2.0]},
        {"status": ["N"]},
        {"../../logits": ["N"]},
        {"Logits": ["N"]},
    ],
    "tasks": ["classify", [3]],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in WRONG_FIELDS for value in WRONG_FIELDS[name]]
)
def test_a_wrong_field_is_refused_with_file_field_value_and_rule(name, value):
    with pytest.raises(ModelError, match=rf"^model\.json: the field '{name}[^']*' is .+; .+\.$") as caught:
        read(written(**{name: value}))
    assert "this version of cryoclass" in caught.value.hint
    assert len(str(caught.value)) < 400


def test_a_folder_with_a_card_that_is_wrong_is_refused(tmp_path):
    save_model(tmp_path, small_classifier(), small_card())
    path = tmp_path / "model.json"
    right = json.loads(path.read_text())
    for change in ({"backbone": "r3d11"}, {"classes": ["a", "b"]}, {"angpix": 0}):
        path.write_text(json.dumps({**right, **change}))
        with pytest.raises(ModelError, match=str(tmp_path)):
            load_model(tmp_path)


DEEP = 100_000
NO_CARDS = {
    "nothing": b"",
    "half": b"{",
    "a list": b"[]",
    "no text": b"\xff\xfe",
    "nested too deep": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "half a character": b'{"backbone": "\\ud800"}',
    "a number without end": b'{"angpix": ' + b"9" * DEEP + b"}",
}


@pytest.mark.parametrize("content", NO_CARDS.values(), ids=NO_CARDS.keys())
def test_what_is_no_card_is_refused_in_words(tmp_path, content):
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.json") as caught:
        load_card(tmp_path)
    assert len(str(caught.value)) < 400


def test_numbers_of_numpy_are_written_and_nan_becomes_null():
    card = small_card(
        metrics={"auc": math.nan, "accuracy": np.float32(0.5), "confusion": np.eye(2, dtype=int)}
    )
    again = ModelCard.from_json(card.to_json(), "card")
    assert again.metrics == {"auc": None, "accuracy": 0.5, "confusion": [[1, 0], [0, 1]]}


def test_a_path_that_is_no_text_can_be_written_and_read_again(tmp_path):
    card = small_card(training={"particles": ["a\udcff.star"], "file": Path("b\udcfe.star")})
    save_model(tmp_path, small_classifier(), card)
    assert load_card(tmp_path).training == {"particles": ["a\\udcff.star"], "file": "b\\udcfe.star"}


def test_a_card_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        small_card().angpix = 3.0


# ---------------------------------------------------------------------------------------------- outputs


def test_what_a_model_gives_is_held_against_its_card():
    card = small_card(
        outputs={"logits": ("N", "classes"), "mask": ("N", "D", "H", "W"), "embedding": ("N", 4)}
    )
    right = {"mask": (2, 8, 9, 10), "logits": (2, 3), "embedding": (2, 4)}
    check_said(right, card, "it")
    wrong = [
        {**right, "logits": (2, 4)},
        {**right, "logits": (2, 3, 1)},
        {**right, "embedding": (2, 5)},
        {**right, "mask": (2, 8, 9)},
        {**right, "density": (2,)},
        {"logits": (2, 3), "embedding": (2, 4)},
    ]
    for said in wrong:
        with pytest.raises(ModelError, match=r"it does not fit its own model card: it gives .*logits 2x"):
            check_said(said, card, "it")


# ---------------------------------------------------------------------------------- folders of a backbone


@pytest.fixture
def backbone_folder(tmp_path):
    """A folder as pretrain writes it, with facts that no other weights have."""
    torch.manual_seed(0)
    card = BackboneCard(backbone="r3d10", preparation=SMALL, **dict(KNOWN))
    write_folder(tmp_path / "P", load_backbone("r3d10").state_dict(), card, BACKBONE_FOLDER)
    return tmp_path / "P"


def test_weights_and_card_of_a_backbone_are_read_again(backbone_folder):
    state, card = read_folder(backbone_folder, BackboneCard, BACKBONE_FOLDER)
    assert card.facts == KNOWN
    assert state.keys() == load_backbone("r3d10").state_dict().keys()
    assert card.bytes == (backbone_folder / "backbone.safetensors").stat().st_size
    (backbone_folder / "backbone.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError, match="damaged or altered") as caught:
        read_folder(backbone_folder, BackboneCard, BACKBONE_FOLDER)
    assert "cryoclass pretrain" in caught.value.hint


def test_a_file_in_the_place_of_a_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    card = BackboneCard(backbone="r3d10", preparation=SMALL)
    with pytest.raises(OutputError, match="cannot be written"):
        write_folder(tmp_path / "file", {"a": torch.zeros(1)}, card, BACKBONE_FOLDER)
    with pytest.raises(ModelError, match="is a file, no backbone folder"):
        read_folder(tmp_path / "file", BackboneCard, BACKBONE_FOLDER)


# ---------------------------------------------------------------------------------- the facts of weights


def test_the_weights_in_the_package_have_their_facts_on_their_card():
    card = packaged_card(spec("res32-species"))
    assert (card.natural_units, card.learnt_from.pixel_range) == (True, (4.0, 16.0))
    assert card.after.startswith("the discriminants"), "a field that no version of cryoclass writes"
    content = (FOLDER / "res32-species.json").read_text(encoding="utf-8")
    assert card.to_json() == content
    assert load_backbone("res32-species").facts == card.facts == facts_of_weights("res32-species")


@pytest.mark.parametrize(
    ("name", "init"), [("res32", "auto"), ("res32-species", "random"), ("r3d10", "auto")]
)
def test_nothing_is_known_of_random_weights(name, init):
    assert load_backbone(name, init=init).facts == WeightFacts()


def test_the_card_beside_a_weight_file_counts_where_it_is_the_files(backbone_folder):
    path = backbone_folder / "backbone.safetensors"
    assert load_backbone("r3d10", weights=path).facts == KNOWN
    assert facts_of_start(Start(backbone="r3d10", weights=path)) == KNOWN
    state = safetensors.torch.load_file(path)
    other = backbone_folder / "other.safetensors"
    safetensors.torch.save_file({**state, "bn1.bias": state["bn1.bias"] + 1}, other)
    assert load_backbone("r3d10", weights=other).facts == WeightFacts()
    other.replace(path)
    with pytest.raises(ModelError, match=r"backbone\.safetensors is damaged or altered"):
        load_backbone("r3d10", weights=path)
    (backbone_folder / "backbone.json").unlink()
    assert load_backbone("r3d10", weights=path).facts == WeightFacts()


def test_a_damaged_card_beside_a_weight_file_is_said(backbone_folder):
    (backbone_folder / "backbone.json").write_text("{")
    with pytest.raises(ModelError, match=r"backbone\.json is not valid JSON"):
        load_backbone("r3d10", weights=backbone_folder / "backbone.safetensors")


def test_a_model_folder_hands_its_facts_on(tmp_path):
    save_model(tmp_path, small_classifier(), small_card(**dict(KNOWN)))
    assert load_model(tmp_path)[0].backbone.facts == KNOWN
    assert start_classifier(Classifier("r3d10", 2), init=tmp_path).backbone.facts == KNOWN
    assert facts_of_start(Start(backbone="r3d10", init=str(tmp_path))) == KNOWN


def test_finetune_writes_the_facts_of_its_start_on_the_card(cryoclass, here, backbone_folder):
    argv = ("finetune", "Extract/particles.star", "--backbone", "r3d10", "--epochs", 1, "--device", "cpu")
    size = ("--input-size", 8, 16, 16)
    ran = cryoclass(*argv, *size, "--weights", backbone_folder / "backbone.safetensors", "-o", "F")
    assert ran.status == 0, ran.err
    assert load_card(here / "F").facts == KNOWN
    assert "r3d10 sees these boxes in voxels of" in ran.err, "the range on the card is another"
    ran = cryoclass(*argv, *size, "-o", "G")
    assert ran.status == 0, ran.err
    assert load_card(here / "G").facts == WeightFacts()
    assert "sees these boxes" not in ran.err


def test_a_preparation_on_a_card_is_the_preparation():
    assert read(written()).preparation == small_card().preparation
    assert {field.name for field in dataclasses.fields(Preparation)} == set(written()["preparation"])

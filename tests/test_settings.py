"""Settings check themselves, and say which option is wrong and what would be right."""

import dataclasses
import json
from pathlib import Path

import pytest

from cryoclass.errors import CryoclassError, UsageError
from cryoclass.settings import (
    Augmentation,
    Cutting,
    Extraction,
    Option,
    Preparation,
    Recipe,
    Settings,
    Simulation,
    Split,
    Start,
    Training,
    setting,
)

EVERY_KIND = [
    Cutting(),
    Extraction(box=32),
    Preparation(),
    Augmentation(),
    Recipe(name="x", epochs=1, lr=0.1),
    Split(),
    Start(),
    Training(),
    Simulation(),
]


@pytest.mark.parametrize("settings", EVERY_KIND, ids=lambda settings: type(settings).__name__)
def test_defaults_hold_their_own_limits_and_can_be_written_as_json(settings):
    assert settings.replace() == settings
    assert json.loads(json.dumps(settings.to_dict())).keys() == {f.name for f in dataclasses.fields(settings)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.panel = "x"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Extraction(box=2), "--box is 2; it must be at least 4."),
        (lambda: Extraction(box=2000), "--box is 2000; it must be at most 1024."),
        (lambda: Extraction(box=33), "--box is 33; RELION and Warp read even boxes only."),
        (lambda: Extraction(box=32, angpix=0.0), "--angpix is 0.0; it must be at least 0.01."),
        (lambda: Extraction(box=32, angpix=float("nan")), "--angpix is nan; it must be at least 0.01."),
        (lambda: Extraction(box=32, bg_radius=17.0), "--bg-radius is 17 pixels; it must be at most half"),
        (lambda: Training(epochs=0), "--epochs is 0; it must be at least 1."),
        (lambda: Preparation(input_size=(32, 4, 128)), "--input-size is 4; it must be at least 8."),
        (lambda: Split(val_fraction=0.5, test_fraction=0.5), "leave nothing to train on"),
    ],
)
def test_a_broken_limit_is_said_with_the_option_the_value_and_the_rule(make, words):
    with pytest.raises(UsageError) as caught:
        make()
    assert words in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_change_is_checked_as_well():
    with pytest.raises(UsageError, match="--box is 33"):
        Extraction(box=32).replace(box=33)


def test_the_way_out_keeps_to_the_rules_itself():
    with pytest.raises(UsageError) as caught:
        Extraction(box=33)
    assert caught.value.hint == "Use --box 34."
    with pytest.raises(UsageError) as caught:
        Extraction(box=32, bg_radius=20.0)
    assert caught.value.hint == "Use --bg-radius 12, or --no-norm."


def test_the_background_radius_is_relions_where_nothing_is_said():
    assert Extraction(box=32).background_radius == 12  # int(0.375 * 32)
    assert Extraction(box=36).background_radius == 13
    assert Extraction(box=36, bg_radius=7.5).background_radius == 7.5


def test_an_extraction_is_a_way_of_cutting_with_a_size():
    cutting = Cutting(invert="yes", norm=False, edge="skip", shifts=False)
    extraction = Extraction.of(cutting, 16, 12.5)
    assert (extraction.box, extraction.angpix) == (16, 12.5)
    assert all(getattr(extraction, f.name) == getattr(cutting, f.name) for f in dataclasses.fields(cutting))


def test_limits_look_at_numbers_only():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mixed(Settings):
        some: tuple[float, ...] = setting((1.0, 2.0), help="x", minimum=1, maximum=2)
        word: str = setting("word", help="x", minimum=1)
        path: Path | None = setting(None, help="x", minimum=1)
        flag: bool = setting(False, help="x", flags=("--really",), minimum=1)

    assert Mixed().to_dict() == {"some": [1.0, 2.0], "word": "word", "path": None, "flag": False}
    assert Mixed(path=Path("a")).to_dict()["path"] == "a"
    with pytest.raises(UsageError, match=r"--some is 2\.5; it must be at most 2"):
        Mixed(some=(1.0, 2.5))


def test_an_option_needs_its_help():
    with pytest.raises(TypeError):
        Option()
    assert setting(1, help="x", unit="pixels").metadata["option"].unit == "pixels"


def test_errors_carry_the_way_out():
    error = CryoclassError("what was found", "what to do")
    assert (str(error), error.hint, error.exit_status) == ("what was found", "what to do", 1)
    assert UsageError("x").hint == ""

"""Outputs are filled in place, belong to what they were made of, and survive a kill between any two rows."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from network_helpers import small_card

from cryoclass.errors import OutputError, ParticleError
from cryoclass.inference.pipeline import Flow, compute
from cryoclass.outputs import FACTS, NO_NUMBER, STATUS, Facts, Status, open_outputs, origin_of, read_outputs
from cryoclass.results import decide

FACTS_A = Facts(count=6, input="boxes", model="weights", settings={"precision": "auto"})


def fill(outputs, rows, offset=0.0):
    rows = np.array(rows)
    outputs.fill(rows, {"logits": np.stack([rows + offset, -rows], 1).astype(np.float32)})


def test_rows_are_filled_in_any_order_and_marked(tmp_path):
    outputs = open_outputs(tmp_path / "o", FACTS_A)
    fill(outputs, [4, 1])
    outputs.refuse({2: "truncated"})
    assert outputs.status.tolist() == [0, 1, 2, 0, 1, 0]
    assert outputs.done.tolist() == [1, 4]
    assert outputs.pending.tolist() == [0, 3, 5]
    assert outputs["logits"][4].tolist() == [4, -4]
    assert np.isnan(outputs["logits"][[0, 2, 3, 5]]).all()
    assert outputs.reasons == {2: "truncated"}
    assert not outputs.complete


def test_what_was_done_is_found_again(tmp_path):
    fill(open_outputs(tmp_path / "o", FACTS_A), [0, 1, 2])
    again = open_outputs(tmp_path / "o", FACTS_A)
    assert origin_of(again) == "continued"
    assert again.pending.tolist() == [3, 4, 5]
    assert again["logits"][2].tolist() == [2, -2]
    fill(again, [3, 4, 5])
    assert origin_of(open_outputs(tmp_path / "o", FACTS_A)) == "reused"


@pytest.mark.parametrize(
    "change",
    [{"input": "others"}, {"model": "another"}, {"settings": {"precision": "bf16"}}, {"count": 7}],
    ids=lambda change: next(iter(change)),
)
def test_other_boxes_another_model_or_setting_begins_anew(tmp_path, change):
    fill(open_outputs(tmp_path / "o", FACTS_A), [0, 1])
    other = open_outputs(tmp_path / "o", replace(FACTS_A, **change))
    assert origin_of(other) == "computed"
    assert "logits" not in other
    assert not other.status.any()


def test_what_could_not_be_read_is_tried_again(tmp_path):
    """The user may have mended it."""
    outputs = open_outputs(tmp_path / "o", FACTS_A)
    fill(outputs, [0, 1, 2, 3, 4])
    outputs.refuse({5: "no such volume"})
    assert open_outputs(tmp_path / "o", FACTS_A).pending.tolist() == [5]


def test_an_answer_that_is_no_number_counts_as_unreadable_and_leaves_none(tmp_path):
    outputs = open_outputs(tmp_path / "o", FACTS_A)
    values = {"logits": np.ones((3, 2), np.float32), "embedding": np.ones((3, 4), np.float32)}
    values["logits"][1, 0], values["embedding"][2, 3] = np.inf, np.nan
    outputs.fill(np.array([0, 1, 2]), values)
    assert outputs.status[:3].tolist() == [Status.DONE, Status.UNREADABLE, Status.UNREADABLE]
    assert outputs.reasons == {1: NO_NUMBER, 2: NO_NUMBER}
    for name in ("logits", "embedding"):
        assert np.isnan(outputs[name][1:]).all()
        assert np.isfinite(outputs[name][0]).all()
    decisions = decide(outputs)
    assert not decisions.probabilities[1:].any()
    assert decisions.classes.tolist() == [0, -1, -1, -1, -1, -1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / FACTS).write_text('{"format": 1'),
        lambda folder: (folder / FACTS).unlink(),
        lambda folder: (folder / STATUS).unlink(),
        lambda folder: (folder / STATUS).write_bytes(b"half"),
        lambda folder: (folder / "embedding.npy.part").write_bytes(b"half"),
    ],
    ids=["facts cut off", "no facts", "no status", "status cut off", "an array half laid out"],
)
def test_a_kill_at_the_beginning_is_no_obstacle(tmp_path, damage):
    fill(open_outputs(tmp_path / "o", FACTS_A), [0])
    damage(tmp_path / "o")
    outputs = open_outputs(tmp_path / "o", FACTS_A)
    fill(outputs, outputs.pending)
    assert outputs.complete
    open_outputs(tmp_path / "o", replace(FACTS_A, input="others"))
    assert {path.name for path in (tmp_path / "o").iterdir()} == {FACTS, STATUS}, "no orphan is left"


def test_what_is_removed_first_is_what_says_that_the_rest_is_there(tmp_path):
    """A kill in the middle of removing must not leave half of the arrays with their facts."""
    fill(open_outputs(tmp_path / "o", FACTS_A), [0])
    (tmp_path / "o" / "stubborn.npy").mkdir()
    with pytest.raises(OutputError):
        open_outputs(tmp_path / "o", replace(FACTS_A, input="others"))
    assert not (tmp_path / "o" / FACTS).exists()


def test_a_reason_that_a_kill_cut_off_is_passed_over(tmp_path):
    outputs = open_outputs(tmp_path / "o", FACTS_A)
    outputs.refuse({2: "truncated"})
    with (tmp_path / "o" / "reasons.jsonl").open("a") as out:
        out.write('{"row": 3, "rea')
    assert read_outputs(tmp_path / "o").reasons == {2: "truncated"}


def test_outputs_say_their_format_and_another_one_is_refused(tmp_path):
    open_outputs(tmp_path / "o", FACTS_A)
    content = json.loads((tmp_path / "o" / FACTS).read_text())
    assert content["format"] == 1
    (tmp_path / "o" / FACTS).write_text(json.dumps(content | {"format": 2}))
    with pytest.raises(OutputError, match="no outputs of format 1"):
        read_outputs(tmp_path / "o")


def test_a_table_of_which_nothing_can_be_read_leaves_nothing(tmp_path):
    class Nothing:
        box, angpix, order = 2, 1.0, np.array([], dtype=int)

        def __len__(self):
            return 6

        def read(self, index):
            from cryoclass.errors import VolumeError

            raise VolumeError(f"tomogram of row {index} has no volume.")

    outputs = open_outputs(tmp_path / "o", FACTS_A)
    with pytest.raises(ParticleError, match="none of 6 particles can be read; the first: tomogram of row 0"):
        compute(SimpleNamespace(card=small_card()), Nothing(), outputs, Flow(batch_size=4))
    assert not (tmp_path / "o").exists()


def test_less_probable_than_asked_is_unsure_and_not_unreadable(tmp_path):
    outputs = open_outputs(tmp_path / "o", FACTS_A)
    outputs.fill(np.arange(3), {"logits": np.array([[3, 0], [0.1, 0], [0, 3]], np.float32)})
    outputs.refuse({3: "truncated"})
    outputs.status[4] = Status.NOT_ASKED
    decisions = decide(outputs, min_probability=0.9)
    assert decisions.status.tolist() == [
        *("done", "unsure", "done", "unreadable", "not asked for", "not yet done")
    ]
    assert decisions.classes.tolist() == [0, -1, 1, -1, -1, -1]
    np.testing.assert_allclose(decisions.probabilities[:3].sum(1), 1, rtol=1e-6)
    assert decisions.done.tolist() == [0, 1, 2]

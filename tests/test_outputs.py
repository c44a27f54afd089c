"""Outputs are filled in place, belong to what they were made of, and survive a kill between any two rows."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cli_helpers import table
from network_helpers import small_card
from star_files import XYZ, loop, optimisation_set, tomograms_star

from cryoclass.errors import OutputError, ParticleError
from cryoclass.inference.pipeline import Flow, compute
from cryoclass.labels import Labelled
from cryoclass.outputs import FACTS, NO_NUMBER, STATUS, Facts, Status, open_outputs, origin_of, read_outputs
from cryoclass.particles import read_particles
from cryoclass.results import (
    Demands,
    decide,
    decide_all,
    prediction_columns,
    write_classes,
    write_held_out,
    write_optimisation_sets,
    write_skipped,
    write_split,
)

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
    decisions = decide(outputs, Demands(min_probability=0.9))
    assert decisions.status.tolist() == [
        *("done", "unsure", "done", "unreadable", "not asked for", "not yet done")
    ]
    assert decisions.classes.tolist() == [0, -1, 1, -1, -1, -1]
    np.testing.assert_allclose(decisions.probabilities[:3].sum(1), 1, rtol=1e-6)
    assert decisions.done.tolist() == [0, 1, 2]


# ----------------------------------------------------------------------------- what is written from them


@pytest.fixture
def mixed(tmp_path):
    """Outputs of six rows, one of each status; the third is sure of the second class."""
    outputs = open_outputs(tmp_path / "o", FACTS_A)
    outputs.fill(np.arange(3), {"logits": np.array([[3, 0], [0.1, 0], [0, 3]], np.float32)})
    outputs.refuse({3: "truncated"})
    outputs.status[4] = Status.NOT_ASKED
    return outputs


@pytest.fixture
def particles(tmp_path):
    """Return a function that writes a table of some particles, one to a line, and reads it."""

    def write(name="x.star", count=6):
        columns = {
            "rlnTomoName": [f"TS_{n}" for n in range(count)],
            "rlnImageName": [f"{name}_{n}.mrc" for n in range(count)],
            **{label: [f"{n}.5" for n in range(count)] for label in XYZ},
        }
        (tmp_path / name).write_text(loop(columns))
        return read_particles(tmp_path / name)

    return write


def test_a_row_just_as_probable_as_asked_is_sure(tmp_path):
    outputs = open_outputs(tmp_path / "o", FACTS_A)
    outputs.fill(np.arange(1), {"logits": np.zeros((1, 2), np.float32)})
    assert decide(outputs, Demands(min_probability=0.5)).status[0] == "done"


def test_columns_number_classes_from_one_and_say_why_there_is_none(mixed):
    columns = prediction_columns(decide(mixed, Demands(min_probability=0.9)), ["80S  ribosome", "junk"])
    assert columns["rlnClassNumber"] == ["1", "0", "2", "0", "0", "0"]
    assert columns["cryoclassClassName"] == [
        *("80S_ribosome", "unsure", "junk", "unreadable", "not_asked_for", "not_yet_done")
    ]
    assert columns["rlnMaxValueProbDistribution"] == [
        *("0.952574", "0.524979", "0.952574", "0.000000", "0.000000", "0.000000")
    ]
    assert list(columns)[3:] == ["cryoclassStatus", "cryoclassProbability1", "cryoclassProbability2"]
    assert columns["cryoclassStatus"] == [
        *("done", "unsure", "done", "unreadable", "not_asked_for", "not_yet_done")
    ]
    assert columns["cryoclassProbability1"][:3] == ["0.952574", "0.524979", "0.047426"]
    assert columns["cryoclassProbability2"][:3] == ["0.047426", "0.475021", "0.952574"]


def test_what_could_not_be_read_is_left_out_with_its_reason(mixed, particles, tmp_path):
    write_skipped(tmp_path / "s.csv", particles(), mixed.reasons | {0: "a,b"})
    first = particles().line(0)
    assert (tmp_path / "s.csv").read_text().splitlines() == [
        "star_line,tomogram,reason",
        f'{first},TS_0,"a,b"',
        f"{first + 3},TS_3,truncated",
    ]


def test_each_class_and_each_reason_for_none_gets_a_file(mixed, particles, tmp_path):
    written = write_split(
        tmp_path, particles(), decide(mixed, Demands(min_probability=0.9)), ["a/b c", "j-1_.x"]
    )
    assert {path.name: table(path)["rlnTomoName"].tolist() for path in written} == {
        "class001_a_b_c.star": ["TS_0"],
        "class002_j-1_.x.star": ["TS_2"],
        "class000_unsure.star": ["TS_1"],
        "class000_unreadable.star": ["TS_3"],
        "class000_not_asked_for.star": ["TS_4"],
        "class000_not_yet_done.star": ["TS_5"],
    }
    assert all(path.parent == tmp_path for path in written)


def test_a_class_without_particles_gets_no_file(particles, tmp_path):
    decisions = decide_all(np.tile(np.array([[0.1, 0.9]], np.float32), (6, 1)))
    assert [path.name for path in write_split(tmp_path, particles(), decisions, ["a", "b"])] == [
        "class002_b.star"
    ]


def test_classes_are_written_with_number_name_and_count(tmp_path):
    write_classes(tmp_path / "c.star", np.array([2, 0, 2, -1]), ["80S ribosome", "junk", "c"])
    assert table(tmp_path / "c.star").to_dict("list") == {
        "cryoclassClassNumber": [1, 2, 3],
        "cryoclassClassName": ["80S ribosome", "junk", "c"],
        "cryoclassClassCount": [1, 0, 2],
    }


def test_held_out_particles_of_several_files_name_file_and_line(particles, tmp_path):
    tables = (particles("a.star", 2), particles("b.star", 3))
    labelled = Labelled(tables=tables, labels=np.array([0, 0, 1, 1, 1]), classes=("one", "two"))
    write_held_out(tmp_path / "h.star", labelled, np.array([1, 2, 4]), {"said": ["x", "y", "z"]})
    found = table(tmp_path / "h.star")
    assert found["cryoclassFile"].tolist() == [str(tables[0].path), *[str(tables[1].path)] * 2]
    assert found["cryoclassLine"].tolist() == [tables[0].line(1), tables[1].line(0), tables[1].line(2)]
    assert found["cryoclassLabel"].tolist() == ["one", "two", "two"]
    assert found["said"].tolist() == ["x", "y", "z"]


def test_a_set_given_with_the_tomograms_is_written_for_each_file(particles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "P").mkdir()
    written = [particles(f"P/{name}.star").path for name in ("particles", "class001_a")]
    (tmp_path / "set.star").write_text(optimisation_set("x.star", "tomograms.star"))
    (tmp_path / "tomograms.star").write_text(tomograms_star())
    assert write_optimisation_sets(particles(), tmp_path / "tomograms.star", written) == []
    assert write_optimisation_sets(particles(), None, written) == []
    sets = write_optimisation_sets(particles(), tmp_path / "set.star", written)
    assert [path.name for path in sets] == ["optimisation_set.star", "class001_a_optimisation_set.star"]
    assert [read_particles(path).path.name for path in sets] == [path.name for path in written]


def test_what_is_unlike_everything_learnt_is_unknown_before_it_is_unsure(mixed):
    mixed.fill(np.array([0, 1, 2]), {"unknown_score": np.array([0.5, 3.0, 1.5], np.float32)})
    demands = Demands(min_probability=0.9, max_unknown=1.0)
    decisions = decide(mixed, demands)
    assert decisions.status[:3].tolist() == ["done", "unknown", "unknown"]
    assert decisions.classes[:3].tolist() == [0, -1, -1]
    assert decisions.done.tolist() == [0, 1, 2]
    columns = prediction_columns(decisions, ["a", "b"])
    assert columns["cryoclassUnknownScore"][:4] == ["0.500000", "3.000000", "1.500000", "nan"]
    assert decide(mixed, Demands(min_probability=0.9)).status[1] == "unsure"

"""Nothing is replaced or removed but what the same command has written: no input, no other command's file, no stranger's."""

import json
import shutil
from pathlib import Path

import pytest

from cryoclass.claims import claim
from cryoclass.errors import UsageError
from cryoclass.files import write_text
from cryoclass.records import RECORD, Writes

WRITES = Writes(
    command="predict", last="last", files=("a", "c_*.star"), kept=("kept*",), folders=("outputs",)
)


def run(folder: Path, *names: str, writes: Writes = WRITES, inputs: tuple[Path, ...] = ()) -> None:
    """Write some files into a folder, and the last one, as a command does."""
    with claim(folder, writes, inputs, overwrite=True) as place:
        place.begin()
        with place.finishing():
            for name in (*names, "last"):
                write_text(folder / name, name)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(folder: Path, *names: str, **more: object) -> str:
    before = content(folder)
    with pytest.raises(UsageError) as raised:
        run(folder, *names, **more)
    assert content(folder) == before
    return str(raised.value)


def test_of_an_earlier_run_the_own_files_go_and_all_others_stay(tmp_path):
    run(tmp_path, "a", "c_1.star", "c_2.star")
    for name in ("c_9.star", "mine.txt"):
        (tmp_path / name).write_text("mine")
    run(tmp_path, "c_2.star", writes=Writes(command="predict", last="last"))
    assert set(content(tmp_path)) == {"c_2.star", "c_9.star", "mine.txt", "last", RECORD}
    assert json.loads((tmp_path / RECORD).read_text())["files"] == ["c_2.star", "last"]


@pytest.mark.parametrize("name", ["a", "c_mine.star", "last", "kept1", "outputs/x"])
def test_what_no_run_wrote_is_not_replaced(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    assert f"{tmp_path / name.partition('/')[0]} was not written by" in refused(tmp_path, "a")


def test_a_name_that_turns_out_late_is_not_replaced_either(tmp_path):
    (tmp_path / "late").write_text("mine")
    with pytest.raises(UsageError, match="late was not written by"):
        run(tmp_path, "a", "late")
    assert (tmp_path / "late").read_text() == "mine"
    assert not (tmp_path / "last").exists()
    assert not (tmp_path / "a").exists()


def test_a_folder_of_another_command_is_refused(tmp_path):
    run(tmp_path, "a", writes=Writes(command="finetune", last="last"))
    assert "holds a run of cryoclass finetune" in refused(tmp_path, "b")


def test_a_folder_belongs_to_a_command_from_the_start(tmp_path):
    with claim(tmp_path, WRITES, overwrite=False) as place:
        place.begin()
        (tmp_path / "a").touch()
    other = Writes(command="embed", last="other")
    with pytest.raises(UsageError, match="holds a run of cryoclass predict"):
        run(tmp_path, writes=other)


@pytest.mark.parametrize("spelling", ["last", "./last", "../{}/c_1.star", "link/a"])
def test_an_output_is_never_an_input(spelling, tmp_path, monkeypatch):
    folder = tmp_path / "F"
    run(folder, "a", "c_1.star")
    (folder / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    path = Path(spelling.format("F"))
    assert f"{path} is read by this run" in refused(folder, "a", inputs=(path,))
    run(folder, "a", inputs=(tmp_path / "a", folder / "other"))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 1}', '{"format": 99, "command": "predict"}'])
def test_a_damaged_record_owns_nothing(damage, tmp_path):
    run(tmp_path, "a")
    (tmp_path / RECORD).write_text(damage)
    assert "a was not written by" in refused(tmp_path, "a")


def test_what_a_kill_left_is_removed_or_replaced(tmp_path):
    with claim(tmp_path, WRITES, overwrite=False) as place:
        place.begin()
        (tmp_path / "a").touch()
    orphan = ".cryoclass-0123456789ab.star"
    (tmp_path / "outputs" / "below").mkdir(parents=True)
    for name in ("a", "kept1", orphan, f"outputs/{orphan}", f"outputs/below/{orphan}"):
        (tmp_path / name).write_text("half")
    run(tmp_path, "c_1.star", writes=Writes(command="predict", last="last", kept=("kept*",)))
    assert set(content(tmp_path)) == {"c_1.star", "kept1", "last", RECORD}, "and no orphan"


# ---------------------------------------------------------------------------------------- command line


@pytest.mark.usefixtures("here")
def test_predict_into_the_folder_of_its_input(cryoclass, exported):
    """It replaced the input, and removed a hand-made class file and another command's scores."""
    shutil.copy(exported.particles, "particles.star")
    for name in ("class001_good.star", "metrics.json", "report.html"):
        Path(name).write_text("mine")
    before = content(Path())
    for table in ("particles.star", "class001_good.star"):
        for more in ((), ("--overwrite",), ("--split-classes", "--overwrite")):
            ran = cryoclass("predict", table, "--onnx", exported.onnx, "-o", ".", *more)
            assert ran.status == 2, ran.err
            assert "Choose another --outdir" in ran.err
    assert content(Path()) == before


@pytest.mark.parametrize("verb", ["predict", "embed", "extract", "simulate", "pretrain", "demo"])
@pytest.mark.usefixtures("here")
def test_no_command_writes_into_a_model_folder(verb, cryoclass, trained):
    before = content(trained.model)
    argv = {
        "predict": (trained.particles, "--model", trained.model),
        "embed": (trained.particles, "--model", trained.model),
        "extract": (trained.coordinates, "--tomograms", trained.tomograms, "--box", 16),
    }
    ran = cryoclass(verb, *argv.get(verb, ()), "-o", trained.model, "--overwrite")
    assert ran.status == 2
    assert "holds a run of cryoclass finetune" in ran.err
    assert content(trained.model) == before


def test_a_model_is_not_trained_over_the_one_it_starts_from(cryoclass, trained, here):
    shutil.copytree(trained.model, here / "F")
    before = content(here / "F")
    ran = cryoclass("finetune", trained.particles, "--init", "F", "-o", "F", "--overwrite")
    assert ran.status == 2
    assert "F/model.json is read by this run" in ran.err
    assert content(here / "F") == before


@pytest.mark.parametrize("name", ["random", "auto"])
def test_a_folder_may_be_called_as_a_start(name, cryoclass, extracted, here):
    """``--init random -o random`` names no model folder to start from."""
    (here / name).mkdir()
    (here / name / "model.json").write_text("{}")
    ran = cryoclass("finetune", extracted.particles, "--init", name, "-o", name, "--overwrite")
    assert "is read by this run" not in ran.err
    assert f"{name}/model.json was not written by" in ran.err


@pytest.mark.parametrize("argument", ["a=F/predictions.star", "F/predictions.star", "./F/predictions.star"])
def test_a_training_does_not_replace_its_own_labels(argument, cryoclass, trained, here):
    shutil.copytree(trained.model, here / "F")
    before = content(here / "F")
    more = ("b=F/predictions.star",) if "=" in argument else ()
    ran = cryoclass("finetune", argument, *more, "-o", "F", "--overwrite")
    assert ran.status == 2
    assert "F/predictions.star is read by this run" in ran.err
    assert content(here / "F") == before


def test_boxes_of_another_program_are_not_replaced(cryoclass, trained, here):
    """RELION's Extract jobs have a folder of that name, and files of those names."""
    box = here / "X" / "Subtomograms" / "TS_01" / "TS_01_000001.mrc"
    box.parent.mkdir(parents=True)
    box.write_text("mine")
    cut = ("--tomograms", trained.tomograms, "--box", 16, "-o", "X")
    ran = cryoclass("extract", trained.coordinates, *cut, "--overwrite")
    assert ran.status == 2
    assert "X/Subtomograms was not written by" in ran.err
    assert box.read_text() == "mine"

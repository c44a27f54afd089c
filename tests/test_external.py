"""Commands as External jobs of RELION, and what goes back to RELION 5 and Warp."""

import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import starfile

from cryoclass.cli import app, main
from cryoclass.cli.external import translate
from cryoclass.particles import read_particles
from cryoclass.results import decide_all, prediction_columns
from cryoclass.star.document import StarFile
from cryoclass.star.external import ABORT_NOW, OUTPUT_NODES, End, ExternalJob, Kind, Node
from cryoclass.tomograms import find_tomograms

SUCCESS, FAILURE, ABORTED = (end.value for end in End)
FINISHED, FAILED = "2", "3"  # in default_pipeline.star of RELION 3.1
relion = pytest.mark.skipif(
    shutil.which("relion_pipeliner") is None, reason="RELION is not installed (apt-get install relion)"
)


def translated(line: str) -> list[str]:
    call = translate(shlex.split(line), app)
    assert call is not None
    return list(call.argv)


def markers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("RELION_JOB_*"))


def nodes(folder: Path) -> dict[str, tuple[int, str]]:
    table = starfile.read(folder / OUTPUT_NODES)
    rows = zip(table["rlnPipeLineNodeType"], table["rlnPipeLineNodeTypeLabel"], strict=True)
    return dict(zip(table["rlnPipeLineNodeName"], rows, strict=True))


# ------------------------------------------------------------------------------------------ translation


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            "predict --o External/job001/ --in_parts particles.star --onnx model.onnx --j 3 ",
            "predict particles.star --o External/job001/ --onnx model.onnx --j 3 --overwrite",
        ),
        (
            "extract --o E/ --in_mics tomograms.star --in_coords c.star --box 32 --pipeline_control E/ --j 1",
            "extract c.star --tomograms tomograms.star --o E/ --box 32 --j 1 --overwrite",
        ),
        (
            "embed --o E/ --in_movies m.star --in_parts p.star --in_3dref r.mrc --in_mask k.mrc --model F --j 1",
            "embed p.star --o E/ --model F --j 1 --overwrite",
        ),
        (
            "finetune --o E/ --in_parts p.star --label_column rlnGroupName --input_size 8 16 16 --val_fraction 0.5",
            "finetune p.star --o E/ --label-column rlnGroupName --input-size 8 16 16 --val-fraction 0.5 --overwrite",
        ),
        (
            "predict --in_parts p.star --min_probability=0.5",
            "predict p.star --min-probability 0.5 --overwrite",
        ),
        ("predict --in_parts p.star --tomograms a --in_mics b", "predict p.star --tomograms a --overwrite"),
        ("predict --in_parts p.star --model  --j 3", "predict p.star --j 3 --overwrite"),
        ("predict --in_parts p.star --no_such_thing 5", "predict p.star --no_such_thing 5 --overwrite"),
        ("predict --in_parts --o E/ x.star --overwrite", "predict --o E/ x.star --overwrite"),
        ("finetune --in_parts p.star -n 5 -b 8", "finetune p.star -n 5 -b 8 --overwrite"),
        ("predict --in_parts p.star '' ' ' --onnx ''", "predict p.star --overwrite"),
    ],
)
def test_the_words_of_relion_become_ours(theirs, ours):
    assert translated(theirs) == ours.split()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("--split_classes", ["--split-classes"]),
        ("--split-classes Yes", ["--split-classes"]),
        ("--split_classes true", ["--split-classes"]),
        ("--split_classes 1", ["--split-classes"]),
        ("--split_classes no", []),
        ("--split_classes False", []),
        ("--norm Yes", ["--norm"]),
        ("--norm No", ["--no-norm"]),
        ("--no_norm", ["--no-norm"]),
        ("--no_norm No", ["--norm"]),
    ],
)
def test_flags_may_have_a_value(said, meant):
    assert translated(f"predict --in_parts p.star {said}") == ["predict", "p.star", *meant, "--overwrite"]


@pytest.mark.parametrize("flag", ["--o", "-o", "--outdir"])
def test_a_folder_with_a_job_star_makes_an_external_job(tmp_path, flag):
    folder = tmp_path / "External" / "job007"
    words = ["predict", "p.star", flag, str(folder)]
    assert translate(words, app) is None
    folder.mkdir(parents=True)
    (folder / "job.star").touch()
    call = translate(words, app)
    assert call is not None
    assert call.folder == folder


def test_other_calls_are_not_relions():
    for words in (
        [],
        ["--help"],
        ["predict", "p.star"],
        ["simulate", "-o", "x"],
        ["export", "--in_parts", "x"],
    ):
        assert translate(words, app) is None


def test_what_is_left_out_is_said(cryoclass, exported, monkeypatch):
    monkeypatch.chdir(exported.root)
    line = "predict --o Job1/ --in_parts Extract/particles.star --in_mask mask.mrc --model  --onnx model.onnx --j 1"
    ran = cryoclass(*shlex.split(line))
    assert ran.status == 0
    assert "not used here: --in_mask mask.mrc" in ran.out
    assert "left out, since it has no value: --model" in ran.out
    assert "not used here" not in ran.err, "RELION shows this in red"
    assert "left out" not in ran.err


# --------------------------------------------------------------------------------------------- protocol


def test_nodes_are_for_every_relion(tmp_path):
    job = ExternalJob(folder=tmp_path)
    path = Path("External/job001/particles.star")
    job.write_nodes(
        [Node(path=path, kind=Kind.PARTICLES), Node(path=Path("a b.star"), kind=Kind.OPTIMISATION_SET)]
    )
    star = StarFile.read(tmp_path / OUTPUT_NODES)
    block = star.block("output_nodes")
    assert star.version is None
    assert star.columns(block, block.labels) == [
        ["External/job001/particles.star", "a b.star"],
        ["3", "50"],
        ["ParticleGroupMetadata.star.relion", "TomoOptimisationSet.star.relion"],
    ]


def test_a_rerun_into_the_same_folder_is_accepted(cryoclass, exported, monkeypatch):
    monkeypatch.chdir(exported.root)
    folder = Path("External/job010")
    call = ["predict", "--o", f"{folder}/", "--in_parts", "Extract/particles.star", "--model", "Finetune"]
    assert cryoclass(*call, "--split_classes", "--j", "1").status == 0
    assert markers(folder) == [SUCCESS]
    first = nodes(folder)
    assert first[f"{folder}/particles.star"] == (3, "ParticleGroupMetadata.star.relion")
    parts = list(folder.glob("class*_*.star"))
    assert parts
    assert set(first) == {f"{folder}/particles.star", *map(str, parts)}
    (folder / FAILURE).touch()
    assert cryoclass(*call, "--split_classes", "No").status == 0
    assert markers(folder) == [SUCCESS]
    assert list(nodes(folder)) == [f"{folder}/particles.star"], "the old classes are not of this run"


@pytest.mark.parametrize(
    ("label", "status"), [("--onnx nothing.onnx", 1), ("--onx model.onnx", 2), ("--model ", 2)]
)
def test_failure_is_told(cryoclass, extracted, monkeypatch, tmp_path, label, status):
    monkeypatch.chdir(extracted.root)
    (tmp_path / SUCCESS).touch()
    ran = cryoclass("predict", "--o", tmp_path, "--in_parts", "Extract/particles.star", *label.split())
    assert ran.status == status
    assert label.split()[0] in ran.err
    assert markers(tmp_path) == [FAILURE]


def test_a_defect_is_told_as_failure(extracted, monkeypatch, tmp_path):
    monkeypatch.chdir(extracted.root)
    monkeypatch.setattr("cryoclass.extraction.cut_all", lambda *_: 1 / 0)
    call = ["extract", "--o", str(tmp_path), "--in_coords", "Simulated/coordinates.star", "--box", "16"]
    with pytest.raises(ZeroDivisionError):
        main([*call, "--tomograms", "Simulated/tomograms"])
    assert markers(tmp_path) == [FAILURE]


def test_an_abort_is_obeyed_and_told(cryoclass, extracted, monkeypatch, tmp_path):
    monkeypatch.chdir(extracted.root)
    (tmp_path / ABORT_NOW).touch()
    call = ["extract", "--o", tmp_path, "--in_coords", "Simulated/coordinates.star", "--box", "16"]
    assert cryoclass(*call, "--tomograms", "Simulated/tomograms").status == 130
    assert markers(tmp_path) == [ABORTED]
    assert not (tmp_path / "particles.star").exists()


TRAIN = (
    "--in_parts Extract/particles.star --backbone r3d10 --input_size 8 16 16 --num_epochs 9999 --device cpu"
)


def test_training_can_be_aborted(cryoclass, extracted, monkeypatch, tmp_path):
    monkeypatch.chdir(extracted.root)

    def press_abort() -> None:
        deadline = time.monotonic() + 120
        while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        (tmp_path / ABORT_NOW).touch()

    button = threading.Thread(target=press_abort, daemon=True)
    button.start()
    ran = cryoclass("finetune", "--o", tmp_path, *TRAIN.split(), "--j", "1")
    button.join()
    assert ran.status == 130
    assert "what is finished is kept" in ran.out
    assert markers(tmp_path) == [ABORTED]


def test_a_signal_is_told_as_failure(console_script, extracted):
    folder = extracted.root / "External" / "job011"
    process = console_script("finetune", "--o", folder, *TRAIN.split(), cwd=extracted.root)
    too_late = threading.Timer(120, process.kill)  # a line that never comes would be waited for without end
    too_late.start()
    while not process.stdout.readline().startswith("epoch"):
        assert process.poll() is None
    too_late.cancel()
    assert markers(folder) == []
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert markers(folder) == [FAILURE]
    assert "Traceback" not in err


def test_a_job_folder_that_cannot_be_made_is_an_error(cryoclass, tmp_path):
    (tmp_path / "file").touch()
    ran = cryoclass("predict", "--o", tmp_path / "file", "--in_parts", "x.star")
    assert ran.status == 1
    assert "file" in ran.err


# ------------------------------------------------------------------------------------------- real RELION


@relion
def test_the_real_pipeliner_runs_our_jobs(exported, tmp_path):
    (tmp_path / "tomograms").symlink_to(exported.tomograms)
    model = "relion_model.onnx"  # "relion_" anywhere in a command makes RELION add --pipeline_control
    (tmp_path / model).symlink_to(exported.onnx)
    shutil.copy(exported.coordinates, tmp_path)
    (tmp_path / ".gui_projectdir").touch()
    (tmp_path / "default_pipeline.star").write_text("\ndata_pipeline_general\n\n_rlnPipeLineJobCounter 1\n\n")
    extract = external_job("extract", in_coords="coordinates.star", tomograms="tomograms", box="16")
    assert run_job(tmp_path, extract, "External/job001/") == FINISHED
    particles = "External/job001/particles.star"
    predict = external_job("predict", in_part=particles, onnx=model, split_classes="Yes", device="")
    assert run_job(tmp_path, predict, "External/job002/") == FINISHED
    assert "--pipeline_control External/job002/" in (tmp_path / "External/job002/note.txt").read_text()
    number = read_particles(tmp_path / "External/job002/particles.star").labels("rlnClassNumber")[0]
    select = select_job("External/job002/particles.star", number)
    assert run_job(tmp_path, select, "Select/job003/") == FINISHED
    broken = external_job("extract", in_coords="coordinates.star", tomograms="tomograms")  # no box
    assert run_job(tmp_path, broken, "External/job004/") == FAILED
    chosen = read_particles(tmp_path / "Select/job003/particles.star")
    assert set(chosen.labels("rlnClassNumber")) == {number}
    edges = pipeline(tmp_path, "output_edges", "rlnPipeLineEdgeToNode", "rlnPipeLineEdgeProcess")
    assert edges[particles] == "External/job001/"
    assert edges["External/job002/particles.star"] == "External/job002/"
    assert edges["Select/job003/particles.star"] == "Select/job003/"
    split = [node for node in edges if node.startswith("External/job002/class")]
    assert len(split) == len(
        set(read_particles(tmp_path / "External/job002/particles.star").labels("rlnClassNumber"))
    )


def external_job(command: str, *, in_part: str = "", in_coords: str = "", **params: str) -> str:
    """Return a job.star as RELION's GUI writes it."""
    script = Path(sys.executable).with_name("cryoclass")
    program = str(script) if script.exists() else f"{sys.executable} -m cryoclass"
    options = {"do_queue": "No", "fn_exe": f"{program} {command}", "in_part": in_part, "in_coords": in_coords}
    options |= dict.fromkeys(("in_3dref", "in_mask", "in_mic", "in_mov", "other_args"), "")
    options |= {"min_dedicated": "1", "nr_threads": "1"}
    for number, (label, value) in enumerate([*params.items(), *[("", "")] * (10 - len(params))], 1):
        options |= {f"param{number}_label": label, f"param{number}_value": value}
    return job_star(99, options)


def select_job(particles: str, number: str) -> str:
    """Return the job.star of RELION's own subset selection, which runs relion_star_handler."""
    off = ("discard", "queue", "random", "recenter", "regroup", "remove_duplicates", "split")
    options = {f"do_{name}": "No" for name in off} | dict.fromkeys(
        ("fn_coords", "fn_mic", "fn_model", "other_args"), ""
    )
    options |= {"do_select_values": "Yes", "fn_data": particles, "select_label": "rlnClassNumber"}
    options |= {"select_minval": number, "select_maxval": number, "min_dedicated": "1", "nr_groups": "1"}
    options |= {"discard_label": "rlnImageName", "discard_sigma": "4", "duplicate_threshold": "30"}
    return job_star(7, options | {"image_angpix": "-1", "nr_split": "-1", "split_size": "100"})


def job_star(kind: int, options: dict[str, str]) -> str:
    values = "".join(f'{name} "{value}"\n' for name, value in options.items())
    head = f"\ndata_job\n\n_rlnJobType {kind}\n_rlnJobIsContinue 0\n\n\ndata_joboptions_values\n\nloop_\n"
    return f"{head}_rlnJobOptionVariable #1\n_rlnJobOptionValue #2\n{values}\n"


def run_job(project: Path, job: str, name: str) -> str:
    """Let RELION schedule and run a job; return its status in the pipeline."""
    (project / "job.star").write_text(job)
    for words in (
        ["--addJobFromStar", "job.star"],
        ["--RunJobs", name, "--schedule", name.replace("/", ""), "--min_wait", "0", "--sec_wait_after", "0"],
    ):
        subprocess.run(
            ["relion_pipeliner", *words], cwd=project, check=True, capture_output=True, timeout=120
        )
    status = pipeline(project, "processes", "rlnPipeLineProcessName", "rlnPipeLineProcessStatus")[name]
    print((project / name / "run.out").read_text(), (project / name / "run.err").read_text())  # noqa: T201
    return status


def pipeline(project: Path, block: str, key: str, value: str) -> dict[str, str]:
    star = StarFile.read(project / "default_pipeline.star")
    return dict(zip(*star.columns(star.block(f"pipeline_{block}"), [key, value]), strict=True))


# ------------------------------------------------------------------------------ back to RELION 5 and Warp

LIST = '\n# version 50001\n\ndata_\n\n_rlnTomoParticlesFile   {}\n_rlnTomoTomogramsFile   {}\n_rlnTomoTrajectoriesFile ""\n\n'
LOOP = "\ndata_optimisation_set\n\nloop_\n_rlnTomoParticlesFile #1\n_rlnTomoTomogramsFile #2\n{}\t{}\n\n"


@pytest.fixture
def project(exported, tmp_path, monkeypatch):
    """A project with a RELION 5 list of its tomograms."""
    monkeypatch.chdir(tmp_path)
    for name in ("Simulated", "Extract", "model.onnx"):
        (tmp_path / name).symlink_to(exported.root / name)
    names = sorted(exported.tomograms.glob("*.mrc"))
    rows = "".join(f"{path.stem} 20.0 Simulated/tomograms/{path.name}\n" for path in names)
    labels = "_rlnTomoName #1\n_rlnTomoTiltSeriesPixelSize #2\n_rlnTomoReconstructedTomogram #3\n"
    Path("Tomograms").mkdir()
    Path("Tomograms/tomograms.star").write_text(f"\ndata_global\n\nloop_\n{labels}{rows}\n")
    return tmp_path


@pytest.mark.parametrize("text", [LIST, LOOP])
def test_an_optimisation_set_leads_in_and_out(project, text):
    Path("optimisation_set.star").write_text(
        text.format("Simulated/coordinates.star", "Tomograms/tomograms.star")
    )
    folder = project / "External" / "job001"
    folder.mkdir(parents=True)
    (folder / "job.star").touch()
    assert main(["extract", "optimisation_set.star", "--box", "16", "-o", str(folder)]) == 0
    written = (folder / "optimisation_set.star").read_text()
    assert (
        written.split() == text.format("External/job001/particles.star", "Tomograms/tomograms.star").split()
    )
    assert nodes(folder) == {
        "External/job001/particles.star": (3, "ParticleGroupMetadata.star.relion"),
        "External/job001/optimisation_set.star": (50, "TomoOptimisationSet.star.relion"),
    }


@pytest.mark.usefixtures("project")
def test_each_class_gets_an_optimisation_set():
    Path("given.star").write_text(LIST.format("Extract/particles.star", "tomograms.star"))
    shutil.move("Tomograms/tomograms.star", "tomograms.star")
    Path("Deep").mkdir()
    shutil.move("given.star", "Deep/given.star")
    assert (
        main(["predict", "Deep/given.star", "--onnx", "model.onnx", "--split-classes", "-o", "Predict"]) == 0
    )
    stars = [Path("Predict/particles.star"), *Path("Predict").glob("class0*[!t].star")]
    stars = [star for star in stars if "optimisation_set" not in star.name]
    assert len(stars) > 1
    sets = [read_particles(path) for path in Path("Predict").glob("*optimisation_set.star")]
    assert sorted(str(particles.path) for particles in sets) == sorted(map(str, stars))
    for particles in sets:
        assert particles.optimisation_set.text.blocks[0].items["rlnTomoTomogramsFile"] == "tomograms.star"


@pytest.mark.usefixtures("project")
def test_entries_beside_the_set_become_paths_from_the_project():
    """WarpTools writes names relative to the set where it is asked to."""
    folder = Path("Warp")
    folder.mkdir()
    shutil.copy("Extract/particles.star", folder / "run.star")
    shutil.move("Tomograms/tomograms.star", folder / "run_tomograms.star")
    (folder / "run_optimisation_set.star").write_text(LIST.format("run.star", "run_tomograms.star"))
    assert main(["predict", "Warp/run.star", "--onnx", "model.onnx", "-o", "Predict"]) == 0
    written = StarFile.read(Path("Predict/optimisation_set.star"))
    assert written.blocks[0].items == {
        "rlnTomoParticlesFile": "Predict/particles.star",
        "rlnTomoTomogramsFile": "Warp/run_tomograms.star",
        "rlnTomoTrajectoriesFile": "",
    }


@pytest.mark.usefixtures("project")
def test_a_set_of_other_particles_is_not_taken():
    shutil.copy("Extract/particles.star", "mine.star")
    Path("optimisation_set.star").write_text(
        LIST.format("Extract/particles.star", "Tomograms/tomograms.star")
    )
    assert read_particles(Path("mine.star")).optimisation_set is None
    assert main(["predict", "mine.star", "--onnx", "model.onnx", "-o", "Predict"]) == 0
    assert not list(Path("Predict").glob("*optimisation_set.star"))


def test_a_list_of_micrographs_gives_the_tomograms(project):
    volumes = sorted(Path("Simulated/tomograms").iterdir())
    rows = "".join(f"{path} 1\n" for path in volumes)
    Path("mics.star").write_text(
        f"\ndata_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n{rows}\n"
    )
    names = [f"{path.stem}.tomostar" for path in volumes]
    found = find_tomograms(names, Path("mics.star"), Path("particles.star"))
    assert [tomogram.paths for tomogram in found.values()] == [(path,) for path in volumes]
    line = "extract --o E/ --in_mics mics.star --in_coords Simulated/coordinates.star --box 16 --j 1"
    assert main(line.split()) == 0
    assert (project / "E" / SUCCESS).exists()


@pytest.mark.parametrize("dialect", ["warp", "relion30"])
@pytest.mark.usefixtures("project")
def test_classes_are_files_that_warp_reads(dialect):
    """Warp splits rows at blanks, knows no quotes, and takes columns from the numbers behind ``#``."""
    simulate = f"simulate -o In --dialect {dialect} --species 3 --per-species 2 --tomograms 2 --size 32 96 96 --box 16 --angpix 20"
    steps = [
        simulate,
        "extract In/coordinates.star --tomograms In/tomograms --box 16 -o Out",
        "predict Out/particles.star --onnx model.onnx --split-classes -o Predict",
    ]
    assert [main(step.split()) for step in steps] == [0, 0, 0]
    parts = sorted(Path("Predict").glob("class00[1-9]*.star"))
    rows = [row for part in parts for row in warp_reads(part)]
    assert len(rows) == 6
    assert {row["rlnImageName"] for row in rows} == {str(path) for path in Path("Out").rglob("*.mrc")}
    for part in parts:
        assert "# version" not in part.read_text(), "RELION refuses it where there is no optics table"
        assert {row["rlnClassNumber"] for row in warp_reads(part)} == {str(int(part.name[5:8]))}


def warp_reads(path: Path) -> list[dict[str, str]]:
    """Read the first loop as WarpLib's Star.cs does."""
    lines = path.read_text().split("\n")
    assert "\r" not in path.read_text()
    start = lines.index("loop_") + 1
    names: dict[int, str] = {}
    while lines[start].startswith("_"):
        label, number = lines[start].split()
        names[int(number.removeprefix("#"))] = label[1:]
        start += 1
    end = lines.index("", start)
    cells = [line.split() for line in lines[start:end]]
    assert list(names) == list(range(1, len(names) + 1))
    assert all(len(row) == len(names) for row in cells)
    return [{name: row[number - 1] for number, name in names.items()} for row in cells]


@pytest.mark.usefixtures("project")
def test_a_version_without_optics_does_not_come_back():
    text = Path("Extract/particles.star").read_text()
    start = text.index("data_particles")
    labels = [line for line in text[start:].split("\n") if line.startswith("_")]
    assert "_rlnOpticsGroup" in "".join(labels)
    Path("mine.star").write_text("\n# version 30001\n\n" + text[start:])
    particles = read_particles(Path("mine.star")).with_columns({"rlnClassNumber": ["1"] * 36})
    assert particles.file.rows.text.to_bytes().count(b"# version") == 0
    assert particles.cells("rlnClassNumber") == ["1"] * 36


@relion
@pytest.mark.usefixtures("project")
def test_picks_of_relion_5_get_the_optics_of_their_tomograms():
    """Picks have none, but RELION reads no images without."""
    microscope = (
        "_rlnOpticsGroupName #4\n_rlnVoltage #5\n_rlnSphericalAberration #6\n_rlnAmplitudeContrast #7\n"
    )
    lines = Path("Tomograms/tomograms.star").read_text().split("\n")
    rows = [f"{line} group{number} 300 2.7 0.1" for number, line in enumerate(lines[7:10])]
    rows[1] = rows[1].replace("group1", "group0")
    Path("Tomograms/tomograms.star").write_text(
        "\n".join([*lines[:7], *microscope.split("\n")[:-1], *rows, "", ""])
    )
    axes = "".join(f"_rlnCenteredCoordinate{axis}Angst #{number}\n" for number, axis in enumerate("XYZ", 2))
    picks = "".join(f"{line.split()[0]}\t{100 * number}\t-50.5\t7\n" for number, line in enumerate(rows))
    Path("picks.star").write_text(f"\ndata_particles\n\nloop_\n_rlnTomoName #1\n{axes}{picks}\n")
    assert (
        main(["extract", "picks.star", "--tomograms", "Tomograms/tomograms.star", "--box", "16", "-o", "E"])
        == 0
    )
    select = ["--select", "rlnOpticsGroup", "--minval", "1", "--maxval", "1"]
    subprocess.run(["relion_star_handler", "--i", "E/particles.star", "--o", "one.star", *select], check=True)
    chosen = read_particles(Path("one.star"))
    assert chosen.cells("rlnTomoName") == ["TS_01", "TS_02"]
    written = read_particles(Path("E/particles.star"))
    assert written.dialect == "RELION 5"
    assert written.angpix.tolist() == [20.0, 20.0, 20.0]
    optics = written.file.rows.optics_table
    assert written.file.rows.text.column(optics, "rlnOpticsGroupName") == ["group0", "group2"]
    assert written.file.rows.text.column(optics, "rlnTomoSubtomogramBinning") == ["1.000000", "1.000000"]
    assert written.file.rows.text.column(optics, "rlnTomoTiltSeriesPixelSize") == ["20.0", "20.0"]


def test_class_names_lose_their_blanks():
    """Warp would take them for two values."""
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    columns = prediction_columns(decide_all(probabilities), ["80S  ribosome", "junk"])
    assert columns["cryoclassClassName"] == ["80S_ribosome", "junk"]

"""``cryoclass backbones``: the table, and weights that come by hand."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from network_helpers import published_state, shake

from cryoclass.backbones import packaged
from cryoclass.backbones.packaged import packaged_weights
from cryoclass.backbones.registry import BACKBONES, spec

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- backbones: written by `cryoclass backbones list --markdown` -->\n", "<!-- /backbones -->"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYOCLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def damaged(tmp_path, monkeypatch):
    """A copy of the weights in the package, and a function that changes one byte of it."""
    shutil.copytree(packaged.FOLDER, tmp_path / "packaged")
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "packaged")
    path = tmp_path / "packaged" / "res32-species.safetensors"
    content = path.read_bytes()
    return lambda: path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.fixture
def weights(tmp_path):
    """A file as the release of 2020 is laid out."""
    torch.manual_seed(0)
    state = published_state(shake(spec("r3d18-k700").build(3)), classes=700)
    torch.save({"epoch": 200, "arch": "resnet", "state_dict": state}, tmp_path / "r3d18_K_200ep.pth")
    return tmp_path / "r3d18_K_200ep.pth"


@pytest.mark.usefixtures("cache")
def test_the_list_fits_a_terminal_and_says_all(cryoclass):
    ran = cryoclass("backbones", "list")
    assert ran.status == 0
    assert max(map(len, ran.out.splitlines())) <= 80
    lines = {line.split()[0]: line for line in ran.out.splitlines() if not line.startswith(" ")}
    assert set(lines) == {"name", *BACKBONES}
    assert lines["r3d34-k400"].split() == [
        "r3d34-k400",
        "Kinetics-400",
        "63.3",
        "54.0",
        "512",
        "MIT",
        "254",
        "no",
    ]
    assert lines["r3d10"].split() == ["r3d10", "-", "14.2", "17.8", "512", "BSD-3-Clause", "-", "-"]


def test_the_readme_holds_the_table_as_it_is(cryoclass):
    table = cryoclass("backbones", "list", "--markdown").out
    held = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert held == table, (
        "put the output of: cryoclass backbones list --markdown between the two marks in README.md"
    )


def test_weights_that_come_by_hand(cryoclass, cache, weights, extracted, tmp_path):
    ran = cryoclass("backbones", "fetch", "r3d18-k700")
    assert ran.status == 1
    assert "drive.google.com" in ran.err
    assert "cryoclass backbones import r3d18-k700 FILE" in ran.err

    ran = cryoclass("backbones", "import", "r3d18-k700", weights)
    assert ran.status == 0
    assert "MIT is the licence of Kensho Hara's repository" in ran.out
    assert (cache / "r3d18_K_200ep.pth").is_file()
    assert cryoclass("backbones", "fetch", "r3d18-k700").status == 0
    assert "r3d18-k700" in cryoclass("backbones", "verify").out
    assert " yes" in next(
        line for line in cryoclass("backbones", "list").out.splitlines() if line.startswith("r3d18-k700")
    )

    wish = ("--backbone", "r3d18-k700", "--input-size", 8, 16, 16, "--depth", "keep", "--beam-axis", "x")
    ran = cryoclass(
        "embed", extracted.particles, *wish, "--map", "pca", "--device", "cpu", "-o", tmp_path / "Embed"
    )
    assert ran.status == 0, ran.err
    assert "grey values as-pretrained" in ran.err
    assert np.load(tmp_path / "Embed" / "embeddings.npy").shape == (36, 512)


@pytest.mark.usefixtures("cache")
def test_weights_in_the_package_need_no_cache(cryoclass, tmp_path):
    size = packaged_weights(spec("res32-species")).stat().st_size
    listed = cryoclass("backbones", "list").out.splitlines()
    line = next(line for line in listed if line.startswith("res32-species"))
    assert line.split()[-2:] == [f"{size / 1e6:.0f}", "yes"]

    ran = cryoclass("backbones", "verify")
    assert ran.status == 0
    assert re.findall(r"verified (\S+)", ran.out) == [
        name for name, entry in BACKBONES.items() if entry.packaged
    ]
    ran = cryoclass("backbones", "fetch", "res32-species")
    assert ran.status == 0
    assert "come with cryoclass" in ran.out
    assert not list(tmp_path.iterdir()), "nothing is copied into the cache"


def test_verify_holds_the_packaged_weights_against_their_card(cryoclass, damaged):
    assert cryoclass("backbones", "verify", "res32-species").status == 0
    damaged()
    ran = cryoclass("backbones", "verify", "res32-species")
    assert ran.status == 1
    assert "is not the file that its card describes" in ran.err
    assert "hint:  Install cryoclass again." in ran.err


def test_finetune_freezes_a_backbone_with_the_grey_values_of_its_weights(
    cryoclass, weights, extracted, tmp_path
):
    argv = ("finetune", extracted.particles, "--backbone", "r3d18-k700", "--weights", weights, "--freeze")
    more = ("--intensity", "as-pretrained", "--input-size", 8, 16, 16, "--device", "cpu")
    ran = cryoclass(*argv, *more, "-o", tmp_path / "Frozen")
    assert ran.status == 0, ran.err
    ran = cryoclass(
        "predict", extracted.particles, "--model", tmp_path / "Frozen", "-o", tmp_path / "Predict"
    )
    assert ran.status == 0, ran.err

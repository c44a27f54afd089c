"""Scores that mean nothing are not printed as if they did, and the page says what the terminal says."""

import html
import random
import re
from pathlib import Path

import pytest
from cli_helpers import NETWORK, SPECIES


@pytest.fixture
def shuffled(here) -> Path:
    """The project's particles with their labels dealt out at random."""
    lines = (here / "Extract" / "particles.star").read_text().splitlines(keepends=True)
    rows = [n for n, line in enumerate(lines) if set(line.split()) & set(SPECIES)]
    labels = [next(word for word in lines[n].split() if word in SPECIES) for n in rows]
    dealt = random.Random(2).sample(labels, len(labels))
    for number, old, new in zip(rows, labels, dealt, strict=True):
        lines[number] = lines[number].replace(old, new)
    Path("shuffled.star").write_text("".join(lines))
    return Path("shuffled.star")


def warnings(err: str) -> list[str]:
    return re.findall(r"^warning: (.*)$", err, re.MULTILINE)


def caveats(page: str) -> list[str]:
    return [
        html.unescape(text) for text in re.findall(r'<p class="caveat">(.*?)</p>', Path(page).read_text())
    ]


def test_random_labels_are_no_better_than_guessing(cryoclass, shuffled):
    ran = cryoclass("finetune", shuffled, "--freeze", "-o", "F", "--split", "particle")
    assert ran.status == 0, ran.err
    said = [line for line in warnings(ran.err) if "scored particles" in line]
    assert said[0].startswith("No better than guessing, as far as 6 scored particles can tell")
    assert said[1].startswith("Few scored particles of aldolase (2), ")
    assert caveats("F/report.html") == said
    assert re.search(r"^aldolase +2  +\S+.*[0-2] of 2 \(0\.", ran.out, re.MULTILINE)
    assert not re.search(r"\d\.\d{3}", ran.out.partition("by class")[2])


@pytest.mark.usefixtures("here")
def test_a_loss_that_grew_is_named_beside_the_guessing(cryoclass):
    ran = cryoclass("finetune", "Extract/particles.star", *NETWORK, "-n", 1, "--lr", 10, "-o", "F")
    assert ran.status == 0, ran.err
    first, *_, last = [line for line in warnings(ran.err) if "guessing" in line]
    assert first.startswith("No better than guessing")
    assert re.match(r"The training loss, \S+ at the end, is no lower than that of guessing, 1\.1: ", last)
    assert last in caveats("F/report.html")


@pytest.mark.usefixtures("here")
def test_predict_says_of_labels_what_its_page_says(cryoclass, trained):
    ran = cryoclass("predict", "Extract/particles.star", "--model", trained.model, "-o", "P")
    known = (
        "The model may have learnt from some of these labels; particles that it never saw may score lower."
    )
    assert f"mind               {known}" in ran.out
    assert [*warnings(ran.err), known] == caveats("P/report.html")

"""Figures and pages, looked at through what a reader sees: text, pictures and numbers."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from sklearn.metrics import roc_auc_score

from cryoclass.errors import OutputError
from cryoclass.metrics import evaluate
from cryoclass.report import figures, images, pages, scores, style
from cryoclass.report.content import (
    Classified,
    Curves,
    EmbedContent,
    Example,
    ExtractContent,
    Gallery,
    Grouping,
    PredictContent,
    Scored,
    TomogramSheet,
    TrainContent,
)

NASTY = "<script>alert(1)</script>"


# --------------------------------------------------------------------------------------------- made-up content


def blob(side=16, seed=0):
    z, y, x = np.mgrid[:side, :side, :side] - side // 2
    ball = (z**2 + y**2 + x**2 < (side / 4) ** 2).astype(np.float32)
    return ball + 0.1 * np.random.default_rng(seed).standard_normal(ball.shape).astype(np.float32)


def names(number):
    return [NASTY, "a$b$", *(f"species {i}" for i in range(2, number))][:number]


def scored(number=90, classes=3, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(number) % classes
    logits = random.standard_normal((number, classes))
    logits[np.arange(number), labels] += 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Scored(classes=names(classes), probabilities=probabilities.astype(np.float32), labels=labels)


def curves(epochs=5):
    numbers = np.arange(1, epochs + 1)
    falling = 1.0 / numbers
    return Curves(
        at=numbers,
        train_loss=falling,
        val_loss=falling + 0.1,
        val_auc=1 - falling / 2,
        val_accuracy=1 - falling,
        best=epochs,
    )


def trained(what, epochs=5, **changes):
    content = {
        "curves": curves(epochs),
        "measured_on": "test particles, from tomograms that training never saw",
        "scored": what,
        "mistakes": [
            Example(box=blob(), row=4711, tomogram=NASTY, true=NASTY, predicted="a$b$", probability=0.987)
        ],
        "classes": what.classes,
        "counts": {"train": [7] * len(what.classes), "val": [3] * len(what.classes)},
        "settings": {"recipe": {"name": "paper", "lr": 1e-4}, "resume": False, "weights": None},
        "versions": {"torch": "9.9.9"},
    }
    return TrainContent(**content | changes)


def extracted(tomograms=2, examples=2, side=16):
    sheets = [
        TomogramSheet(
            name=f"TS_{i:04d} {NASTY}",
            written=1000 + i,
            skipped=i,
            examples=[Example(box=blob(side, j), row=100 * i + j) for j in range(examples)],
        )
        for i in range(tomograms)
    ]
    return ExtractContent(
        tomograms=sheets,
        mean_box=blob(),
        angpix=10.0,
        reasons={"outside the tomogram": 3, NASTY: 4},
        settings={"box": 16},
    )


def classified(number=90, classes=3):
    what = scored(number, classes)
    assigned = what.probabilities.argmax(axis=1)
    assigned[:5] = -1
    example = Example(box=blob(), row=12, predicted=NASTY, probability=0.75)
    galleries = [Gallery(name=name, most=[example], least=[example]) for name in what.classes]
    return PredictContent(
        count=number,
        classified=Classified(scored=what, assigned=assigned, galleries=galleries),
        skipped={"the volume is constant": 2},
    )


def predicted(what, assigned, **more):
    return PredictContent(count=len(assigned), classified=Classified(scored=what, assigned=assigned, **more))


def embedded(number=60, groups=3, method="tsne"):
    random = np.random.default_rng(3)
    index = np.arange(number) % groups
    return EmbedContent(
        points=random.standard_normal((number, 2)).astype(np.float32),
        rows=np.arange(1, number + 1),
        tomograms=[NASTY] * number,
        groupings=[
            Grouping(title="label", names=names(groups), index=np.where(index == 0, -1, index)),
            Grouping(title="predicted class", names=names(groups), index=index),
        ],
        probability=np.linspace(0, 1, number, dtype=np.float32),
        method=method,
    )


class Reader(HTMLParser):
    """Collect what a browser would show, load and run."""

    def __init__(self):
        super().__init__()
        self.text, self.addresses, self.scripts, self.ids, self.pictures = [], [], [], [], []
        self._inside = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[key] for key in ("src", "href", "xlink:href", "action") if key in values]
        self.ids += [values["id"]] if "id" in values else []
        self.pictures += [values["src"]] if tag == "img" else []
        if tag in {"script", "style"}:
            self._inside.append(tag)
            self.scripts.append("")

    def handle_endtag(self, tag):
        if tag in {"script", "style"}:
            self._inside.pop()

    def handle_data(self, data):
        if self._inside:
            self.scripts[-1] += data
        else:
            self.text.append(data)


def read(path):
    html = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(html)
    return SimpleNamespace(
        html=html,
        text=re.sub(r"\s+", " ", " ".join(reader.text)),
        addresses=reader.addresses,
        scripts=reader.scripts,
        ids=reader.ids,
        pictures=reader.pictures,
    )


PAGES = {
    "extract": (pages.extract_page, extracted),
    "training": (pages.training_page, lambda: trained(scored())),
    "prediction": (pages.prediction_page, classified),
    "embedding": (pages.embedding_page, embedded),
}


@pytest.fixture(params=PAGES, scope="module")
def page(request, tmp_path_factory):
    write, content = PAGES[request.param]
    path = tmp_path_factory.mktemp("pages") / f"{request.param}.html"
    write(path, content())
    return read(path)


# ------------------------------------------------------------------------------------------------- every page


def test_pages_load_nothing_from_elsewhere(page):
    outside = [address for address in page.addresses if not address.startswith(("data:", "#"))]
    assert outside == []
    assert "url(http" not in page.html
    assert "@import" not in page.html


def test_names_from_the_users_files_stay_text(page):
    assert NASTY not in page.html
    assert NASTY in page.text or r"\u003cscript\u003ealert(1)\u003c/script\u003e" in page.html
    assert not any(script.startswith("alert") for script in page.scripts)


def test_ids_are_unique_in_a_page(page):
    assert len(page.ids) == len(set(page.ids))


def test_same_content_gives_the_same_page(page, request, tmp_path):
    write, content = PAGES[request.node.callspec.params["page"]]
    write(tmp_path / "again.html", content())
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page.html


def test_a_page_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        pages.training_page(tmp_path / "file" / "report.html", trained(scored()))


def test_the_users_matplotlib_settings_neither_matter_nor_change(tmp_path):
    pages.training_page(tmp_path / "plain.html", trained(scored()))
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 40, "axes.facecolor": "red"}):
        pages.training_page(tmp_path / "odd.html", trained(scored()))
        assert mpl.rcParams["font.size"] == 40
    assert (tmp_path / "plain.html").read_bytes() == (tmp_path / "odd.html").read_bytes()


# ---------------------------------------------------------------------------------------------------- extract


def test_extract_page_holds_counts_reasons_and_settings(tmp_path):
    pages.extract_page(tmp_path / "page.html", extracted())
    page = read(tmp_path / "page.html")
    assert "2,001 particles written from 2 tomograms, 1 skipped" in page.text
    assert re.search(r"outside the tomogram\s+3\b", page.text)
    assert re.search(r"box\s+16", page.text)
    assert "particle 101" in page.text
    assert "x (Å)" in page.text


def test_extract_page_without_any_box_says_so(tmp_path):
    content = ExtractContent(
        tomograms=[TomogramSheet(name="TS", written=0, skipped=3)], mean_box=None, angpix=1.0
    )
    pages.extract_page(tmp_path / "page.html", content)
    assert "No box was written." in read(tmp_path / "page.html").text


def test_extract_page_stays_small_with_many_tomograms(tmp_path):
    examples = [Example(box=blob(96), row=1)] * 8
    few = [TomogramSheet(name=f"TS_{i}", written=1, examples=examples) for i in range(30)]
    rest = [TomogramSheet(name=f"T_{i:06d}_" + 30 * "long", written=5) for i in range(20_000)]
    reasons = {f"row {i} is bad": 1 for i in range(5000)}
    pages.extract_page(
        tmp_path / "page.html",
        ExtractContent(tomograms=few + rest, mean_box=None, angpix=1.0, reasons=reasons),
    )
    page = read(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 3_000_000
    assert len(page.pictures) == 24 * 6
    assert "Shown: 24 of 20,030 tomograms" in page.text
    assert "and 19,530 more" in page.text
    assert re.search(r"4970 other reasons\s+4,970", page.text)


# --------------------------------------------------------------------------------------------------- training


def test_training_page_holds_the_numbers_given(tmp_path):
    pages.training_page(tmp_path / "page.html", trained(scored(90)))
    page = read(tmp_path / "page.html")
    assert "Scores on 90 test particles, from tomograms that training never saw" in page.text
    content = scored(90)
    metrics = evaluate(content.probabilities, content.labels, content.classes)
    for name, words in metrics.in_words.items():
        assert re.search(rf"{name}\s+{re.escape(words)}", page.text)
    assert 'class="caveat"' not in page.html
    assert "best epoch (5)" in page.text
    assert "particle 4711" in page.text
    assert "0.987" in page.text
    for pair in (
        r"recipe\.name\s+paper",
        r"recipe\.lr\s+0\.0001",
        r"resume\s+no",
        r"weights\s+–",
        r"torch\s+9\.9\.9",
    ):
        assert re.search(pair, page.text), pair


def test_pages_carry_the_caveats_of_the_scores_and_those_that_are_handed_in(tmp_path):
    """The terminal prints the same sentences, from the same place."""
    random, few = np.random.default_rng(2), [0] * 20 + [1] * 18 + [2]
    probabilities = random.dirichlet(np.ones(3), len(few)).astype(np.float32)
    what = Scored(classes=["a", "b", "c"], probabilities=probabilities, labels=np.array(few))
    caveats = evaluate(what.probabilities, what.labels, what.classes).caveats
    assert len(caveats) == 2
    pages.training_page(tmp_path / "a.html", trained(what, remarks=["The loss was high."]))
    assigned = probabilities.argmax(axis=1)
    pages.prediction_page(tmp_path / "b.html", predicted(what, assigned, remarks=["Known."]))
    for name, remark in (("a", "The loss was high."), ("b", "Known.")):
        text = " ".join(read(tmp_path / f"{name}.html").text.split())
        assert all(caveat in text for caveat in (*caveats, remark))


def test_a_page_writes_no_three_decimals_of_one_particle(tmp_path):
    labels = np.array([0] * 40 + [1])
    probabilities = np.eye(2, dtype=np.float32)[labels] * 0.8 + 0.1
    what = Scored(classes=["ribosome", "junk"], probabilities=probabilities, labels=labels)
    pages.training_page(tmp_path / "page.html", trained(what, mistakes=()))
    text = read(tmp_path / "page.html").text
    row = re.search(
        r"Calibration|junk\s+1\s+1 of 1 \(0.21 to 1.00\)\s+1 of 1 \(0.21 to 1.00\)\s+1.00\s+1.00", text
    )
    assert row
    assert "junk (AUC 1.00)" in text
    assert "ribosome (AUC 1.000)" in text
    assert "mean of the classes (AUC 1.00)" in text


@pytest.mark.parametrize(("number", "title"), [(10, None), (12, "the 10 lowest of 12 classes")])
def test_a_legend_of_some_classes_says_of_how_many(number, title):
    content = scored(300, number)
    figure = figures.roc(scores.one_vs_rest(content), content.classes)
    (legend,) = figure.legends
    assert (legend.get_title().get_text() or None) == title
    assert len(legend.get_texts()) == 10 + 2  # guessing, and the mean


def test_training_page_shows_every_count_of_the_confusion_matrix(tmp_path):
    probabilities = np.eye(2, dtype=np.float32)[[0] * 41 + [1] * 7 + [0] * 3 + [1] * 29]
    labels = np.array([0] * 48 + [1] * 32)
    what = Scored(classes=["ribosome", "junk"], probabilities=probabilities, labels=labels)
    pages.training_page(tmp_path / "page.html", trained(what))
    cells = re.search(r'id="confusion-.*?</svg>', read(tmp_path / "page.html").html, re.DOTALL)[0]
    assert {"41", "7", "3", "29"} <= set(re.findall(r">(\d+)</text>", cells))


@pytest.mark.parametrize(("classes", "epochs"), [(2, 1), (30, 40)])
def test_training_page_for_few_and_many_classes(tmp_path, classes, epochs):
    pages.training_page(tmp_path / "page.html", trained(scored(40 * classes, classes), epochs))
    page = read(tmp_path / "page.html")
    assert "Confusion matrix" in page.html
    assert names(classes)[-1] in page.text
    assert (tmp_path / "page.html").stat().st_size < 3_000_000


def test_training_page_with_more_classes_than_a_figure_can_show(tmp_path):
    pages.training_page(tmp_path / "page.html", trained(scored(200, 100)))
    page = read(tmp_path / "page.html")
    assert "The confusion matrix is left out: 100 classes" in page.text
    assert "species 99" in page.text


def test_training_page_without_held_out_particles_claims_nothing(tmp_path):
    nothing = Scored(classes=names(3), probabilities=np.zeros((0, 3), np.float32), labels=np.zeros(0, int))
    pages.training_page(tmp_path / "page.html", trained(nothing, mistakes=()))
    page = read(tmp_path / "page.html")
    assert "No particles were held out" in page.text
    assert "Confusion matrix" not in page.html


@pytest.mark.parametrize("count", [1, 6])
def test_training_page_of_a_head_that_was_fitted_alone(tmp_path, count):
    course = replace(curves(count), kind="freedom", at=10.0 ** np.arange(-3, count - 3), best=0.001)
    pages.training_page(tmp_path / "page.html", trained(scored(), curves=course))
    page = (tmp_path / "page.html").read_text()
    assert "freedom of the head (C)" in page
    assert "best freedom (0.001)" in page
    assert "The weights of the best freedom on the validation particles were kept" in page


def test_training_page_when_no_score_could_be_measured(tmp_path):
    unknown = np.full(5, np.nan)
    course = Curves(
        at=np.arange(1, 6),
        train_loss=np.ones(5),
        val_loss=unknown,
        val_auc=unknown,
        val_accuracy=unknown,
        best=5,
    )
    pages.training_page(tmp_path / "page.html", trained(scored(), curves=course))
    text = read(tmp_path / "page.html").text
    assert "training" in text
    assert "validation </text>" not in text


# ------------------------------------------------------------------------------------------------- prediction


def test_prediction_page_counts_what_was_assigned(tmp_path):
    content = classified(90)
    pages.prediction_page(tmp_path / "page.html", content)
    page = read(tmp_path / "page.html")
    assert (
        "90 particles classified, 5 of them below the least probability asked for; 2 could not be read"
        in page.text
    )
    assigned = content.classified.assigned
    for count in np.bincount(assigned[assigned >= 0]):
        assert f"{count} ({100 * count / 90:.1f} %)" in page.text
    assert "5 (5.6 %)" in page.text
    assert "most sure" in page.text


@pytest.mark.parametrize(("number", "said"), [(40, False), (42, True)])
def test_prediction_page_says_of_how_many_classes_it_shows_particles(tmp_path, number, said):
    content = classified(5 * number, number)
    empty = Gallery(name="without particles")
    galleries = [empty, *content.classified.galleries]
    content = replace(content, classified=replace(content.classified, galleries=galleries))
    pages.prediction_page(tmp_path / "page.html", content)
    page = read(tmp_path / "page.html")
    assert ("Shown: 40 of 42 classes that have particles." in page.text) is said
    assert page.html.count("most sure") == 40


def test_prediction_page_measures_scores_on_labelled_particles_only(tmp_path):
    content = classified(90).classified
    labels = np.where(np.arange(90) < 30, content.scored.labels, -1)
    some = Scored(classes=content.scored.classes, probabilities=content.scored.probabilities, labels=labels)
    pages.prediction_page(tmp_path / "page.html", predicted(some, content.assigned))
    assert "30 of them have a label" in read(tmp_path / "page.html").text


def test_prediction_page_without_labels_has_no_scores(tmp_path):
    content = classified(30).classified
    blind = Scored(
        classes=content.scored.classes, probabilities=content.scored.probabilities, labels=np.full(30, -1)
    )
    pages.prediction_page(tmp_path / "page.html", predicted(blind, content.assigned))
    assert "Confusion matrix" not in read(tmp_path / "page.html").html


def test_prediction_page_for_no_particles(tmp_path):
    nothing = Scored(classes=names(2), probabilities=np.zeros((0, 2), np.float32), labels=np.zeros(0, int))
    content = PredictContent(
        count=0,
        classified=Classified(scored=nothing, assigned=np.zeros(0, int)),
        skipped={"empty file": 4},
    )
    pages.prediction_page(tmp_path / "page.html", content)
    assert "0 particles classified; 4 could not be read" in read(tmp_path / "page.html").text


def test_prediction_page_stays_small_with_many_particles_and_classes(tmp_path):
    what = scored(20_000, 60)
    example = Example(box=blob(48), row=1, predicted="x", probability=0.5)
    galleries = [Gallery(name=name, most=[example] * 9, least=[example] * 9) for name in what.classes]
    content = predicted(what, what.probabilities.argmax(axis=1), galleries=galleries)
    pages.prediction_page(tmp_path / "page.html", content)
    assert (tmp_path / "page.html").stat().st_size < 3_000_000
    assert "20 more classes" in read(tmp_path / "page.html").text


# -------------------------------------------------------------------------------------------------- embedding


def page_data(page):
    return json.loads(next(script for script in page.scripts if script.startswith("{")))


def test_embedding_page_carries_what_the_pointer_tells(tmp_path):
    pages.embedding_page(tmp_path / "page.html", embedded(60))
    data = page_data(read(tmp_path / "page.html"))
    assert data["row"] == list(range(1, 61))
    assert data["tomos"] == [NASTY]
    assert [group["title"] for group in data["groups"]] == ["label", "predicted class"]
    assert data["groups"][0]["index"][:4] == [-1, 1, 2, -1]
    assert data["prob"][-1] == 1.0


def test_embedding_page_keeps_the_shape_of_the_map(tmp_path):
    content = embedded(60)
    pages.embedding_page(tmp_path / "page.html", content)
    data = page_data(read(tmp_path / "page.html"))
    drawn = np.stack([np.array(data["x"]) * data["aspect"], data["y"]], axis=1)
    for axis in (0, 1):
        assert np.corrcoef(drawn[:, axis], content.points[:, axis])[0, 1] > 0.9999
    spread = drawn.std(axis=0) / content.points.std(axis=0)
    assert spread[0] == pytest.approx(spread[1], rel=0.01)


def test_embedding_page_samples_a_large_map_and_says_so(tmp_path):
    pages.embedding_page(tmp_path / "page.html", embedded(40_000, 30))
    page = read(tmp_path / "page.html")
    data = page_data(page)
    assert len(data["x"]) == 20_000
    assert "Shown here: 20,000 of 40,000, 50 % of them" in page.text
    assert (tmp_path / "page.html").stat().st_size < 3_000_000


@pytest.mark.parametrize("number", [0, 1, 3])
def test_embedding_page_and_picture_of_very_few_particles(tmp_path, number):
    content = embedded(number)
    pages.embedding_page(tmp_path / "page.html", content)
    pages.embedding_png(tmp_path / "map.png", content)
    assert len(page_data(read(tmp_path / "page.html"))["x"]) == number
    assert imread(tmp_path / "map.png").ndim == 3


def test_embedding_without_any_grouping(tmp_path):
    plain = EmbedContent(points=np.eye(2), rows=np.array([1, 2]), tomograms=["a", "b"], groupings=[])
    pages.embedding_page(tmp_path / "page.html", plain)
    assert page_data(read(tmp_path / "page.html"))["groups"][0]["index"] == [-1, -1]


def test_embedding_png_is_the_same_each_time(tmp_path):
    for name in ("one", "two"):
        pages.embedding_png(tmp_path / f"{name}.png", embedded(50, 40))
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


# ---------------------------------------------------------------------------------------------------- figures


CONTENT = scored(300, 10)
METRICS = evaluate(CONTENT.probabilities, CONTENT.labels, CONTENT.classes)
FIGURES = {
    "curves": lambda: figures.training_curves(curves()),
    "confusion": lambda: figures.confusion_matrix(np.array(METRICS.confusion), CONTENT.classes),
    "roc": lambda: figures.roc(scores.one_vs_rest(CONTENT), CONTENT.classes),
    "reliability": lambda: figures.reliability(METRICS),
    "slices": lambda: figures.slices(blob(), 10.0),
    "counts": lambda: figures.class_counts([3, 123_456], ["a", "b" * 99]),
    "scatter": lambda: figures.embedding_scatter(np.eye(2), embedded(2).groupings[1], "pca"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_name_their_axes_and_clip_no_text(name):
    figure = FIGURES[name]()
    FigureCanvasAgg(figure).draw()
    drawn, paper = figure.get_tightbbox(), figure.bbox_inches
    assert drawn.x0 >= paper.x0
    assert drawn.y0 >= paper.y0
    assert drawn.x1 <= paper.x1
    assert drawn.y1 <= paper.y1
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel() or name == "counts"  # whose rows carry the names of the classes
        assert all(label.get_fontsize() >= 9 for label in axes.get_xticklabels())


def test_slices_have_their_origin_in_the_middle_of_the_central_voxel():
    image = figures.slices(blob(16), 10.0).axes[0].images[0]
    assert image.get_extent() == [-85.0, 75.0, -85.0, 75.0]


def test_groups_stay_apart_in_colour_or_marker_up_to_thirty_six():
    looks = {(style.look(i).colour, style.look(i).marker) for i in range(36)}
    assert len(looks) == 36
    assert len({style.look(i).colour for i in range(12)}) == 12


def test_names_of_any_script_and_length_fit_a_figure():
    odd = ["核糖体", "\udcff\x00", "x" * 500, "$\\frac{1}$", "🧬"]
    svg = style.to_svg(figures.class_counts([1, 2, 3, 4, 5], odd), "key")
    assert "核糖体" in svg
    assert "x" * 50 not in svg
    assert "$\\frac{1}$" in svg
    svg.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"), [("abc", "abc"), ("a\tb", "a b"), ("abcdefghij", "abc…ij"), ("\x1b[1m", "�[1m")]
)
def test_plain_cuts_in_the_middle_and_drops_control_characters(text, shown):
    assert style.plain(text, 6) == shown


# ----------------------------------------------------------------------------------------------------- images


def decoded(address):
    return imread(io.BytesIO(base64.b64decode(address.split(",")[1])))


def test_strip_shows_xy_xz_and_yz_with_y_and_z_upwards():
    box = np.zeros((8, 8, 8), np.float32)
    box[4, 0, 7] = box[0, 4, 7] = box[7, 0, 4] = 1.0
    picture = decoded(images.strip(box, 64))
    grey = picture[..., 0] if picture.ndim == 3 else picture
    xy, xz, yz = grey[:, :8], grey[:, 10:18], grey[:, 20:28]
    assert np.argwhere(xy > 0.9).tolist() == [[7, 7]]  # y = 0 at the bottom, x = 7 at the right
    assert np.argwhere(xz > 0.9).tolist() == [[7, 7]]
    assert np.argwhere(yz > 0.9).tolist() == [[0, 0]]  # z = 7 at the top, y = 0 at the left


@pytest.mark.parametrize("value", [0.0, 5.0, np.nan, np.inf])
def test_constant_and_broken_boxes_are_grey(value):
    picture = decoded(images.strip(np.full((8, 8, 8), value, np.float32), 64))
    grey = picture[..., 0] if picture.ndim == 3 else picture
    assert np.unique(grey[:, :8].round(1)).tolist() == [0.5]


def test_shrinking_keeps_the_mean_and_never_enlarges():
    picture = np.random.default_rng(0).random((65, 40)).astype(np.float32)
    small = images.shrink(picture, 48)
    assert small.shape == (48, 40)
    assert small.mean() == pytest.approx(picture.mean(), rel=1e-5)
    assert small.mean(axis=0) == pytest.approx(picture.mean(axis=0), rel=1e-4)


# ----------------------------------------------------------------------------------------------------- scores


def test_auc_agrees_with_scikit_learn():
    content = scored(200, 4)
    ours = scores.macro(scores.one_vs_rest(content)).auc
    assert ours == pytest.approx(roc_auc_score(content.labels, content.probabilities, multi_class="ovr"))


def test_mean_roc_curve_goes_from_corner_to_corner():
    mean = scores.macro(scores.one_vs_rest(scored(200, 4)))
    assert (mean.false_positive[0], mean.true_positive[0]) == (0, 0)
    assert (mean.false_positive[-1], mean.true_positive[-1]) == (1, 1)
    assert (np.diff(mean.true_positive) >= 0).all()


def test_a_class_without_particles_has_no_curve():
    content = scored(60, 3)
    two = Scored(classes=content.classes, probabilities=content.probabilities, labels=content.labels % 2)
    curves = scores.one_vs_rest(two)
    assert np.isnan(curves[2].auc)
    assert np.isfinite(scores.macro(curves).auc)


def test_worst_mistakes_are_wrong_labelled_and_most_confident_first():
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.8, 0.2], [0.99, 0.01]])
    what = Scored(classes=["a", "b"], probabilities=probabilities, labels=np.array([1, 1, 0, -1]))
    assert scores.worst_mistakes(what).tolist() == [1, 0]


def test_surest_and_least_do_not_overlap():
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.95])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    (most, least), (none, nor) = scores.surest_and_least(probabilities, np.array([0, 0, 0, 0, -1]), 3)
    assert most.tolist() == [0, 1, 2]
    assert least.tolist() == [3]
    assert len(none) == len(nor) == 0

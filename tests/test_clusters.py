"""Clusters come with what speaks for them: whether they come back, how many stand out, whether other ways to group agree."""

import csv
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import table
from sklearn.metrics import adjusted_rand_score

from cryoclass import clustering, steadiness
from cryoclass.clustering import METHODS, group, points_of
from cryoclass.errors import UsageError
from cryoclass.inference.engines import BackboneEngine
from cryoclass.settings import CLUSTER_BY, Mapping2d
from cryoclass.steadiness import Stability, Tried, agreement, disagreement, stabilities, study


def groups_of_points(per_group=20, groups=3, spread=1.0, seed=0):
    """Points around a few centres, and the group of each."""
    random = np.random.default_rng(seed)
    centres = 10 * random.standard_normal((groups, 64))
    truth = np.repeat(np.arange(groups), per_group)
    points = centres[truth] + spread * random.standard_normal((len(truth), 64))
    return (points - points.mean(axis=0)).astype(np.float32), truth


def grouped(features, method, number, seed=0):
    return group(points_of(np.asarray(features, np.float32), seed), method, [number], seed)[0]


# ------------------------------------------------------------------------------------------ ways to group


@pytest.mark.parametrize("method", METHODS)
def test_each_way_finds_groups_and_numbers_the_largest_first(method):
    features, truth = groups_of_points(30)
    keep = np.flatnonzero((truth != 1) | (np.arange(len(truth)) % 2 == 0))
    found = grouped(features[keep], method, 3)
    assert adjusted_rand_score(truth[keep], found) == 1
    assert np.bincount(found).tolist() == [30, 30, 15]


@pytest.mark.parametrize("method", ["cosine", "ward", "kmeans"])
def test_particles_that_are_all_alike_are_one_group(method):
    assert grouped(np.ones((10, 4)), method, 3).tolist() == [0] * 10


def test_one_particle_alone_is_one_group():
    assert grouped(np.ones((1, 4)), CLUSTER_BY, 2).tolist() == [0]


def test_directions_count_not_lengths():
    """Particles of one species lie along a direction, some of them far out."""
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.standard_normal((64, 64)))[0][:4]
    truth = np.repeat(np.arange(4), 40)
    out = np.where(truth < 1, random.uniform(5, 60, len(truth)), 6.0)
    features = (axes[truth] * out[:, None] + 0.4 * random.standard_normal((len(truth), 64))).astype(
        np.float32
    )
    features -= features.mean(axis=0)
    for method in ("cosine", "ward"):
        assert adjusted_rand_score(truth, grouped(features, method, 4)) > 0.95, method
    assert adjusted_rand_score(truth, grouped(features, "kmeans", 4)) < 0.8


def test_groups_are_numbered_by_size_and_no_group_stays_none(monkeypatch):
    monkeypatch.setattr(clustering, "_hdbscan", lambda _seen: np.array([0, -1, 2, 2, -1, 1, 1, 1]))
    assert grouped(np.eye(8), "hdbscan", 0).tolist() == [2, -1, 1, 1, -1, 0, 0, 0]
    monkeypatch.setattr(clustering, "_hdbscan", lambda seen: np.full(len(seen), -1))
    assert grouped(np.eye(8), "hdbscan", 0).tolist() == [-1] * 8


@pytest.mark.parametrize("method", METHODS)
def test_of_many_particles_a_sample_is_grouped_and_the_others_join(method, monkeypatch):
    features, truth = groups_of_points(60)
    linked = []
    monkeypatch.setattr(clustering, "WARD_MOST", 90)
    for name in ("_ward", "_hdbscan"):
        own = getattr(clustering, name)
        monkeypatch.setattr(
            clustering, name, lambda seen, *more, own=own: linked.append(len(seen)) or own(seen, *more)
        )
    assert adjusted_rand_score(truth, grouped(features, method, 3)) == 1
    assert linked == [90]


def test_the_same_seed_gives_the_same_groups():
    features, _ = groups_of_points(spread=8.0)
    for method in METHODS:
        assert (grouped(features, method, 4) == grouped(features, method, 4)).all()


# -------------------------------------------------------------------------------------------------- trust


def test_groups_that_are_there_come_back_and_those_that_are_not_do_not():
    features, _ = groups_of_points(40)
    right, wrong = stabilities(points_of(features, 0), "cosine", [3, 9], 0)
    assert right.mean == pytest.approx(1)
    assert right.deviation == pytest.approx(0)
    assert right.resamples == 10
    assert wrong.mean < 0.8
    assert stabilities(points_of(features, 0), "cosine", [119], 0) == [None]


@pytest.mark.parametrize("method", METHODS)
def test_as_many_clusters_are_suggested_as_there_are(method):
    features, truth = groups_of_points(30, groups=5)
    found = study(features, Mapping2d(cluster_by=method))
    assert found.suggested == 5
    assert found.reason.startswith("5 clusters are ")
    assert adjusted_rand_score(truth, found.chosen) == 1
    assert {*found.labels} == {*METHODS}
    assert not found.doubts


@pytest.mark.parametrize("stretch", [1.0, 6.0])
def test_one_cloud_has_no_number_however_long_it_is(stretch):
    """Two halves of a long cloud come back as surely as two species do."""
    features = np.random.default_rng(1).standard_normal((200, 32)).astype(np.float32)
    features[:, 0] *= stretch
    found = study(features - features.mean(axis=0), Mapping2d(clusters="auto"))
    assert found.suggested is None
    assert found.reason.startswith("how many clusters there are could not be told: of 2 to 20, none")
    assert not found.chosen.any()


def test_a_number_that_comes_back_but_does_not_lie_apart_is_not_suggested(monkeypatch):
    features = np.random.default_rng(1).standard_normal((200, 32)).astype(np.float32)
    features[:, 0] *= 6
    monkeypatch.setattr(steadiness, "ABOVE", -1.0)
    assert study(features, Mapping2d(clusters="auto")).suggested is not None, "the rule is what decides"


@pytest.mark.parametrize(
    ("stability", "silhouette", "stands_out"),
    [(0.95, 0.3, True), (0.85, 0.3, False), (0.95, 0.14, False), (None, 0.3, False), (0.95, None, False)],
)
def test_what_stands_out_comes_back_and_lies_apart(stability, silhouette, stands_out):
    again = None if stability is None else Stability(mean=stability, deviation=0.01)
    tried = Tried(
        method="cosine", number=4, labels=np.zeros(9, int), stability=again, silhouette=silhouette, cloud=0.1
    )
    assert tried.stands_out == stands_out


def test_too_few_particles_have_no_number():
    features, _ = groups_of_points(3)
    found = study(features, Mapping2d(clusters="auto"))
    assert found.suggested is None
    assert "9 particles are too few" in found.reason


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize("method", METHODS)
def test_few_particles_or_equal_ones_are_no_obstacle(method, count):
    features, _ = groups_of_points(count, groups=1)
    for seen in (features, 0 * features):
        found = study(seen, Mapping2d(cluster_by=method))
        assert found.suggested is None
        assert len(found.chosen) == count
        assert not found.doubts


def test_the_largest_number_that_was_tried_may_be_too_small():
    features, _ = groups_of_points(20, groups=5)
    assert "there may be more" in study(features, Mapping2d(clusters="auto", max_clusters=5)).reason
    assert "there may be more" not in study(features, Mapping2d(clusters="auto")).reason


def test_clusters_that_do_not_come_back_are_doubted():
    features, _ = groups_of_points(40)
    doubts = study(features, Mapping2d(clusters=9)).doubts
    assert doubts[0].startswith("the 9 clusters do not all come back")
    assert "10 resamples" in doubts[0]


def test_fewer_clusters_than_asked_for_are_said():
    features = np.repeat(np.eye(3, 8, dtype=np.float32), 10, axis=0)
    found = study(features - features.mean(axis=0), Mapping2d(clusters=5))
    assert "only 3 of 5 clusters were found: too few particles differ." in found.doubts


def test_agreement_is_the_adjusted_rand_index_with_an_interval():
    random = np.random.default_rng(0)
    one = random.integers(0, 4, 300)
    other = np.where(random.random(300) < 0.8, one, random.integers(-1, 4, 300))
    found = agreement(one, other)
    assert found.index == pytest.approx(adjusted_rand_score(one, other))
    assert found.low < found.index < found.high
    assert found.high - found.low < 0.2
    same = agreement(one, one[::1])
    assert (same.index, same.low, same.high) == (1, 1, 1)


def test_what_one_way_splits_and_merges_is_named():
    chosen = np.repeat([0, 1, 2], [60, 30, 30])
    other = np.concatenate([np.repeat([1, 2], [35, 25]), np.zeros(60, int)])
    words = disagreement("cosine", chosen, "ward", other)
    assert words == "ward splits cluster 1 (35 and 25 of 60 particles) and merges clusters 2 and 3 of cosine."
    assert disagreement("cosine", chosen, "ward", chosen[::1] * 2) == ""
    few_moved = chosen.copy()
    few_moved[:5] = 7
    assert disagreement("cosine", chosen, "ward", few_moved) == "", "a few particles are no piece"
    assert disagreement("cosine", chosen, "hdbscan", np.full(120, -1)) == "", "no group is no cluster"


# --------------------------------------------------------------------------------------- the command line


@pytest.fixture
def seen_as(monkeypatch):
    """Let the network say of the particles what the test wants; count the boxes it sees."""
    calls = []

    def set_up(embedding):
        def run(_self, voxels):
            start = sum(calls)
            calls.append(len(voxels))
            return {"embedding": embedding[start : start + len(voxels)]}

        monkeypatch.setattr(BackboneEngine, "run", run)
        return calls

    return set_up


@pytest.fixture
def embed(cryoclass, here):
    def run(*argv):
        star = here / "Extract" / "particles.star"
        return cryoclass("embed", star, "--map", "pca", "--device", "cpu", "--overwrite", *argv, "-o", "E")

    return run


def of_three(width=256):
    """Embeddings of 36 particles in three groups, and the group of each."""
    truth = np.arange(36) % 3
    random = np.random.default_rng(0)
    centres = 10 * random.standard_normal((3, width))
    return (centres[truth] + random.standard_normal((36, width))).astype(np.float32), truth


def rows(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def test_the_number_of_clusters_is_found_and_written_with_what_speaks_for_it(embed, seen_as):
    embedding, truth = of_three()
    calls = seen_as(embedding)
    ran = embed("--clusters", "auto")
    assert ran.status == 0, ran.err
    assert sum(calls) == 36
    assert "3 clusters are suggested: of 2 to 7, they stand out most (silhouette 0." in ran.err
    assert adjusted_rand_score(truth, table(Path("E/particles.star"))["cryoclassCluster"]) == 1
    assert "clusters (by cosine; measured on 36 particles)" in ran.out
    found = rows("E/clusters.csv")
    assert [row["number"] for row in found if row["method"] == "cosine"] == [*"234567"]
    (chosen,) = [row for row in found if row["chosen"]]
    assert chosen["method"] == "cosine"
    assert chosen["number"] == "3"
    assert chosen["suggested"] == "yes"
    assert float(chosen["stability"]) == 1
    assert (chosen["resamples"], chosen["particles"], float(chosen["agreement"])) == ("10", "36", 1)
    assert float(chosen["silhouette"]) > float(chosen["silhouette_of_one_cloud"]) + 0.3
    others = {row["method"]: row for row in found if row["method"] != "cosine"}
    assert {*others} == {"ward", "kmeans", "hdbscan"}
    assert float(others["ward"]["agreement"]) == 1
    page = Path("E/embedding.html").read_text()
    for words in (
        "Can the clusters be trusted?",
        "3 clusters are suggested",
        "cluster (ward)",
        "How far they agree",
    ):
        assert words in page


def test_another_way_to_group_takes_no_second_pass(embed, seen_as):
    calls = seen_as(of_three()[0])
    assert embed("--clusters", 3).status == 0
    calls.clear()
    for argv in (
        ("--clusters", "AUTO", "--cluster-by", "ward"),
        ("--cluster-by", "kmeans"),
        ("--cluster-by", "hdbscan"),
    ):
        ran = embed(*argv)
        assert ran.status == 0, ran.err
        assert not calls
        assert set(table(Path("E/particles.star"))["cryoclassCluster"]) == {1, 2, 3}, argv
        (chosen,) = [row for row in rows("E/clusters.csv") if row["chosen"]]
        assert chosen["method"] == argv[-1]
    assert embed().status == 0
    assert not Path("E/clusters.csv").exists(), "without clusters nothing is said of them"
    assert "Can the clusters be trusted?" not in Path("E/embedding.html").read_text()


def test_a_number_that_was_typed_is_taken_and_doubted(embed, seen_as):
    seen_as(of_three()[0])
    ran = embed("--clusters", 2)
    assert ran.status == 0, ran.err
    assert "3 clusters are suggested" in ran.err
    assert set(table(Path("E/particles.star"))["cryoclassCluster"]) == {1, 2}
    assert "warning: hdbscan splits cluster 1 (12 and 12 of 24 particles) of cosine." in ran.err


def test_where_no_number_stands_out_this_is_said_and_nothing_is_invented(embed, seen_as):
    seen_as(np.random.default_rng(3).standard_normal((36, 256)).astype(np.float32))
    ran = embed("--clusters", "auto")
    assert ran.status == 0, ran.err
    assert "warning: how many clusters there are could not be told: of 2 to 7, none" in ran.err
    assert "All particles stay in one cluster" in ran.err
    assert set(table(Path("E/particles.star"))["cryoclassCluster"]) == {1}
    assert not [row for row in rows("E/clusters.csv") if row["suggested"]]
    assert "could not be told" in Path("E/embedding.html").read_text()


def test_particles_in_no_cluster_are_minus_one(embed, seen_as, monkeypatch):
    embedding, truth = of_three()
    seen_as(embedding)
    own = clustering._hdbscan
    monkeypatch.setattr(
        clustering, "_hdbscan", lambda seen: np.where(np.arange(len(seen)) < 3, -1, own(seen))
    )
    ran = embed("--cluster-by", "hdbscan")
    assert ran.status == 0, ran.err
    numbers = np.array(table(Path("E/particles.star"))["cryoclassCluster"])
    assert (numbers[:3] == -1).all()
    assert adjusted_rand_score(truth[3:], numbers[3:]) == 1
    assert "3 of 36 particles are in no cluster" in ran.err


def test_where_density_finds_nothing_this_is_said(embed, seen_as):
    seen_as(np.random.default_rng(3).standard_normal((36, 256)).astype(np.float32))
    ran = embed("--cluster-by", "hdbscan")
    assert ran.status == 0, ran.err
    assert "warning: how many clusters there are could not be told: hdbscan finds none." in ran.err
    assert set(table(Path("E/particles.star"))["cryoclassCluster"]) == {-1}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--clusters", "many"), "'many' is no whole number, nor auto."),
        (("--clusters", "2.5"), "'2.5' is no whole number, nor auto."),
        (("--clusters", 1), "--clusters is 1; it must be at least 2."),
        (
            ("--clusters", 6, "--cluster-by", "hdbscan"),
            "finds the number of clusters itself, but --clusters is 6",
        ),
        (("--cluster-by", "spectral"), "spectral"),
        (("--max-clusters", 1), "--max-clusters is 1; it must be at least 2."),
    ],
)
def test_what_cannot_be_grouped_is_refused(embed, argv, says):
    ran = embed(*argv)
    assert ran.status == 2
    assert says in " ".join(ran.err.replace("│", " ").split())
    assert not Path("E").exists()


def test_from_python_a_number_is_a_number_and_auto_a_word():
    assert Mapping2d(clusters=6).clusters == 6
    with pytest.raises(UsageError, match="--clusters is some; it must be auto or a whole number"):
        Mapping2d(clusters="some")

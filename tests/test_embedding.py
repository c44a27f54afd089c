"""The one space of embeddings, and what is done in it: likeness and maps."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from star_files import relion31
from torch import nn

from cryoclass.embedding import SMALLEST, Space, fit_space, likeness, project
from cryoclass.errors import ParticleError, UsageError


def groups_of_points(per_group=20, groups=3):
    """Points around a few centres, and the group of each."""
    random = np.random.default_rng(0)
    centres = 10 * random.standard_normal((groups, 64))
    truth = np.repeat(np.arange(groups), per_group)
    return (centres[truth] + random.standard_normal((len(truth), 64))).astype(np.float32), truth


def placed(embedding, *, natural_units=False):
    return fit_space(embedding, natural_units=natural_units).place(embedding)


# -------------------------------------------------------------------------------------------- the space


def test_every_number_has_mean_0_and_deviation_1():
    generator = np.random.default_rng(0)
    embedding = (generator.normal(size=(200, 5)) * 10.0 ** np.linspace(-1, 1, 5) + 100).astype(np.float32)
    features = placed(embedding)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(features.std(axis=0), 1, atol=1e-4)


def test_in_natural_units_sizes_stay():
    embedding, _ = groups_of_points()
    features = placed(embedding, natural_units=True)
    np.testing.assert_allclose(features, embedding - embedding.mean(axis=0), atol=1e-5)


def test_the_space_is_that_of_the_particles_it_was_fitted_to():
    embedding, _ = groups_of_points()
    space = fit_space(embedding[:20], natural_units=False)
    np.testing.assert_allclose(space.place(embedding)[:20], placed(embedding[:20]), atol=1e-6)
    assert abs(space.place(embedding).mean()) > 0.1


def test_numbers_that_hardly_change_are_not_blown_up():
    generator = np.random.default_rng(0)
    embedding = generator.normal(size=(50, 4)) * np.array([1, 100, 1e-7, 0]) + np.array([0, 0, 3, -1e4])
    space = fit_space(embedding.astype(np.float32), natural_units=False)
    deviation = embedding.std(axis=0)
    np.testing.assert_allclose(space.scale[:2], deviation[:2], rtol=1e-4)
    np.testing.assert_allclose(space.scale[2:], SMALLEST * deviation.mean(), rtol=1e-3)
    assert np.abs(space.place(embedding)[:, 2:]).max() < 1e-3


@pytest.mark.parametrize("natural_units", [True, False])
def test_particles_that_are_all_the_same_lie_at_the_origin(natural_units):
    space = fit_space(np.full((7, 4), 0.1, np.float32), natural_units=natural_units)
    assert not space.place(np.full((2, 4), 0.1, np.float32)).any()
    assert np.isfinite(space.place(np.full((2, 4), 1e6, np.float32))).all()


def test_a_layer_for_features_becomes_one_for_embeddings():
    embedding, _ = groups_of_points()
    space, head = fit_space(embedding, natural_units=False), nn.Linear(64, 3)
    wanted = head(torch.from_numpy(space.place(embedding))).detach().numpy()
    weight, bias = space.for_embeddings(head.weight.detach().numpy(), head.bias.detach().numpy())
    np.testing.assert_allclose(embedding @ weight.T + bias, wanted, atol=1e-4)


def test_an_embedding_that_is_not_finite_is_refused():
    broken = np.ones((6, 4), np.float32)
    broken[2, 1] = np.nan
    with pytest.raises(ParticleError, match="number 3"):
        fit_space(broken, natural_units=True)
    space = Space(mean=np.zeros(4, np.float32), scale=np.ones(4, np.float32))
    with pytest.raises(ParticleError, match="of 1 particles is not finite"):
        space.place(broken)


# --------------------------------------------------------------------------------------------- likeness


def families(count=30, width=12, seed=0):
    """Embeddings of three families in turn, and the number of each particle's."""
    generator = np.random.default_rng(seed)
    number = np.arange(count) % 3
    centres = generator.normal(size=(3, width)) * 3
    return (centres[number] + generator.normal(size=(count, width))).astype(np.float32), number


def alike_in(embedding, examples):
    """Return the likeness in the space of the particles themselves."""
    space = fit_space(embedding, natural_units=False)
    return likeness(space.place(embedding), space.place(examples))


def test_an_example_is_most_like_itself():
    embedding, _ = families()
    for row in range(5):
        found = alike_in(embedding, embedding[[row]])
        assert found.shape == (30,)
        assert found.dtype == np.float32
        assert found[row] == pytest.approx(1, abs=1e-6)
        assert found.argmax() == row
        assert found.min() >= -1 - 1e-6


@pytest.mark.parametrize("family", [0, 1, 2])
def test_examples_rank_their_own_family_first(family):
    embedding, number = families()
    examples = embedding[np.flatnonzero(number == family)[:3]]
    ranked = np.argsort(-alike_in(embedding, examples))
    assert (number[ranked[:10]] == family).all()


def test_examples_need_not_be_among_the_particles():
    embedding, number = families(60)
    alike = alike_in(embedding[30:], embedding[:30][number[:30] == 1])
    assert (number[30:][np.argsort(-alike)[:10]] == 1).all()


def test_the_scale_of_a_number_plays_no_part():
    embedding, _ = families()
    factors = np.linspace(0.5, 40, embedding.shape[1], dtype=np.float32)
    expected = alike_in(embedding, embedding[:2])
    assert alike_in(factors * embedding + 7, factors * embedding[:2] + 7) == pytest.approx(expected, abs=1e-4)


def test_numbers_that_never_change_do_no_harm():
    embedding, _ = families()
    more = np.zeros((len(embedding), 4), np.float32)
    more[:, 1] = 5
    more[:, 2] = 0.1 + 1e-8 * np.arange(len(embedding))  # rounding
    more[:, 3] = -1e4
    wider = np.concatenate([embedding, more], axis=1)
    found = alike_in(wider, wider[:2])
    assert found == pytest.approx(alike_in(embedding, embedding[:2]), abs=1e-3)


def test_particles_that_are_all_the_same_are_like_any_other():
    embedding = np.full((7, 4), 0.1, np.float32)
    found = alike_in(embedding, embedding[:1])
    assert np.isfinite(found).all()
    assert len(set(found.tolist())) == 1


def test_examples_that_contradict_each_other_say_nothing():
    embedding = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
    assert alike_in(embedding, embedding[:2]) == pytest.approx(0, abs=1e-6)


def test_only_directions_count_not_how_far_examples_and_particles_lie():
    examples = np.array([[300, 0, 0], [0, 2, 0]], np.float32)
    between = np.array([[1, 1, 0], [50, 50, 0], [1, 0, 0], [0, 0, 1], [-3, -3, 0]], np.float32)
    assert likeness(between, examples) == pytest.approx([1, 1, np.sqrt(0.5), 0, -1], abs=1e-6)


# ------------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_maps_keep_groups_together_and_repeat(method):
    features, truth = groups_of_points()
    points = project(features, method, 0)
    assert points.shape == (60, 2)
    assert points.dtype == np.float32
    centres = np.array([points[truth == group].mean(axis=0) for group in range(3)])
    nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == truth).all()
    assert (project(features, method, 0) == points).all()


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize(
    "features", [np.ones((40, 8)), np.arange(7.0)[:, None], np.zeros((0, 8)), np.eye(1), np.eye(3), np.eye(5)]
)
def test_maps_of_odd_embeddings(method, features):
    points = project(features, method, 0)
    assert points.shape == (len(features), 2)
    assert np.isfinite(points).all()


def test_an_unknown_map_is_refused():
    with pytest.raises(UsageError, match="pca, tsne, umap"):
        project(np.eye(6), "mds", 0)


@pytest.mark.skipif(importlib.util.find_spec("umap") is not None, reason="umap-learn is installed here")
def test_umap_that_is_not_installed_says_how_to_install_it():
    with pytest.raises(UsageError, match="umap-learn") as caught:
        project(np.random.default_rng(0).random((10, 4)), "umap", 0)
    assert "pip install umap-learn" in caught.value.hint


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import nothing_of_this_name",
            "cannot be loaded: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        (
            "raise SystemError('numba needs an older numpy.')",
            "cannot be loaded: SystemError: numba needs an older numpy.",
        ),
        ("raise AttributeError('np.float')", "cannot be loaded: AttributeError: np.float."),
        ("x = 1", "umap.py is not umap-learn, but has its name."),
    ],
    ids=["lacks something", "fails", "too old", "another package"],
)
def test_umap_that_is_installed_and_broken_says_so_before_the_work(
    cryoclass, tmp_path, monkeypatch, code, said
):
    (tmp_path / "umap.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "umap", raising=False)
    (tmp_path / "particles.star").write_text(relion31())
    ran = cryoclass("embed", tmp_path / "particles.star", "--map", "umap", "-o", tmp_path / "E")
    assert ran.status == 2
    assert said in ran.err
    assert "hint:  Run: pip install --force-reinstall umap-learn, or use --map tsne." in ran.err
    monkeypatch.delitem(sys.modules, "umap", raising=False)

"""Recovered densities against the truth: by resolution, and where the tilt series measured nothing."""

import numpy as np
import pytest
import torch

from cryoclass.settings import Simulation
from cryoclass.simulation.optics import seen_by_tilts, transferred
from cryoclass.simulation.phantoms import phantom_densities
from cryoclass.training.recovery import (
    ALL,
    MISSING,
    RAW,
    RECOVERED,
    SEEN,
    SMOOTH,
    low_passed,
    measure_recovery,
)

CUBE = (32, 32, 32)
TILT = 60.0


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    densities = phantom_densities(Simulation(species=3))
    return torch.from_numpy(np.stack([densities[name] for name in sorted(densities)[:3]]))


def wedged(volumes: torch.Tensor) -> torch.Tensor:
    seen = seen_by_tilts(CUBE, TILT)
    return torch.from_numpy(np.stack([transferred(volume, seen) for volume in volumes.numpy()]))


def measured(raw, recovered, truth):
    return measure_recovery([(raw, recovered, truth)], angpix=10.0)


def test_the_truth_itself_is_recovered_at_all_resolutions(truth):
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    scores = measured(wedged(truth + 0.1 * noise), truth, truth)
    for where in (ALL, SEEN, MISSING):
        np.testing.assert_allclose(scores.shells[RECOVERED][where][3:], 1, atol=1e-6)
        assert scores.resolution(RECOVERED, where) == pytest.approx(20.0)  # Nyquist, at 10 A a pixel
    assert scores.correlations[RECOVERED].mean == pytest.approx(1, abs=1e-6)
    assert scores.correlations[RAW].mean < 0.95


def test_what_a_tilt_series_did_not_measure_is_told_by_the_boxes(truth):
    """The raw boxes, without noise, hold all that was measured, and nothing of the rest."""
    raw = wedged(truth)
    scores = measured(raw, raw, truth)
    assert scores.shells[RAW][SEEN][1:].min() > 0.999
    assert scores.shells[RAW][MISSING][4:].max() < 0.2
    assert scores.resolution(RAW, MISSING) is None


def test_boxes_without_a_wedge_have_none(truth):
    scores = measured(truth + torch.randn(truth.shape), truth, truth)
    assert [*scores.shells[RAW]] == [ALL]


def test_resolution_is_where_the_shell_correlation_falls_below_a_half(truth):
    """Of a density without anything finer than 8 pixels, the rest noise: 80 A at 10 A a pixel."""
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    fine = noise - low_passed(noise)
    found = low_passed(truth) + 10 * truth.std() * fine
    scores = measured(truth, found, truth)
    assert 80 <= scores.resolution(RECOVERED, ALL) <= 107  # the shells before and behind
    assert scores.in_words["FSC 0.5, all"] == "down to 107 A"
    assert scores.to_dict()["resolution_angstroms"][RECOVERED][ALL] == pytest.approx(106.67, abs=0.01)


def test_a_low_pass_helps_against_white_noise(truth):
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(3))
    scores = measured(truth + 3 * truth.std() * noise, truth, truth)
    assert scores.correlations[SMOOTH].mean > scores.correlations[RAW].mean + 0.1


def test_particles_without_a_truth_do_not_count(truth):
    unknown = truth.clone()
    unknown[1:] = torch.nan
    assert measured(truth, truth, unknown).count == 1
    assert measured(truth, truth, torch.full_like(truth, torch.nan)) is None

"""How good recovered densities are: against the raw and the low-passed subtomogram, by resolution, inside and outside the wedge."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoclass.tasks.dense import Mean
from cryoclass.tasks.recover import correlation

LOW_PASS = 0.125  # cycles per pixel of the low-passed subtomogram: features of 8 pixels
EDGE = 0.02  # cycles per pixel over which it falls off
UNSEEN = 0.1  # power beside the mean of its shell, below which a frequency counts as never measured
LEAST_UNSEEN = 0.02  # share of such frequencies, below which nobody can tell a missing wedge
HALF = 0.5  # Fourier shell correlation that says how far the resolution goes

RAW, SMOOTH, RECOVERED = "raw", "low_passed", "recovered"
ALL, SEEN, MISSING = "all", "measured", "missing_wedge"


@dataclass(frozen=True, kw_only=True)
class RecoveryScores:
    """What densities have in common with the truth.

    Attributes
    ----------
    count
        Particles.
    correlations
        Mean Pearson correlation of the raw subtomogram, the low-passed one and the recovered density.
    shells
        Fourier shell correlation by shell, (S,), of each of them, over all particles together: of all frequencies, of those that
        were measured, and of those in the missing wedge, where one can be told; NaN where there are none. Shell s holds s / side
        cycles per pixel.
    angpix, side
        Pixel size in angstroms and side in pixels of the boxes.
    """

    count: int
    correlations: Mapping[str, Mean]
    shells: Mapping[str, Mapping[str, NDArray[np.float64]]]
    angpix: float
    side: int

    def resolution(self, of: str, where: str) -> float | None:
        """Return down to how many angstroms the shell correlation stays at a half or more; None where it never is."""
        curve = self.shells[of][where]
        below = np.flatnonzero(curve < HALF)
        last = below[0] - 1 if len(below) else len(curve) - 1
        return self.side * self.angpix / int(last) if np.isfinite(curve[1 : last + 1]).any() else None

    @property
    def in_words(self) -> dict[str, str]:
        """The figures for people."""
        words = {
            f"correlation, {name.replace('_', ' ')}": str(self.correlations[name]) for name in (RAW, SMOOTH)
        }
        for where in self.shells[RECOVERED]:
            found = self.resolution(RECOVERED, where)
            name = f"FSC 0.5, {where.replace('_', ' ')}"
            words[name] = "nowhere" if found is None else f"down to {found:.3g} A"
        return words

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {
            "count": self.count,
            "correlation": {name: mean.to_dict() for name, mean in self.correlations.items()},
            "fsc": {
                name: {where: _plain(curve) for where, curve in by_place.items()}
                for name, by_place in self.shells.items()
            },
            "resolution_angstroms": {
                name: {where: self.resolution(name, where) for where in by_place}
                for name, by_place in self.shells.items()
            },
        }


@dataclass(kw_only=True)
class _Sums:
    """Sums over particles at each frequency (D, H, W // 2 + 1): products with the truth, powers, and the power of the truth."""

    products: dict[str, Tensor] = field(default_factory=dict)
    powers: dict[str, Tensor] = field(default_factory=dict)
    truth: Tensor | float = 0.0
    correlations: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, volumes: Mapping[str, Tensor], truth: Tensor) -> None:
        """Add a batch of particles (b, D, H, W)."""
        true = torch.fft.rfftn(truth.double(), dim=(1, 2, 3))
        self.truth = self.truth + true.abs().square().sum(0)
        for name, volume in volumes.items():
            found = torch.fft.rfftn(volume.double(), dim=(1, 2, 3))
            zero = torch.zeros(())
            self.products[name] = self.products.get(name, zero) + (found * true.conj()).real.sum(0)
            self.powers[name] = self.powers.get(name, zero) + found.abs().square().sum(0)
            self.correlations.setdefault(name, []).append(correlation(volume, truth))


def measure_recovery(
    batches: Iterable[tuple[Tensor, Tensor, Tensor]], angpix: float
) -> RecoveryScores | None:
    """Hold recovered densities against the truth.

    Parameters
    ----------
    batches
        Subtomograms, recovered densities and true densities, (b, D, D, D) each, z first; where the truth is not known it is NaN.
    angpix
        Pixel size in angstroms.

    Returns
    -------
    RecoveryScores
        None where no truth is known.
    """
    sums, side = _Sums(), 0
    for raw, recovered, truth in batches:
        known = truth.isfinite().flatten(1).all(1)
        if known.any():
            side = raw.shape[1]
            volumes = {RAW: raw[known], SMOOTH: low_passed(raw[known]), RECOVERED: recovered[known]}
            sums.add(volumes, truth[known])
    if not side:
        return None
    correlations = {name: torch.cat(parts).numpy() for name, parts in sums.correlations.items()}
    return RecoveryScores(
        count=len(correlations[RAW]),
        correlations={name: Mean.of(values) for name, values in correlations.items()},
        shells=_shells(sums, side),
        angpix=angpix,
        side=side,
    )


def _plain(curve: NDArray[np.float64]) -> list[float | None]:
    return [round(float(value), 4) if np.isfinite(value) else None for value in curve]


def low_passed(volumes: Tensor) -> Tensor:
    """Return volumes (n, D, D, D) without what is finer than 8 pixels."""
    side = volumes.shape[1]
    passed = torch.sigmoid((LOW_PASS - _radius(side)) / (EDGE / 4))
    smooth: Tensor = torch.fft.irfftn(
        torch.fft.rfftn(volumes, dim=(1, 2, 3)) * passed, s=volumes.shape[1:], dim=(1, 2, 3)
    )
    return smooth


def _shells(sums: _Sums, side: int) -> dict[str, dict[str, NDArray[np.float64]]]:
    assert isinstance(sums.truth, Tensor)  # a batch was added  # noqa: S101
    shell = (_radius(side) * side).round().long()
    places = {ALL: torch.ones_like(shell, dtype=torch.bool)}
    seen = _seen(sums.powers[RAW], shell, side)
    if (~seen[shell <= side // 2]).double().mean() >= LEAST_UNSEEN:
        places |= {SEEN: seen, MISSING: ~seen}
    curves: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, product in sums.products.items():
        curves[name] = {}
        for where, inside in places.items():
            product_in, found_in, true_in = (
                _by_shell(values * inside, shell, side) for values in (product, sums.powers[name], sums.truth)
            )
            curve = product_in / (found_in * true_in).sqrt()  # NaN where a shell has no such frequency
            curves[name][where] = curve[: side // 2 + 1].numpy()  # beyond, a shell is not whole
    return curves


def _seen(power: Tensor, shell: Tensor, side: int) -> Tensor:
    """Return which frequencies were measured: those whose power is not far below the mean of their shell."""
    mean = _by_shell(power, shell, side) / _by_shell(torch.ones_like(power), shell, side)
    return power >= UNSEEN * mean[shell]


def _by_shell(values: Tensor, shell: Tensor, side: int) -> Tensor:
    """Return sums over shells; a frequency with kx > 0 stands for its opposite too."""
    weight = torch.full(values.shape[-1:], 2.0, dtype=torch.float64)
    weight[0] = 1
    if side % 2 == 0:
        weight[-1] = 1
    sums = torch.zeros(int(shell.max()) + 1, dtype=torch.float64)
    return sums.index_add_(0, shell.flatten(), (values.double() * weight).flatten())


def _radius(side: int) -> Tensor:
    """Return the distance of each frequency (D, D, D // 2 + 1) from 0, in cycles per pixel."""
    full, half = torch.fft.fftfreq(side), torch.fft.rfftfreq(side)
    radius: Tensor = (full[:, None, None] ** 2 + full[:, None] ** 2 + half**2).sqrt()
    return radius

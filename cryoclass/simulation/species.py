"""Species without end: random assemblies of Gaussian blobs, many at a time, on the CPU or a CUDA device.

Pre-training needs thousands of particles that nobody has seen, each in many views. An assembly is a set of blobs, so a
view of it is exact, without interpolation, and costs one small matrix product (:mod:`cryoclass.simulation.boxes`).

Lengths are angstroms, positions x, y, z about the centre of mass.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from cryoclass.simulation.drawing import Limit, directions, in_ball, log_uniform, random_turns, uniform
from cryoclass.simulation.rotations import operators

BLOBS = 144
"""Blobs of an assembly, at most; one domain of a small protein is a dozen or so."""

# How often each kind of symmetry is drawn. Most complexes have none at all; among the others small orders are common.
GROUPS: dict[str, float] = {
    "C1": 110.0,
    **{f"C{n}": 30.0 / n for n in range(2, 13)},
    **{f"D{n}": 16.0 / n for n in range(2, 9)},
    "T": 2.0,
    "O": 2.0,
    "I": 2.0,
    "rod": 8.0,  # copies along a screw axis
}
ROD_COPIES = (3, 16)
DOMAINS = 8  # of one subunit, at most
HOLLOW = 0.12  # share of species whose blobs lie near their surface


@dataclass(frozen=True, kw_only=True, eq=False)
class Assemblies:
    """Many species.

    Attributes
    ----------
    positions
        Blobs (S, B, 3), x, y, z in angstroms; the centre of mass is the origin.
    weights
        Mass of each blob (S, B); 0 where a species has fewer than B.
    sigma
        Deviation of a species' blobs in angstroms (S,).
    group
        Place in :data:`GROUPS` of the symmetry that a species was made with, (S,).
    """

    positions: Tensor
    weights: Tensor
    sigma: Tensor
    group: Tensor

    def __len__(self) -> int:
        return len(self.sigma)

    @property
    def radius(self) -> Tensor:
        """Distance in angstroms from the centre of mass to the outermost blob, (S,)."""
        return torch.where(self.weights > 0, self.positions.norm(dim=-1), 0.0).amax(1)

    def taken(self, rows: Tensor) -> "Assemblies":
        """Return some of the species, in the order of ``rows``."""
        return Assemblies(
            positions=self.positions[rows],
            weights=self.weights[rows],
            sigma=self.sigma[rows],
            group=self.group[rows],
        )


def draw_assemblies(
    count: int,
    diameter: tuple[Limit, Limit],
    resolution: tuple[Limit, Limit],
    generator: torch.Generator,
    hollow: float = HOLLOW,
) -> Assemblies:
    """Invent species.

    Parameters
    ----------
    count
        How many, S.
    diameter
        Smallest and largest diameter in angstroms; the logarithm is drawn evenly.
    resolution
        Finest and coarsest resolution in angstroms.
    generator
        Its device is where everything is computed; the same seed gives the same species there.
    hollow
        Share of species whose blobs lie near their surface.
    """
    device = generator.device
    group = torch.multinomial(
        _table(device).share.expand(count, -1), 1, replacement=True, generator=generator
    )[:, 0]
    turns, steps, copies = _copies(group, generator)
    units, masses = _subunits(copies, generator)
    reach = units.norm(dim=-1).amax(1)  # (S,)
    units = units + _places(group, copies, reach, generator)[:, None]
    blob = torch.arange(BLOBS, device=device)
    each = BLOBS // copies  # blobs of one subunit
    copy, member = blob // each[:, None], blob % each[:, None]
    positions = torch.gather(units, 1, member[..., None].expand(-1, -1, 3))
    turn = torch.gather(turns, 1, copy.clamp(max=59)[..., None, None].expand(-1, -1, 3, 3))
    positions = (turn @ positions[..., None])[..., 0]
    positions[..., 2] += copy * (steps * reach)[:, None]
    weights = torch.gather(masses, 1, member) * (copy < copies[:, None])
    positions = _centred(positions, weights)
    positions = _hollowed(positions, weights, hollow, generator)
    return _sized(positions, weights, group, (diameter, resolution), generator)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """The operators of all groups: share (G,), copies (G,), turns (G, 60, 3, 3) filled up with the identity."""

    share: Tensor
    copies: Tensor
    turns: Tensor


@cache
def _table(device: torch.device) -> _Table:
    groups = [operators("C1" if name == "rod" else name) for name in GROUPS]
    turns = np.tile(np.eye(3), (len(groups), 60, 1, 1))
    for row, group in enumerate(groups):
        turns[row, : len(group)] = group
    return _Table(
        share=torch.tensor(list(GROUPS.values()), device=device),
        copies=torch.tensor([len(group) for group in groups], device=device),
        turns=torch.tensor(turns, dtype=torch.float32, device=device),
    )


def _copies(group: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return turns (S, 60, 3, 3), the rise from copy to copy in radii of a subunit (S,), and copies (S,)."""
    table, n = _table(generator.device), len(group)
    rod = group == list(GROUPS).index("rod")
    least, most = ROD_COPIES
    screwed = torch.randint(least, most + 1, (n,), generator=generator, device=generator.device)
    copies = torch.where(rod, screwed, table.copies[group])
    twist = uniform((n, 1), 0.3, math.pi, generator) * torch.arange(60, device=generator.device)
    turns = torch.where(rod[:, None, None, None], _about_z(twist), table.turns[group])
    rise = torch.where(rod, uniform((n,), 0.4, 1.5, generator), 0.0)
    return turns, rise, copies


def _subunits(copies: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return blobs (S, B, 3) and masses (S, B) of one subunit each: a chain of ellipsoidal domains that touch.

    Lengths are in units of a domain. Only the first ``BLOBS // copies`` blobs of a subunit are ever used, so every blob
    chooses its domain by itself.
    """
    n, device = len(copies), generator.device
    most = torch.where(copies <= 2, DOMAINS, torch.where(copies <= 8, 4, 2))
    domains = 1 + (torch.rand(n, generator=generator, device=device) * most).long()
    radii = uniform((n, DOMAINS), 0.5, 1.5, generator)
    radii = radii * (torch.arange(DOMAINS, device=device) < domains[:, None])
    touching = (radii + radii.roll(1, dims=1)) * uniform((n, DOMAINS), 0.5, 1.0, generator)
    walk = directions((n, DOMAINS), generator) * touching[..., None]
    centres = walk.cumsum(1)  # (S, domains, 3)
    density = uniform((n, DOMAINS), 0.3, 1.7, generator)

    domain = torch.multinomial(radii**3, BLOBS, replacement=True, generator=generator)  # (S, B)
    stretch = torch.exp(0.35 * torch.randn((n, DOMAINS, 3), generator=generator, device=device))
    ball = in_ball((n, BLOBS), generator)
    axes = random_turns(n * DOMAINS, generator).view(n, DOMAINS, 3, 3)
    shape = axes * (stretch * radii[..., None])[:, :, None]  # (S, domains, 3, 3)
    chosen = domain[..., None].expand(-1, -1, 3)
    own = torch.gather(shape, 1, domain[..., None, None].expand(-1, -1, 3, 3))
    blobs = torch.gather(centres, 1, chosen) + (own @ ball[..., None])[..., 0]
    masses = torch.gather(density, 1, domain) * uniform((n, BLOBS), 0.6, 1.4, generator)
    used = torch.arange(BLOBS, device=device) < (BLOBS // copies)[:, None]
    blobs = _centred(blobs, used.float())
    return torch.where(used[..., None], blobs, 0.0), masses


def _places(group: Tensor, copies: Tensor, reach: Tensor, generator: torch.Generator) -> Tensor:
    """Return where the first subunit sits (S, 3), so that its neighbours by symmetry about touch it."""
    names, n = list(GROUPS), len(group)
    cubic = group >= names.index("T")
    rod = group == names.index("rod")
    ring = torch.where(group >= names.index("D2"), copies // 2, copies).clamp(min=1)
    distance = torch.where(cubic, 0.6 * copies.float().sqrt(), 0.8 / torch.sin(math.pi / ring.clamp(min=2)))
    distance = torch.where(rod, 0.5, distance) * uniform((n,), 0.5, 1.1, generator) * reach
    flat = torch.zeros((n, 3), device=group.device)
    flat[:, 0] = distance
    flat[:, 2] = uniform((n,), 0.2, 1.2, generator) * reach  # half the gap between the rings of Dn
    placed = torch.where(
        cubic[:, None] & ~rod[:, None], directions((n,), generator) * distance[:, None], flat
    )
    return torch.where((copies == 1)[:, None], 0.0, placed)


def _hollowed(positions: Tensor, weights: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Push the blobs of a share of the species out to three quarters of the radius or more, as in a shell."""
    distance = positions.norm(dim=-1, keepdim=True)
    reach = torch.where(weights > 0, distance[..., 0], 0.0).amax(1)[:, None, None]
    outside = positions / distance.clamp_min(1e-6) * (0.75 * reach + 0.25 * distance)
    hollow = torch.rand(len(positions), generator=generator, device=positions.device) < share
    return torch.where(hollow[:, None, None], _centred(outside, weights), positions)


def _sized(
    positions: Tensor,
    weights: Tensor,
    group: Tensor,
    limits: tuple[tuple[Limit, Limit], tuple[Limit, Limit]],
    generator: torch.Generator,
) -> Assemblies:
    """Bring species to their diameters, and give their blobs a width that makes one body of them."""
    n, (diameter, resolution) = len(group), limits
    radius = log_uniform((n,), *diameter, generator) / 2
    distance = torch.where(weights > 0, positions.norm(dim=-1), 0.0)
    positions = positions * (radius / distance.amax(1).clamp_min(1e-6))[:, None, None]
    mass = weights.sum(1)
    gyration = ((weights * positions.square().sum(-1)).sum(1) / mass).sqrt()
    used = (weights > 0).sum(1)
    spacing = (
        gyration * 1.29 * (4 * math.pi / 3 / used) ** (1 / 3)
    )  # blobs evenly in a ball of this radius of gyration
    own = spacing * uniform((n,), 0.35, 0.65, generator)
    blur = uniform((n,), *resolution, generator) / (math.pi * math.sqrt(2))  # as phantoms.blur
    return Assemblies(
        positions=positions, weights=weights / mass[:, None], sigma=(own**2 + blur**2).sqrt(), group=group
    )


def _centred(positions: Tensor, weights: Tensor) -> Tensor:
    mean = (positions * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
    return positions - mean[:, None]


# ------------------------------------------------------------------------------------------- describing

DEGREES = 7
PIXEL_SHELLS, SPACING = 8, 2.0  # so far apart in pixels
OWN_SHELLS, OWN_SPACING = 9, 0.3  # so far apart in radii of gyration
THICKNESS = 0.6  # deviation of a shell, as a share of the spacing
DESCRIPTION = DEGREES * (2 * PIXEL_SHELLS - 1 + 2 * OWN_SHELLS - 1) + 2
"""Numbers in the description of a species."""


def describe(assemblies: Assemblies, angpix: Tensor) -> Tensor:
    """Return numbers that tell species apart whatever their orientation: mass by radius and angular degree.

    With blobs i of mass w at distance r, shells m and n of Gaussian form and the angle g between two blobs::

        p[m, n, l] = sum over i, j of w_i w_j shell_m(r_i) shell_n(r_j) P_l(cos g_ij)

    which is the power spectrum of Bartok, Kondor and Csanyi (2013, Phys. Rev. B 87, 184115), within one shell and between
    each and the next. Shells are two pixels apart, so that size counts, and then again 0.3 radii of gyration, so that the
    shape of small species is described as finely as that of large ones. A blob of some width hides what is finer than
    itself: it counts less in high degrees, the more so the nearer to the centre it lies.

    Parameters
    ----------
    assemblies
        S species.
    angpix
        Pixel size in angstroms of each (S,).

    Returns
    -------
    Tensor
        The square roots of p with its signs, and the logarithms of radius of gyration and blobs' deviation in pixels:
        (S, DESCRIPTION).
    """
    sigma = assemblies.sigma / angpix
    positions = assemblies.positions / angpix[:, None, None]
    distance = positions.norm(dim=-1)  # (S, B)
    gyration = (assemblies.weights * distance.square()).sum(1).sqrt().clamp_min(1e-6)
    unit = positions / distance.clamp_min(1e-6)[..., None]
    hidden = (sigma[:, None] / distance.clamp_min(1e-3)).square()
    in_pixels = _shells(distance / SPACING, PIXEL_SHELLS, assemblies.weights)
    in_own = _shells(distance / (OWN_SPACING * gyration[:, None]), OWN_SHELLS, assemblies.weights)
    found = []
    for degree, polynomial in enumerate(_legendre((unit @ unit.mT).clamp(-1, 1))):
        seen = torch.exp(-degree * (degree + 1) / 2 * hidden)[..., None]
        for mass in (in_pixels * seen, in_own * seen):
            other = polynomial @ mass  # (S, B, shells)
            found += [(mass * other).sum(1), (mass[..., :-1] * other[..., 1:]).sum(1)]
    spectrum = torch.cat(found, dim=1)
    sizes = torch.stack([gyration, sigma], dim=1).log()
    return torch.cat([spectrum.sign() * spectrum.abs().sqrt(), sizes], dim=1)


def _shells(distance: Tensor, count: int, weights: Tensor) -> Tensor:
    """Return how much of each blob lies in each shell (S, B, count), for distances (S, B) in units of the spacing."""
    shells = torch.arange(count, device=distance.device)
    return weights[..., None] * torch.exp(-0.5 * ((distance[..., None] - shells) / THICKNESS).square())


def _legendre(x: Tensor) -> Iterator[Tensor]:
    """Yield the Legendre polynomials of degree 0 to ``DEGREES - 1``, by Bonnet's recursion."""
    before, last = torch.ones_like(x), x
    yield before
    for degree in range(1, DEGREES):
        yield last
        before, last = last, ((2 * degree + 1) * x * last - degree * before) / (degree + 1)


def _about_z(angle: Tensor) -> Tensor:
    """Return rotations about z by ``angle`` radians, (..., 3, 3)."""
    c, s, o, i = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    turns: Tensor = torch.stack([c, -s, o, s, c, o, o, o, i], -1).unflatten(-1, (3, 3))
    return turns

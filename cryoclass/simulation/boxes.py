"""Boxes of invented species as a tomogram shows them, many at a time, on the CPU or a CUDA device.

Every view of a species draws everything else anew: orientation, shift, neighbours, membrane, contrast transfer, missing
wedge, noise. So nothing but the species is common to two views, and a network that tells which views belong together has
learnt shape. Boxes are (..., z, y, x); protein is positive (bright).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoclass.settings import Invention
from cryoclass.simulation.drawing import directions, in_ball, log_uniform, random_turns, uniform
from cryoclass.simulation.optics import wavelength
from cryoclass.simulation.species import Assemblies


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenBoxes:
    """What was drawn, and its parts apart after contrast transfer and missing wedge.

    The other parts are spectra (S * V, side, side, side // 2 + 1) in the layout of ``rfftn``, since only their sum is ever needed as
    boxes; :func:`from_spectrum` shows one alone.

    Attributes
    ----------
    density
        The particles alone before any of that, (S * V, side, side, side).
    target
        The particles alone.
    surroundings
        Neighbours and membranes.
    noise
        Scaled so that the variance of the target over that of the noise is ``snr`` in every box.
    snr
        As drawn, (S, V).
    side
        Of a box, in pixels.
    """

    density: Tensor
    target: Tensor
    surroundings: Tensor
    noise: Tensor
    snr: Tensor
    side: int

    @property
    def boxes(self) -> Tensor:
        """What a user would have, (S, V, side, side, side)."""
        total = from_spectrum(self.target + self.surroundings + self.noise, self.side)
        return total.view(*self.snr.shape, *total.shape[1:])


def from_spectrum(spectrum: Tensor, side: int) -> Tensor:
    """Return the cubes (N, side, side, side) of spectra (N, side, side, side // 2 + 1)."""
    cubes: Tensor = torch.fft.irfftn(spectrum, s=(side,) * 3, dim=(-3, -2, -1))
    return cubes


def see(
    species: Assemblies,
    views: int,
    angpix: Tensor,
    snr: tuple[float, float],
    settings: Invention,
    generator: torch.Generator,
) -> SeenBoxes:
    """Draw ``views`` boxes of each species.

    Parameters
    ----------
    species
        S species, on the generator's device.
    views
        Boxes of each, V.
    angpix
        Pixel size in angstroms of the boxes of each species, (S,).
    snr
        Smallest and largest variance of the signal over variance of the noise; the logarithm is drawn evenly.
    settings
        Ranges of everything else.
    generator
        Draws everything.
    """
    count, side = len(species) * views, settings.box
    rows = torch.arange(len(species), device=generator.device).repeat_interleave(views)
    shown, angpix = species.taken(rows), angpix[rows]
    offset = settings.shift * in_ball((count,), generator)
    target = draw_density(shown, random_turns(count, generator), offset, angpix, side)
    around = _neighbours(shown, offset, angpix, settings, generator)
    around += _membranes(target, offset, shown.radius / angpix, angpix, settings, generator)
    optics = draw_optics(angpix, settings, generator)
    white = torch.randn(target.shape, generator=generator, device=generator.device)
    signal, noise = _spectrum(target) * optics.signal, _spectrum(white) * optics.background
    ratio = log_uniform((count,), *snr, generator)
    noise *= (_power(signal) / (_power(noise) * ratio)).sqrt()[:, None, None, None]
    return SeenBoxes(
        density=target,
        target=signal,
        surroundings=_spectrum(around) * optics.signal,
        noise=noise,
        snr=ratio.view(len(species), views),
        side=side,
    )


def draw_density(species: Assemblies, turns: Tensor, offset: Tensor, angpix: Tensor, side: int) -> Tensor:
    """Return the density of each species, turned and moved: (N, side, side, side).

    Parameters
    ----------
    species
        N species.
    turns
        Rotations (N, 3, 3) in x, y, z that take the species to the box.
    offset
        Centre of mass x, y, z in pixels from voxel ``side // 2``, (N, 3).
    angpix
        Pixel size of each cube in angstroms, (N,).
    side
        Of the cubes, in pixels.
    """
    middles = (
        (species.positions @ turns.mT) / angpix[:, None, None] + offset[:, None] + side // 2
    )  # (N, B, 3)
    voxels = torch.arange(side, device=offset.device)
    distance = (voxels - middles[..., None]) / (species.sigma / angpix)[:, None, None, None]
    # A Gaussian is a product over the axes, (N, B, side) each.
    x, y, z = torch.exp(-0.5 * distance.square()).unbind(2)
    z, y = (z * species.weights[..., None]).mT.contiguous(), y.mT.contiguous()  # (N, side, B)
    planes = (z[:, :, None] * y[:, None]).flatten(1, 2)  # (N, side * side, B)
    density: Tensor = (planes @ x).unflatten(1, (side, side))
    return density


# --------------------------------------------------------------------------------------------- surroundings


def _neighbours(
    shown: Assemblies, offset: Tensor, angpix: Tensor, settings: Invention, generator: torch.Generator
) -> Tensor:
    """Return other species of the batch (N, side, side, side) about as close as they can lie."""
    count, side = len(shown), settings.box
    around = torch.zeros((count, side, side, side), device=offset.device)
    for _ in range(settings.neighbours):
        has = torch.rand(count, generator=generator, device=offset.device) < settings.neighbour_chance
        box = has.nonzero()[:, 0]
        other = shown.taken(torch.randint(count, (len(box),), generator=generator, device=offset.device))
        apart = (shown.radius[box] + other.radius + 2 * other.sigma) / angpix[box]
        apart = apart * uniform((len(box),), 0.9, 1.5, generator)
        middle = offset[box] + directions((len(box),), generator) * apart[:, None]
        density = draw_density(other, random_turns(len(box), generator), middle, angpix[box], side)
        around.index_add_(0, box, density)
    return around


def _membranes(
    target: Tensor,
    offset: Tensor,
    radius: Tensor,
    angpix: Tensor,
    settings: Invention,
    generator: torch.Generator,
) -> Tensor:
    """Return a piece of a vesicle's bilayer beside some of the particles, (N, side, side, side)."""
    count, side, device = len(target), settings.box, target.device
    has = torch.rand(count, generator=generator, device=device) < settings.membrane_chance
    box = has.nonzero()[:, 0]
    found = torch.zeros_like(target)
    if not len(box):
        return found
    n, angpix = len(box), angpix[box]
    vesicle = log_uniform((n,), 200.0, 2000.0, generator) / angpix
    gap = radius[box] * uniform((n,), 0.8, 1.5, generator) + 25.0 / angpix
    middle = offset[box] + side // 2 + directions((n,), generator) * (gap + vesicle)[:, None]
    voxel = torch.arange(side, device=device).float()
    x, y, z = ((voxel - middle[:, axis, None]) ** 2 for axis in range(3))
    distance = (z[:, :, None, None] + y[:, None, :, None] + x[:, None, None, :]).sqrt()
    width = (0.7 * angpix).clamp(min=8.0)
    strength = target[box].amax((1, 2, 3)) * uniform((n,), 0.3, 1.0, generator)
    vesicle, angpix, width, strength = (of[:, None, None, None] for of in (vesicle, angpix, width, strength))
    inside = (distance - vesicle).abs() * angpix  # angstroms from the middle of the bilayer
    found[box] = strength * torch.exp(-0.5 * ((inside - 18.0) / width) ** 2)  # two layers of head groups
    return found


# ------------------------------------------------------------------------------------------------- optics


@dataclass(frozen=True, kw_only=True, eq=False)
class Optics:
    """What the microscope does, as Fourier weights (N, side, side, side // 2 + 1) in the layout of ``rfftn``.

    Attributes
    ----------
    signal
        Contrast transfer, envelope and missing wedge.
    background
        Colour of the noise and the same missing wedge.
    """

    signal: Tensor
    background: Tensor


def draw_optics(angpix: Tensor, settings: Invention, generator: torch.Generator) -> Optics:
    """Draw the optics of N boxes: microscope, defocus, tilt range and axis, low-pass filter, colour of the noise.

    A third of the boxes shows the contrast transfer as it is, a third with phases flipped, and the rest corrected for
    good, since programs differ in what they leave behind.

    Everything but the tilts depends on the frequency alone, of which a cube has few: its square is a whole number in
    units of 1 / side^2. So it is computed for those, and looked up.

    Parameters
    ----------
    angpix
        Pixel size of each box in angstroms, (N,).
    settings
        Ranges of everything.
    generator
        Draws everything.
    """
    side, device, count = settings.box, generator.device, len(angpix)
    k2 = torch.arange(3 * (side // 2) ** 2 + 1, device=device)[None] / side**2  # (1, F) in 1/pixel squared
    k2_angstroms = k2 / angpix[:, None] ** 2  # (N, F)
    transfer = _transfer(k2_angstroms, settings, generator)
    kind = torch.rand((count, 1), generator=generator, device=device)
    shown = torch.where(kind < 1 / 3, transfer, transfer.abs())
    signal = torch.where(kind < 2 / 3, shown, 1.0)
    decay = uniform((count, 1), *settings.b_factor, generator)
    signal = signal * torch.exp(-decay / 4 * k2_angstroms)

    k = k2.sqrt()
    steep, share = (uniform((count, 1), 0.0, 1.0, generator) for _ in range(2))
    sample = transfer.square() * (0.1 / k.clamp_min(1 / side)) ** (2 * steep)
    coloured = torch.rand((count, 1), generator=generator, device=device) < settings.coloured
    background = torch.where(coloured, (share * sample + 1 - share).sqrt(), 1.0)

    limit = uniform((count, 1), *settings.low_pass, generator)
    passed = 1 / (1 + torch.exp((k - limit) / 0.02))
    seen = seen_by_tilts(count, settings, generator)
    place = _squares(side, device)
    return Optics(
        signal=(signal * passed)[:, place] * seen, background=(background * passed)[:, place] * seen
    )


def seen_by_tilts(count: int, settings: Invention, generator: torch.Generator) -> Tensor:
    """Return 1 where a tilt series of drawn range and axis measures anything, else 0: (N, side, side, side // 2 + 1).

    As :func:`cryoclass.simulation.optics.seen_by_tilts`, for ranges that need not be symmetric and axes that need not be y.
    """
    kz, ky, kx = _frequencies(settings.box, generator.device)
    shape = (count, 1, 1, 1)
    least, most = (torch.deg2rad(uniform(shape, *settings.tilt, generator)).tan() for _ in range(2))
    near_y = torch.randn(shape, generator=generator, device=generator.device) * settings.axis_spread
    any_axis = uniform(shape, -90.0, 90.0, generator)
    odd = torch.rand(shape, generator=generator, device=generator.device) < settings.odd_axis
    angle = torch.deg2rad(torch.where(odd, any_axis, near_y))
    across = kx * angle.cos() + ky * angle.sin()  # (N, 1, h, w): frequency across the tilt axis
    along = kz * torch.where(across < 0, -1.0, 1.0)
    across = across.abs()
    inside = (along <= most * across + 1e-6) & (along >= -least * across - 1e-6)
    paired = (kz > -0.5) & (ky > -0.5) & (kx < 0.5)  # the last frequency of an even box has no opposite
    return (inside & paired).float()


def _transfer(k2: Tensor, settings: Invention, generator: torch.Generator) -> Tensor:
    """Return contrast transfer functions (N, F) for frequencies ``k2`` (N, F) in 1/angstrom squared.

    The formula and sign of :func:`cryoclass.simulation.optics.contrast_transfer`.
    """
    shape = (len(k2), 1)
    high = torch.rand(shape, generator=generator, device=generator.device) < 0.8
    lam = torch.where(high, wavelength(300), wavelength(200))
    defocus = 1e4 * uniform(shape, *settings.defocus, generator)
    amplitude = uniform(shape, *settings.amplitude_contrast, generator)
    phase = torch.pi * lam * defocus * k2 - torch.pi / 2 * 2.7e7 * lam**3 * k2**2
    return (1 - amplitude**2).sqrt() * phase.sin() + amplitude * phase.cos()


def _frequencies(side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return kz (d, 1, 1), ky (1, h, 1) and kx (1, 1, w // 2 + 1) in cycles per pixel."""
    full, half = torch.fft.fftfreq(side, device=device), torch.fft.rfftfreq(side, device=device)
    return full[:, None, None], full[None, :, None], half[None, None, :]


def _squares(side: int, device: torch.device) -> Tensor:
    """Return the squared frequency at each place of a spectrum, in units of 1 / side^2: (d, h, w // 2 + 1), whole."""
    kz, ky, kx = _frequencies(side, device)
    return ((kz**2 + ky**2 + kx**2) * side**2).round().long()


def _spectrum(x: Tensor) -> Tensor:
    spectrum: Tensor = torch.fft.rfftn(x, dim=(-3, -2, -1))
    return spectrum


def _power(spectrum: Tensor) -> Tensor:
    """Return what the variance of a cube is proportional to (Parseval; kx > 0 stands for kx < 0 too), (N,)."""
    energy = torch.view_as_real(spectrum).square().sum((1, 2, 4))  # (N, w // 2 + 1)
    mean = spectrum[:, 0, 0, 0].abs().square()
    inner = energy[:, 1:-1].sum(1) if spectrum.shape[2] % 2 == 0 else energy[:, 1:].sum(1)
    ends = energy[:, 0] + energy[:, -1] if spectrum.shape[2] % 2 == 0 else energy[:, 0]
    return 2 * inner + ends - mean

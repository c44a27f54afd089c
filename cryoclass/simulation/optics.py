"""What the microscope does to a density: contrast transfer and the missing wedge, both as Fourier weights.

Every array here has the layout of ``scipy.fft.rfftn`` of a [z, y, x] volume, so [kz, ky, kx] with kx from 0 up.
The beam runs along z and the stage tilts about y, as in reconstructions of IMOD, AreTomo, RELION and Warp.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from cryoclass.settings import Simulation, Size3

Volume = NDArray[np.float32]


def frequencies(shape: Size3) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return kz (d, 1, 1), ky (1, h, 1) and kx (1, 1, w // 2 + 1) in cycles per pixel."""
    depth, height, width = shape
    return (
        fft.fftfreq(depth)[:, None, None],
        fft.fftfreq(height)[None, :, None],
        fft.rfftfreq(width)[None, None, :],
    )


def wavelength(voltage: float) -> float:
    """Return the relativistic wavelength in angstroms of electrons of ``voltage`` kilovolts (300: 0.019687)."""
    volts = 1000 * voltage
    return float(12.2643 / np.sqrt(volts * (1 + 0.978466e-6 * volts)))


def contrast_transfer(shape: Size3, settings: Simulation, defocus: float) -> Volume:
    """Return the contrast transfer function of a tomogram taken at one defocus.

    With k in 1/angstrom, A the amplitude contrast, and a defocus that is positive under focus::

        CTF(k) = sqrt(1 - A^2) sin(g) + A cos(g),    g = pi lambda defocus k^2 - pi/2 Cs lambda^3 k^4

    This is the sign of RELION (``CTF::getCTF``): positive towards low resolution, so protein stays positive (bright).
    A micrograph shows minus this, hence dark particles in tomograms whose contrast nobody has turned. All tilts share
    one defocus, so every central slice carries the same radial function, and with them the volume.

    Parameters
    ----------
    shape
        Depth, height and width of the volume in pixels.
    settings
        Pixel size, voltage, spherical aberration and amplitude contrast.
    defocus
        Micrometres, positive under focus.
    """
    kz, ky, kx = frequencies(shape)
    k2 = (kz**2 + ky**2 + kx**2) / settings.angpix**2
    lam, cs = wavelength(settings.voltage), 1e7 * settings.spherical_aberration
    phase = np.pi * lam * 1e4 * defocus * k2 - np.pi / 2 * cs * lam**3 * k2**2
    amplitude = settings.amplitude_contrast
    transfer = np.sqrt(1 - amplitude**2) * np.sin(phase) + amplitude * np.cos(phase)
    return np.asarray(transfer, dtype=np.float32)


def seen_by_tilts(shape: Size3, tilt: float) -> NDArray[np.bool_]:
    """Return where a tilt series from -``tilt`` to +``tilt`` degrees about y measures anything.

    The central slice of a tilt a holds the directions with kz = -kx tan(a), so the series sees abs(kz) <= abs(kx) tan(tilt);
    the rest, the missing wedge round kz, is False.
    """
    kz, ky, kx = frequencies(shape)
    angle = np.radians(tilt)
    # A slice exactly on the border is seen; the allowance keeps it so after rounding.
    inside = np.abs(kz) * np.cos(angle) <= np.abs(kx) * np.sin(angle) + 1e-9
    return np.broadcast_to(inside, np.broadcast_shapes(kz.shape, ky.shape, kx.shape))


def transferred(volume: Volume, weights: NDArray[Any]) -> Volume:
    """Return ``volume`` [z, y, x] with its Fourier transform multiplied by ``weights`` [kz, ky, kx]."""
    spectrum = fft.rfftn(volume)
    spectrum *= weights
    return np.asarray(fft.irfftn(spectrum, s=volume.shape), dtype=np.float32)

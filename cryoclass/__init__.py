"""cryoclass: classify cryo-electron-tomography subtomograms with 3D networks that learnt from video."""

__version__ = "0.1.0"

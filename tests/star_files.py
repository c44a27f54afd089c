"""Small STAR files of every producer, made from formulas; the real ones are described in the project's references."""

from collections.abc import Mapping, Sequence

Columns = Mapping[str, Sequence[str]]

XYZ: Columns = {
    "rlnCoordinateX": ["10.5", "20"],
    "rlnCoordinateY": ["30.25", "40"],
    "rlnCoordinateZ": ["50", "60.75"],
}
CENTRED: Columns = {
    "rlnCenteredCoordinateXAngst": ["-485.896912", "1974.646743"],
    "rlnCenteredCoordinateYAngst": ["588.853933", "-717.534649"],
    "rlnCenteredCoordinateZAngst": ["12.5", "-7.25"],
}
ORIGINS: Columns = {f"rlnOrigin{axis}Angst": ["1.5", "-2"] for axis in "XYZ"}
OPTICS: Columns = {
    "rlnOpticsGroup": ["1"],
    "rlnOpticsGroupName": ["opticsGroup1"],
    "rlnVoltage": ["300.000000"],
    "rlnSphericalAberration": ["2.700000"],
    "rlnImagePixelSize": ["7.500000"],
    "rlnImageSize": ["32"],
    "rlnImageDimensionality": ["3"],
}
TILT_SERIES: Columns = {"rlnTomoTiltSeriesPixelSize": ["1.25"], "rlnTomoSubtomogramBinning": ["6.0"]}


def loop(columns: Columns, name: str = "particles", *, version: int | None = None, tail: str = "") -> str:
    """Return a block; RELION puts a blank (``tail``) at the end of labels, rows and the line that ends the loop."""
    head = ["", f"# version {version}"] if version else []
    labels = [f"_{label} #{number}{tail}" for number, label in enumerate(columns, 1)]
    rows = [" ".join(row) + tail for row in zip(*columns.values(), strict=True)]
    return "\n".join([*head, "", f"data_{name}", "", f"loop_{tail}", *labels, *rows, tail, ""])


def listing(items: Mapping[str, str], name: str = "", version: int | None = None) -> str:
    head = f"\n# version {version}\n" if version else ""
    return (
        head + f"\ndata_{name}\n\n" + "".join(f"_{key}   {value}\n" for key, value in items.items()) + " \n"
    )


def optics(version: int = 30001, **changes: Sequence[str]) -> str:
    return loop({**OPTICS, **changes}, "optics", version=version, tail=" ")


def twice(text: str) -> list[str]:
    return [text, text]


def relion30(name: str = "", tomogram: str = "TS_01.mrc", **more: Sequence[str]) -> str:
    images = {"rlnImageName": ["Extract/job005/TS_01000001.mrc", "Extract/job005/TS_01000002.mrc"]}
    pixels = {"rlnMagnification": twice("10000.0"), "rlnDetectorPixelSize": twice("7.5")}
    return loop({"rlnMicrographName": twice(tomogram), **XYZ, **images, **pixels, **more}, name, tail=" ")


def relion31(tomogram: str = "tomograms/TS_01.mrc", **more: Sequence[str]) -> str:
    images = {"rlnImageName": ["Extract/job005/TS_01000001.mrc", "Extract/job005/TS_01000002.mrc"]}
    columns = {"rlnMicrographName": twice(tomogram), **XYZ, **images, "rlnOpticsGroup": ["1", "1"], **more}
    return optics() + loop(columns, version=30001, tail=" ")


def relion4(**more: Sequence[str]) -> str:
    images = {"rlnImageName": [f"PseudoSubtomo/job005/Subtomograms/TS_01/{n}_data.mrc" for n in (1, 2)]}
    columns = {
        **XYZ,
        "rlnTomoName": twice("TS_01"),
        "rlnOpticsGroup": ["1", "1"],
        **ORIGINS,
        **images,
        **more,
    }
    return optics(**TILT_SERIES) + loop(columns, version=30001, tail=" ")


def relion5(stacks: bool = True) -> str:
    ending, dimensions = ("_stack2d.mrcs", "2") if stacks else ("_data.mrc", "3")
    columns = {
        "rlnTomoName": twice("TS_01"),
        "rlnTomoParticleName": ["TS_01/1", "TS_01/2"],
        "rlnTomoVisibleFrames": ["[0,1,1,0]", "[1,1,1,1]"],
        "rlnOpticsGroup": ["1", "1"],
        "rlnImageName": [f"Extract/job020/Subtomograms/TS_01/{n}{ending}" for n in (1, 2)],
        **ORIGINS,
        **CENTRED,
    }
    return (
        listing({"rlnTomoSubTomosAre2DStacks": str(int(stacks))}, "general", 50001)
        + optics(50001, **TILT_SERIES, rlnImageDimensionality=[dimensions])
        + loop(columns, version=50001, tail=" ")
    )


def relion5_picks() -> str:
    return loop({"rlnTomoName": twice("TS_54"), **CENTRED})


def warp_3d(tomogram: str = "TS_01.tomostar") -> str:
    columns = {
        **XYZ,
        "rlnMicrographName": twice(tomogram),
        "rlnMagnification": twice("10000.0"),
        "rlnDetectorPixelSize": twice("10.00000"),
        "rlnCtfMaxResolution": twice("7.6"),
        "rlnImageName": [f"../subtomo/TS_01/TS_01_000000{n}_10.00A.mrc" for n in (0, 1)],
        "rlnCtfImage": [f"../subtomo/TS_01/TS_01_000000{n}_ctf_10.00A.mrc" for n in (0, 1)],
        "rlnPixelSize": twice("10.00000"),
    }
    return loop(columns, "")


def refined_warp() -> str:
    columns = {
        **XYZ,
        "rlnMicrographName": twice("/scratch/frames/reconstruction/TS_01.mrc.tomostar"),
        "rlnImageName": [f"../subtomo/TS_01.mrc/TS_01.mrc_000000{n}_5.00A.mrc" for n in (0, 1)],
        "rlnPixelSize": twice("5.00"),
        "rlnOpticsGroup": ["1", "1"],
        **ORIGINS,
    }
    return optics(50001, rlnImagePixelSize=["5.0"]) + loop(columns, version=50001, tail=" ")


def warptools_2d() -> str:
    """Return what WarpTools wrote before 2026-07: raw tilt-series pixels in optics, image pixels in coordinates."""
    columns = {
        "rlnTomoName": twice("TS_01.tomostar"),
        **XYZ,
        "rlnTomoParticleName": ["TS_01/1", "TS_01/2"],
        "rlnOpticsGroup": ["1", "1"],
        "rlnImageName": [f"particleseries/TS_01/TS_01_12.00A_00000{n}.mrcs" for n in (1, 2)],
        **{label: twice("0.0") for label in ORIGINS},
        "rlnTomoVisibleFrames": twice("[0,1,1]"),
    }
    table = {**OPTICS, "rlnTomoTiltSeriesPixelSize": ["1.66700"], "rlnImagePixelSize": ["12.00000"]}
    stacks = {**table, "rlnImageDimensionality": ["2"]}
    general = listing({"rlnTomoSubTomosAre2DStacks": "1"}, "general")
    return general + "\n\n\n" + loop(stacks, "optics") + "\n\n\n" + loop(columns)


def warp_matching() -> str:
    """Return template matching output: coordinates are fractions of the tomogram's size."""
    columns = {
        "rlnCoordinateX": ["0.25", "1.0"],
        "rlnCoordinateY": ["0.5", "0.125"],
        "rlnCoordinateZ": ["0.75", "0"],
        "rlnMicrographName": twice("TS_01.tomostar"),
        "rlnAutopickFigureOfMerit": ["7.1", "6.9"],
    }
    return loop(columns, "")


def m_species() -> str:
    samples = {f"wrpCoordinate{axis}{n}": [f"10{n}.5", f"20{n}"] for axis in "XYZ" for n in (1, 2)}
    return loop({**samples, "wrpRandomSubset": ["1", "2"], "wrpSourceName": twice("TS_01.tomostar")}, "")


def m_to_relion() -> str:
    return loop({**XYZ, "rlnMicrographName": twice("TS_01.tomostar")}, "")


def pytom() -> str:
    """Return optics groups without an optics block."""
    columns = {
        **XYZ,
        "rlnMicrographName": twice("20211007_tomo10.mrc.tomostar"),
        "rlnImageName": twice("subtomo/tomo10/particle_10.96A.mrc"),
        "rlnPixelSize": twice("10.96"),
        "rlnOpticsGroup": ["1", "1"],
        **ORIGINS,
    }
    return loop(columns)


def bare_numbers() -> str:
    """Return tomograms and images that are bare numbers, classes that are ``nan``, tabs between padded cells."""
    columns = {
        "rlnMicrographName": twice("1006      "),
        **{label: [f"{cell:<11}" for cell in cells] for label, cells in XYZ.items()},
        "rlnImageName": ["0  ", "1  "],
        "rlnPixelSize": twice("2.23   "),
        "rlnRandomSubset": ["2.0   ", "1.0   "],
        **{f"rlnOrigin{axis}": ["1.0   ", "-2.0  "] for axis in "XYZ"},
        "rlnClassNumber": twice("nan  "),
    }
    labels = [f"_{label} #{number}" for number, label in enumerate(columns, 1)]
    rows = ["\t".join(row) for row in zip(*columns.values(), strict=True)]
    return "\n".join(["", "data_", "", "loop_", *labels, *rows, "", ""])


def optics_after_particles() -> str:
    table, particles = relion31().split("\n# version 30001\n")[1:]
    return f"\n# version 30001\n{particles}\n# version 30001\n{table}"


def optimisation_set(particles: str, tomograms: str, looped: bool = False) -> str:
    """Return RELION's list block, or the one-row loop that its python programs write."""
    items = {"rlnTomoParticlesFile": particles, "rlnTomoTomogramsFile": tomograms}
    if looped:
        return loop({key: [value] for key, value in items.items()}, "optimisation_set")
    return listing(items, version=50001)


def tomograms_star(**changes: Sequence[str]) -> str:
    """Return RELION 5's list of tomograms; a column changed to nothing is left out."""
    columns = {
        "rlnTomoName": ["TS_01"],
        "rlnVoltage": ["300.0"],
        "rlnTomoTiltSeriesPixelSize": ["1.35"],
        "rlnTomoTomogramBinning": ["7.407407"],
        "rlnTomoSizeX": ["4000"],
        "rlnTomoSizeY": ["4001"],
        "rlnTomoSizeZ": ["2000"],
        "rlnTomoReconstructedTomogram": ["Tomograms/job006/tomograms/rec_TS_01.mrc"],
        **changes,
    }
    return loop({label: cells for label, cells in columns.items() if cells}, "global")


PRODUCERS = {
    "relion30": relion30(),
    "relion31": relion31(),
    "relion4": relion4(),
    "relion5": relion5(),
    "relion5_picks": relion5_picks(),
    "warp_3d": warp_3d(),
    "refined_warp": refined_warp(),
    "warptools_2d": warptools_2d(),
    "warp_matching": warp_matching(),
    "m_species": m_species(),
    "m_to_relion": m_to_relion(),
    "pytom": pytom(),
    "bare_numbers": bare_numbers(),
    "optics_after_particles": optics_after_particles(),
    "optimisation_set": optimisation_set("particles.star", "tomograms.star"),
    "optimisation_set_loop": optimisation_set("particles.star", "tomograms.star", looped=True),
    "tomograms": tomograms_star(),
}

# Whole files, named after what is unusual in them.
TRAPS: dict[str, bytes] = {
    "crlf": relion31().replace("\n", "\r\n").encode(),
    "no_newline_at_the_end": relion30().rstrip().encode(),
    "blank_after_loop": b"\ndata_\n\nloop_ \n_rlnImageName #1 \na.mrc \n \n",
    "no_blank_line_before_the_next_block": b"data_a\nloop_\n_x #1\n_y #2\n1 2\ndata_b\nloop_\n_z #1\n3\n",
    "comments_among_rows": b"data_\nloop_\n_x #1\n_y #2\n1 2\n# a comment\n3 4 # and another\n5 6\n\n",
    "blank_line_before_the_rows": b"data_\n\nloop_\n_x\n_y\n\n  1 2\n  3 4\n\n",
    "no_rows": b"data_\n\nloop_\n_x #1\n\n",
    "labels_without_numbers": b"data_block_0\n\nloop_\n_x\n_y\n1.0\t2.0\n\n\ndata_block_1\n\n_col1\tA\n_col2\tB\n",
    "wrong_numbers": b"data_\nloop_\n_x #2\n_y #1\n_z\n1 2 3\n\n",
    "glued_number": b"data_\nloop_\n_x#1\n_y#2\n1 2\n\n",
    "single_quotes": b"data_\nloop_\n_a #1\n_b #2\n_c #3\n_d #4\nnoquote 'quote string' ' ' ''\nx 'it's here' '' y\n\n",
    "empty_value": b'\ndata_\n\n_rlnTomoParticlesFile ""\n_rlnTomoTomogramsFile tomograms.star\n \n',
    "dot_in_the_block_name": b"data_TS_01.tomostar\n\nloop_\n_rlnTomoProjX #1\n[0.109,-0.99,0.02,0]\n\n",
    "two_blocks_of_one_name": b"data_\nloop_\n_x #1\n1\n\ndata_\nloop_\n_y #1\n2\n\n",
    "list_then_loop": b"data_a\n_key value\nloop_\n_x #1\n1\n\n",
    "not_utf8": b"data_\nloop_\n_name #1\n_n #2\ncaf\xe9.mrc 1\n\n",
    **{name: text.encode() for name, text in PRODUCERS.items()},
}

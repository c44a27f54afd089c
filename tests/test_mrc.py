"""MRC files as found in the wild: each gives its voxels as [z, y, x], or an error in words."""

import bz2
import gzip
import random
import re
import resource
import subprocess
import tracemalloc
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from mrc_files import mrc, ramp

from cryoclass.errors import OutputError, VolumeError
from cryoclass.volumes.mrc import open_volume, read_map, write_volume


@pytest.fixture
def put(tmp_path):
    """Return a function that writes bytes as a file and returns its path."""

    def write(content: bytes, name: str = "x.mrc") -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("mode", "dtype"), [(0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2")])
def test_every_mode_that_holds_densities(mode, dtype, order, put):
    data = ramp(dtype=dtype) - (30 if dtype in ("i1", "i2") else 0)
    path = put(mrc(data, mode, order))
    volume = open_volume(path)
    assert volume.data.dtype == np.dtype(dtype).newbyteorder(order)
    assert np.array_equal(volume.data, data)
    assert volume.angpix == pytest.approx(2.5)
    read = read_map(path)
    assert read.data.dtype.isnative
    assert read.data.dtype == np.float32
    assert np.array_equal(read.data, data)
    assert read.data.flags.writeable


@pytest.mark.parametrize("mode", [3, 4, 101])
def test_modes_that_hold_none_are_refused(mode, put):
    with pytest.raises(
        VolumeError, match=f"has MRC mode {mode}; densities are modes 0, 1, 2, 6, 12"
    ) as caught:
        open_volume(put(mrc(ramp(), mode)))
    assert "mode 2" in caught.value.hint


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("stamp", "flags", "dtype"), [(1146047817, 0, "u1"), (1146047817, 1, "i1"), (0, 0, "i1")]
)
def test_bytes_of_old_imod_are_unsigned(stamp, flags, dtype, order, put):
    extra = b"\0" * 40 + np.array([stamp, flags], f"{order}i4").tobytes()  # bytes 152 to 159 of the header
    range_of_unsigned = {"dmin": 0, "dmax": 209} if stamp else {}  # but the stamp says more than the range
    content = mrc(ramp(dtype="u1") + 150, 0, order, extra2=extra, **range_of_unsigned)
    assert content[152:156] == np.array(stamp, f"{order}i4").tobytes()
    data = open_volume(put(content)).data
    assert data.dtype == np.dtype(dtype)
    assert data[0, 0, 1] == (151 if dtype == "u1" else -105)


@pytest.mark.parametrize(
    "fields",
    [
        {"map": b"\0\0\0\0"},  # before 2000
        {"map": b"MAP\0"},  # MotionCor2
        {"machst": (0, 0, 0, 0)},  # tomoDRGN
        {"machst": (0x44, 0x20, 0x20, 0x20)},  # STOPGAP
        {"machst": (0x11, 0x11, 0, 0)},  # a big-endian stamp on little-endian data
        {"map": b"\0\0\0\0", "machst": (0, 0, 0, 0), "nversion": 0, "ispg": 0},  # PyTom
    ],
)
def test_stamps_are_not_believed(fields, put):
    assert np.array_equal(open_volume(put(mrc(ramp(), **fields))).data, ramp())


def test_a_big_endian_byte_volume_is_known_by_its_size(put):
    """Mode 0 is 0 in either order, so only nx, ny and nz tell."""
    assert open_volume(put(mrc(ramp((2, 3, 4), "i1"), 0, ">", machst=(0, 0, 0, 0)))).data.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"1bxn.mrc", "has only 8 bytes, fewer than an MRC header"),
        (b"version https://git-lfs.github.com/spec/v1\n", "has only 43 bytes"),
        (b"not a volume, but a long text. " * 100, "is not an MRC volume"),
        (b"\0" * 5000, "is not an MRC volume"),
        (b"\xff" * 5000, "is not an MRC volume"),
        (mrc(ramp(), mode=2).replace(b"\x02\0\0\0", b"\x66\0\0\0", 1), "is not an MRC volume"),  # mode 102
        (mrc(ramp())[:1024], "is truncated: 1024 bytes, but its header speaks of 1264"),
        (mrc(ramp())[:-1], "is truncated: 1263 bytes"),
        (mrc(ramp(), extended=b"x" * 160)[:-1], "is truncated: 1423 bytes, but its header speaks of 1424"),
        (mrc(ramp(), nx=900_000, ny=900_000, nz=900_000), "claims 900000 x 900000 x 900000 voxels"),
    ],
)
def test_what_is_no_whole_volume_is_refused_in_words(content, words, put):
    with pytest.raises(VolumeError, match=re.escape(words)) as caught:
        open_volume(put(content))
    assert caught.value.hint


def test_a_missing_file_a_folder_and_an_endless_name_are_no_volumes(tmp_path):
    for path, words in [
        (tmp_path / "none.mrc", "no such volume"),
        (tmp_path, "cannot be read: it is a folder"),
        (tmp_path / ("x" * 5000), "cannot be read: File name too long"),
        (tmp_path / "a\0b.mrc", "cannot be read: no file can have that name"),
    ]:
        with pytest.raises(VolumeError, match=words):
            open_volume(path)


def test_bytes_after_the_voxels_and_extended_headers_do_not_matter(put):
    content = mrc(ramp(), extended=b"IMOD" * 40) + b"more"
    assert np.array_equal(open_volume(put(content)).data, ramp())
    assert np.array_equal(open_volume(put(mrc(ramp(), extended=b""))).data, ramp())


def test_a_plain_file_is_mapped_and_cannot_be_changed(put):
    data = open_volume(put(mrc(ramp()))).data
    assert isinstance(data, np.memmap)
    assert not data.flags.writeable


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_compressed_files_are_known_by_their_content(pack, put):
    path = put(pack(mrc(ramp(), extended=b"x" * 100)), "x.mrc")
    assert np.array_equal(open_volume(path).data, ramp())
    assert open_volume(path).angpix == pytest.approx(2.5)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_damaged_compressed_files_are_refused(pack, put):
    whole = pack(mrc(ramp((8, 8, 8))))
    spoilt = whole[: len(whole) // 2] + b"\xff\xff\xff\xff" + whole[len(whole) // 2 + 4 :]
    for content, words in [(whole[:-20], "cannot be read"), (spoilt, "cannot be read")]:
        with pytest.raises(VolumeError, match=words):
            open_volume(put(content))
    with pytest.raises(VolumeError, match="is truncated"):
        open_volume(put(pack(mrc(ramp())[:-7])))
    with pytest.raises(VolumeError, match="is empty"):
        open_volume(put(pack(b"")))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_no_more_is_unpacked_than_the_header_asks_for(pack, put):
    """A bomb: 300 MB of zeros behind a whole volume, in a file of some kilobytes."""
    path = put(pack(mrc(ramp((32, 64, 64))) + bytes(300_000_000)))
    tracemalloc.start()
    try:
        data = open_volume(path).data
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(data, ramp((32, 64, 64)))
    assert not data.flags.writeable
    assert peak < data.nbytes + 5_000_000, "no second copy either"


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_header_that_lies_costs_no_memory(pack, put):
    path = put(pack(mrc(ramp(), nx=1000, ny=1000, nz=200)))  # 0.8 GB
    extended = mrc(ramp())[:92] + np.int32(900_000_000).tobytes() + mrc(ramp())[96:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VolumeError, match="is truncated: 1264 bytes, but its header speaks of 800001024"):
        open_volume(path)
    with pytest.raises(VolumeError, match="is truncated: 1264 bytes, but its header speaks of 900001264"):
        open_volume(put(pack(extended)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes
    with pytest.raises(VolumeError, match=r"claims 3.2e\+03 GB of voxels, and .* are free") as caught:
        open_volume(put(pack(mrc(ramp(), nx=10_000, ny=10_000, nz=8000))))
    assert "gunzip" in caught.value.hint


def test_the_checksum_at_the_end_of_a_gzip_is_held(put):
    whole = bytearray(gzip.compress(mrc(ramp((8, 8, 8)))))
    whole[-8] ^= 1
    with pytest.raises(VolumeError, match="cannot be read: CRC check failed"):
        open_volume(put(bytes(whole)))


ORDERS = [(3, 1, 2), (2, 1, 3), (1, 3, 2), (2, 3, 1), (3, 2, 1)]


@pytest.mark.parametrize("axes", [(1, 2, 3), *ORDERS])
def test_columns_rows_and_sections_of_a_map_become_x_y_and_z(axes, put):
    """Voxel (x, y, z) = 100 x + 10 y + z, stored with the axes in another order."""
    x, y, z = np.ogrid[:2, :3, :4]
    by_axis = (100 * x + 10 * y + z).astype("f4")  # [x, y, z]
    columns, rows, sections = (axis - 1 for axis in axes)
    stored = by_axis.transpose(sections, rows, columns)
    mapc, mapr, maps = axes
    path = put(mrc(stored, mapc=mapc, mapr=mapr, maps=maps, nxstart=-3, nystart=7))
    assert np.array_equal(read_map(path).data, by_axis.T)
    volume = open_volume(path)  # where coordinates point into it, the order is the file's, as in RELION
    assert np.array_equal(volume.data, stored)
    said = (
        ""
        if axes == (1, 2, 3)
        else f"its axis order is {mapc}, {mapr}, {maps}, but it is read in the order of the file"
    )
    assert " ".join(volume.remarks).startswith(said)
    assert bool(volume.remarks) == bool(said)


@pytest.mark.parametrize("axes", ORDERS)
def test_relion_keeps_the_order_of_the_file(axes, put, tmp_path):
    """The witness of the rule above: real RELION reads the volume and writes it again."""
    mapc, mapr, maps = axes
    path = put(mrc(ramp((4, 4, 4)), mapc=mapc, mapr=mapr, maps=maps))
    command = ["relion_image_handler", "--i", str(path), "--o", str(tmp_path / "again.mrc")]
    subprocess.run(command, check=True, capture_output=True)
    assert np.array_equal(open_volume(tmp_path / "again.mrc").data, open_volume(path).data)


def test_the_axes_of_a_stack_of_volumes_are_put_right_too(put):
    stored = ramp((6, 4, 5))
    volume = read_map(put(mrc(stored, ispg=401, mz=2, mapc=2, mapr=1, maps=3)))
    assert volume.data.shape == (3, 2, 5, 4)
    assert np.array_equal(volume.data, stored.reshape(3, 2, 4, 5).transpose(0, 1, 3, 2))


@pytest.mark.parametrize(
    ("cell", "intervals", "uneven"),
    [
        ((50, 40, 60), (5, 4, 6), None),
        ((50, 40, 120), (5, 4, 6), (10, 10, 20)),  # z is not scaled
        ((50, 48, 60), (5, 4, 6), (10, 12, 10)),
        ((50, 40.3, 60), (5, 4, 6), None),  # within 1 %
        ((50, 40, 60), (5, 4, 1), None),  # one section, say some programs, and give the size of all
        ((50, 40, 10), (5, 4, 1), None),  # or that of one
        ((50, 40, 0), (5, 4, 6), None),  # nobody said
        ((50, 0, 60), (5, 4, 6), None),
        ((0, 0, 60), (5, 4, 6), None),
    ],
)
def test_pixels_that_are_no_cubes_are_told(cell, intervals, uneven, put):
    mx, my, mz = intervals
    found = open_volume(put(mrc(ramp((6, 4, 5)), cella=cell, mx=mx, my=my, mz=mz))).uneven
    assert found is None if uneven is None else found == pytest.approx(uneven)


@pytest.mark.parametrize(
    ("ispg", "mz", "sections", "images"),
    [(0, 1, 6, True), (0, 6, 6, False), (1, 1, 6, False), (0, 1, 1, False)],
)
def test_a_stack_of_images_is_told_by_its_header(ispg, mz, sections, images, put):
    assert open_volume(put(mrc(ramp((sections, 4, 5)), ispg=ispg, mz=mz))).is_image_stack is images


@pytest.mark.parametrize(
    ("smallest", "largest", "value"),
    [
        (0, 228, 228),  # of signed bytes none is larger than 127
        (3, 255, 228),
        (-28, 120, -28),
        (0, 127, -28),
        (0, 0, -28),  # nobody filled them in
        (0, 3e6, -28),
        (0, -1, -28),
    ],
)
def test_bytes_without_a_stamp_are_signed_unless_the_header_says_more(smallest, largest, value, put):
    stored = np.full((3, 4, 5), -28, "i1")
    volume = open_volume(put(mrc(stored, mode=0, dmin=smallest, dmax=largest)))
    assert volume.data[0, 0, 0] == value
    said = [f"its bytes are read as unsigned, since the header's largest value is {largest}"]
    assert list(volume.remarks) == (said if value > 0 else [])


def test_axes_that_nobody_filled_in_are_the_usual_ones_and_nonsense_is_refused(put):
    assert np.array_equal(open_volume(put(mrc(ramp(), mapc=0, mapr=0, maps=0))).data, ramp())
    with pytest.raises(VolumeError, match=re.escape("has axis order (1, 1, 3)")):
        open_volume(put(mrc(ramp(), mapr=1)))


@pytest.mark.parametrize(
    ("ispg", "mz", "shape"),
    [
        (401, 2, (3, 2, 4, 5)),  # three volumes of two sections
        (630, 6, (1, 6, 4, 5)),
        (401, 0, (6, 4, 5)),  # mrcfile divides by zero here
        (401, -2, (6, 4, 5)),
        (401, 4, (6, 4, 5)),  # 6 sections are no whole number of volumes of 4
        (0, 6, (6, 4, 5)),  # RELION and Warp write 0 for volumes, too
        (0, 1, (6, 4, 5)),
        (1, 2, (6, 4, 5)),
    ],
)
def test_stacks_of_volumes_have_four_axes(ispg, mz, shape, put):
    volume = open_volume(put(mrc(ramp((6, 4, 5)), ispg=ispg, mz=mz)))
    assert volume.data.shape == shape
    assert np.array_equal(volume.data.reshape(6, 4, 5), ramp((6, 4, 5)))


@pytest.mark.parametrize(
    ("cell", "intervals", "angpix"),
    [
        ((25.0, 1, 1), 5, 5.0),
        ((12.5, 4, 3), 5, 2.5),  # RELION's 2D stacks do not scale z
        ((0.0, 0, 0), 5, None),
        ((5.0, 4, 3), 5, None),  # 1 A per voxel is what programs write for unknown
        ((5.05, 4, 3), 5, 1.01),
        ((5.005, 4, 3), 5, 1.001),
        ((25.0, 1, 1), 0, None),
        ((-25.0, 1, 1), 5, None),
        ((np.nan, 1, 1), 5, None),
        ((np.inf, 1, 1), 5, None),
    ],
)
def test_the_pixel_size_is_cell_over_intervals_or_unknown(cell, intervals, angpix, put):
    assert open_volume(put(mrc(ramp(), cella=cell, mx=intervals))).angpix == (
        None if angpix is None else pytest.approx(angpix)
    )


def test_voxels_that_are_no_numbers_are_counted(put):
    data = ramp()
    data[0, 0, 0], data[1, 1, 1], data[2, 2, 2] = np.nan, np.inf, -np.inf
    path = put(mrc(data))
    assert np.isnan(open_volume(path).data[0, 0, 0])
    with pytest.raises(VolumeError, match="holds 3 voxels that are NaN or infinite"):
        read_map(path)


def test_mrcfile_agrees_on_what_we_read(put):
    for mode, order in [(0, "<"), (1, ">"), (2, "<"), (6, ">"), (12, "<")]:
        path = put(mrc(ramp(), mode, order, extended=b"x" * 80))
        with mrcfile.open(path, permissive=True) as peer:
            assert np.array_equal(peer.data, open_volume(path).data)
            assert peer.data.dtype == open_volume(path).data.dtype


# ------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize(("dtype", "mode"), [("float32", 2), ("float16", 12)])
def test_mrcfile_finds_nothing_wrong_with_what_we_write(dtype, mode, tmp_path, capsys):
    data = np.random.default_rng(1).normal(3, 2, (6, 8, 10))
    write_volume(tmp_path / "new" / "x.mrc", data, 7.25, dtype)
    path = tmp_path / "new" / "x.mrc"
    assert mrcfile.validate(path), capsys.readouterr().out
    with mrcfile.open(path) as peer:
        assert np.array_equal(peer.data, data.astype(dtype))
        assert peer.header.mode == mode
        assert peer.is_volume()
        assert [float(peer.voxel_size[axis]) for axis in "xyz"] == pytest.approx([7.25] * 3)
    volume = open_volume(path)
    assert np.array_equal(volume.data, data.astype(dtype))
    assert volume.angpix == pytest.approx(7.25)


@pytest.mark.parametrize("source", ["f8", "i4", "u1", ">f4", "bool"])
def test_any_number_type_is_written_as_float32(source, tmp_path):
    data = ramp().astype(source)
    write_volume(tmp_path / "x.mrc", data[:, ::-1], 2.0)  # neither contiguous nor native
    assert np.array_equal(read_map(tmp_path / "x.mrc").data, data[:, ::-1].astype("f4"))


@pytest.mark.parametrize(
    ("value", "dtype"), [(7e4, "float16"), (np.nan, "float32"), (np.inf, "float32"), (1e39, "float32")]
)
def test_voxels_that_the_file_cannot_hold_are_refused(value, dtype, tmp_path):
    data = np.zeros((2, 2, 2))
    data[1, 1, 1] = value
    with pytest.raises(VolumeError, match="NaN, infinite or beyond the") as caught:
        write_volume(tmp_path / "x.mrc", data, 2.0, dtype)
    assert ("or write float32" in caught.value.hint) is (dtype == "float16")
    assert list(tmp_path.iterdir()) == []


def test_a_volume_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        write_volume(tmp_path / "file" / "x.mrc", ramp(), 2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ------------------------------------------------------------------------------------------ fuzz


def test_damaged_files_give_voxels_or_an_error_in_words(put):
    rng = random.Random(8)
    big_endian, bytes_of_imod = mrc(ramp(), 1, ">"), mrc(ramp(), 0, extra2=b"\0" * 40 + b"IMOD" + b"\0" * 4)
    sound = [mrc(ramp(), extended=b"x" * 80), mrc(ramp(dtype="f2"), 12), big_endian, bytes_of_imod]
    sound += [mrc(ramp((6, 4, 5)), ispg=401, mz=2), gzip.compress(sound[0]), bz2.compress(sound[0])]
    read = refused = 0
    for case in range(1500):
        data = bytearray(sound[case % len(sound)])
        for _ in range(rng.choice([1, 1, 2, 5, 20])):
            # The fields of the header stand in the first 240 bytes; compressed, they are not so long.
            data[rng.randrange(rng.choice([min(240, len(data)), len(data)]))] = rng.randrange(256)
        if rng.random() < 0.25:
            del data[rng.randrange(len(data)) :]
        path = put(bytes(data), f"{case}.mrc")  # a new name: cutting off a mapped file would take long
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                volume = read_map(path)
            assert volume.data.ndim in (3, 4)
            assert np.isfinite(volume.data).all()
            assert volume.angpix is None or volume.angpix > 0
            read += 1
        except VolumeError as error:
            refused += str(path) in str(error)
    assert read > 300
    assert read + refused == 1500

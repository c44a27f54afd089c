"""One loop reads many boxes, bad ones come with reasons, and what is known of a source is measured once."""

import threading
import time

import numpy as np
import pytest

from cryoclass.errors import OutputError, VolumeError
from cryoclass.sources import (
    Boxes,
    InvertedSource,
    JoinedSource,
    RescaledSource,
    fastest_order,
    read_many,
    take_sample,
)


class Numbered:
    """Boxes that say their own number; some cannot be read, and some are listed nowhere."""

    def __init__(self, count=12, bad=(), unlisted=(), box=4, angpix=10.0):
        self.count, self.bad, self.box, self.angpix = count, set(bad) | set(unlisted), box, angpix
        self.order = np.array([row for row in reversed(range(count)) if row not in unlisted])
        self.reads, self.threads = [], set()

    def __len__(self):
        return self.count

    def read(self, index):
        self.reads.append(index)
        self.threads.add(threading.get_ident())
        if index in self.bad:
            raise VolumeError(f"row {index} is bad.")
        return np.random.default_rng(index).normal(index, 1, (self.box,) * 3).astype(np.float32)

    def fingerprint(self):
        return f"numbered {self.count}"


@pytest.mark.parametrize("workers", [1, 3])
def test_boxes_come_in_the_order_asked_for_and_bad_ones_with_a_reason(workers):
    rows = [7, 2, 9, 2, 0]
    read = list(read_many(Numbered(bad=[9]), rows, workers))
    assert [row for row, _ in read] == rows
    assert read[2][1] == "row 9 is bad."
    for row, box in read[:2]:
        np.testing.assert_array_equal(box, Numbered().read(row))


def test_as_much_is_read_ahead_as_was_allowed_and_no_more():
    source = Numbered(count=40)
    stream = read_many(source, range(40), workers=1, ahead=6)
    next(stream)
    deadline = time.monotonic() + 10
    while len(source.reads) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert source.reads == list(range(7))
    stream.close()
    assert len(source.reads) == 7


def test_whoever_stops_asking_does_not_wait_for_the_rest():
    class Slow(Numbered):
        def read(self, index):
            time.sleep(0.02)
            return super().read(index)

    source = Slow(count=40)
    stream = read_many(source, range(40), workers=1, ahead=30)
    next(stream)
    stream.close()
    assert len(source.reads) < 10


def test_threads_share_the_reading():
    gate = threading.Barrier(2, timeout=10)

    class Waiting(Numbered):
        def read(self, index):
            gate.wait()  # passes only where two threads read at once
            return super().read(index)

    assert len(list(read_many(Waiting(), range(8), workers=2))) == 8


def test_what_is_no_fault_of_a_particle_ends_the_reading():
    class Full(Numbered):
        def read(self, index):
            raise OutputError(f"box {index}: the disk is full.")

    with pytest.raises(OutputError):
        list(read_many(Full(), range(8), workers=2))


def test_rows_that_a_source_does_not_list_come_last():
    source = Numbered(unlisted=[1, 4])
    assert fastest_order(source, np.array([0, 1, 4, 5, 9])) == [9, 5, 0, 1, 4]


def test_a_sample_is_the_mean_and_the_hash_of_what_can_be_read():
    source = Numbered(bad=[3])
    sample = take_sample(source)
    good = [row for row in range(12) if row != 3]
    assert sorted(sample.rows) == good
    assert sample.problems == ("row 3 is bad",)
    assert sample.size == 12
    np.testing.assert_allclose(
        sample.mean, np.mean([Numbered().read(row) for row in good], axis=0), rtol=1e-5
    )
    assert sample.digest == take_sample(Numbered(bad=[3])).digest
    assert sample.digest != take_sample(InvertedSource(Numbered(bad=[3]))).digest


def test_a_sample_of_a_large_table_is_spread_and_small():
    source = Numbered(count=5000, box=2)
    rows = take_sample(source).rows
    assert len(rows) == 200
    assert {0, 4999} <= set(rows)
    assert np.diff(np.sort(rows)).max() < 30


def test_a_sample_with_a_time_limit_stops():
    source = Numbered(count=500, box=2)
    assert take_sample(source, most_seconds=0.0).size == 1


def test_contrast_and_hash_are_measured_once_a_run():
    source = Numbered()
    boxes = Boxes(source=source)
    assert boxes.sample.contrast == boxes.sample.contrast
    assert boxes.fingerprint == boxes.fingerprint
    assert len(source.reads) == 12


def test_other_boxes_have_another_fingerprint():
    plain = Numbered()
    sources = [
        plain,
        Numbered(count=13),
        InvertedSource(plain),
        RescaledSource(plain, 4, 20.0),
        RescaledSource(plain, 6, 20.0),
        JoinedSource([plain, plain]),
    ]
    assert len({source.fingerprint() for source in sources}) == len(sources)
    elsewhere = Numbered()
    elsewhere.fingerprint = lambda: "the same voxels as far as was looked, in other files"
    assert Boxes(source=elsewhere).fingerprint != Boxes(source=plain).fingerprint
    changed = Numbered()
    changed.read = lambda index: np.full((4, 4, 4), index, np.float32)
    assert Boxes(source=changed).fingerprint != Boxes(source=plain).fingerprint

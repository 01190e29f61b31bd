"""A long remote video is fetched once for all tasks on a machine; bytes are counted at a server."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest

from benchmarks.scale_bytes import CountingApp
from corrfractal.video import write_video
from pipeline.config import PipelineConfig
from pipeline.discover import segments
from pipeline.discover.segments import Segment
from pipeline.discover.source_table import Source
from pipeline.run import precompute
from pipeline.store.shared_copy import copy_of, remove_copies

SIZE = 20_000_000
SOURCES = ("other", "sources")

# Reads the video named by its argument, says so, and waits to be killed.
READER = """
import sys, time
from pipeline.discover.segments import Segment
from pipeline.discover.source_table import Source
from pipeline.store.shared_copy import copy_of
source = Source(uri="x", path=sys.argv[1])
with copy_of(Segment(source=source, count=3), "killed"):
    print("reading", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def upload(s3: str) -> Iterator[Callable[[bytes], str]]:
    """Stores a video in the bucket; returns its location."""
    client = boto3.client("s3")
    keys = []

    def put(contents: bytes) -> str:
        keys.append(f"videos/{uuid.uuid4().hex}.mp4")
        client.put_object(Bucket="bucket", Key=keys[-1], Body=contents)
        return f"{s3}/{keys[-1]}"

    yield put
    for key in keys:
        client.delete_object(Bucket="bucket", Key=key)


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of copies, below a folder for temporary files of this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"corrfractal-copies-{os.geteuid()}"


def segment(location: str, number: int = 0, count: int = 3) -> Segment:
    return Segment(source=Source(uri="x", path=location), number=number, count=count)


def sent(server: CountingApp) -> int:
    """Bytes of videos since the last call."""
    return server.take()[SOURCES]


@pytest.mark.usefixtures("copies")
def test_tasks_at_once_and_one_after_another_read_one_copy(s3_server, upload) -> None:
    contents = os.urandom(SIZE)
    location = upload(contents)
    sent(s3_server)
    read = []

    def task(number: int) -> None:
        with copy_of(segment(location, number), "build") as path:
            read.append(path.read_bytes() == contents)

    threads = [threading.Thread(target=task, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    task(5)
    assert read == [True] * 5
    assert sent(s3_server) == SIZE

    # Another build trusts no copy of this one, and a short video is not shared.
    with copy_of(segment(location), "later"):
        assert sent(s3_server) == SIZE
    for _ in range(2):
        with copy_of(segment(location, count=1), "later"):
            assert sent(s3_server) == SIZE


def test_no_more_copies_are_stored_than_are_read(upload, copies: Path) -> None:
    locations = [upload(b"%d" % number) for number in range(4)]
    with copy_of(segment(locations[0]), "build") as held:
        for location in locations[1:]:
            with copy_of(segment(location), "build"):
                assert len(list(copies.iterdir())) == 2
        remove_copies()
        assert held.read_bytes() == b"0"
        assert len(list(copies.iterdir())) == 1
    remove_copies()
    assert list(copies.iterdir()) == []


@pytest.mark.parametrize("moment", ["fetching", "reading"])
def test_what_a_killed_task_left_is_not_read_and_goes(
    moment: str, s3_server, upload, copies: Path
) -> None:
    contents = os.urandom(SIZE)
    location = upload(contents)
    command = [sys.executable, "-c", READER, location]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
        if moment == "reading":
            assert reader.stdout.readline() == b"reading\n"
        else:
            deadline = time.monotonic() + 60
            while not list(copies.glob("*/partial/*")) and time.monotonic() < deadline:
                time.sleep(0.001)
        (left,) = copies.iterdir()
        # While the task lives, its copy stays.
        remove_copies()
        assert left.exists()
        reader.kill()

    sent(s3_server)
    with copy_of(segment(location), "next") as path:
        assert path.read_bytes() == contents
        assert list(copies.iterdir()) == [path.parent.parent]
    # Of the killed task's request, the server may have sent the rest meanwhile.
    assert SIZE <= sent(s3_server) <= 2 * SIZE


@pytest.mark.parametrize("fault", ["missing", "unreachable"])
def test_a_video_that_cannot_be_fetched_leaves_nothing(fault: str, s3, copies: Path) -> None:
    location = f"{s3}/videos/none.mp4" if fault == "missing" else "http://127.0.0.1:9/x.mp4"
    with pytest.raises(OSError, match=r"none\.mp4|127\.0\.0\.1:9"), copy_of(segment(location), "b"):
        pass
    assert list(copies.iterdir()) == []


def test_a_folder_that_others_can_write_to_is_not_used(upload, copies: Path) -> None:
    copies.mkdir(mode=0o777)
    copies.chmod(0o777)
    with copy_of(segment(upload(b"x")), "build") as path:
        assert not path.is_relative_to(copies)
    assert list(copies.iterdir()) == []


@pytest.mark.usefixtures("ray_session")
def test_a_build_fetches_a_long_video_once(
    s3_server, upload, config: PipelineConfig, swaying_frames, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(segments, "LEAST_BYTES", 1000)
    monkeypatch.setattr(segments, "LEAST_RATE", 2000)
    frames = [frame[:64, :64] for frame in swaying_frames(108)]
    write_video(tmp_path / "long.mp4", np.asarray(frames), fps=24)
    # A padding box: the header, which planning reads, is a small part of the file.
    padding = bytes(5_000_000)
    box = (len(padding) + 8).to_bytes(4, "big") + b"free" + padding
    contents = (tmp_path / "long.mp4").read_bytes() + box
    location = upload(contents)
    config = dataclasses.replace(config, segment_seconds=1.5)
    sent(s3_server)
    result = precompute([location], tmp_path / "out", config, workers=2)
    assert result.shards == 3
    assert sent(s3_server) <= 1.1 * len(contents)
    copies = Path(tempfile.gettempdir(), f"corrfractal-copies-{os.geteuid()}")
    assert not list(copies.glob(f"*/*/{location.rpartition('/')[2]}"))

"""Builds over many small real files: seconds, files that are read, and shards that are made.

    python benchmarks/scale_files.py DATA [--files 20000] [--tree FOLDER] [--workers 2] [--json]

The files are one second each of the videos in DATA/train_videos, 160 pixels wide, every one with a
comment of its own: other bytes, another hash, and in most cases another size. One folder of shards
is built from them by ``corrfractal precompute``: first with the driver killed halfway and run
again, then with nothing changed, one file added, one removed and one changed.

The kernel reports which files of the two folders are read, by whatever process (inotify), and how
many bytes the driver reads in all. ``--tree`` measures the code of another folder, such as a
checkout of an earlier version.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import click
import numpy as np
from measure import ROOT, print_table

from corrfractal.video import open_video, write_video

FILES = 20_000
WIDTH = 160
FRAMES = 26  # at 24 frames a second; a clip of the default configuration takes 0.94 s
MOST_COMMENT = 4000
ATTEMPTS = 5
# Labels of small frames: the benchmark is about everything around them.
CONFIG = "[precompute]\nsize = 64\n"
ACCESS = 0x1
OVERFLOW = 0x4000
EVENT = struct.Struct("iIII")


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--files", default=FILES, show_default=True)
@click.option("--tree", type=click.Path(exists=True, path_type=Path), default=ROOT)
@click.option("--workers", default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(data: Path, files: int, tree: Path, workers: int, as_json: bool) -> None:
    """Measure one version."""
    with tempfile.TemporaryDirectory() as work:
        found = measure_files(data / "train_videos", Path(work), files, workers, tree)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_table(f"Builds over real files: {files}", build_rows(found))


def measure_files(
    videos: Path, work: Path, count: int, workers: int = 2, tree: Path = ROOT
) -> dict[str, Any]:
    """Build a folder of ``count`` small files, and again after each kind of change.

    Returns:
        ``files``, ``workers``, ``source_bytes``; ``shard_bytes`` and ``shards`` at the end,
        ``first_shards`` before the changes; and for each build in ``builds`` its ``seconds``,
        ``made`` (shards), ``sources_read`` and ``source_bytes_read`` (each file once, however often
        it is read), ``shards_read``, ``shard_bytes_read`` and ``driver_bytes``.
    """
    sources = work / "sources"
    out = work / "shards"
    sources.mkdir()
    out.mkdir()
    (work / "config.toml").write_text(CONFIG)
    clips = short_clips(videos, work)
    for number in range(count):
        write_small(sources / name_of(number), clips[number % len(clips)], number)
    time.sleep(3)  # a file that was written just now proves nothing by its time
    size = sum(path.stat().st_size for path in sources.iterdir())

    def run(kill_after: int | None = None) -> dict[str, Any]:
        # Ray gives up after 30 s if the machine is too busy to start it.
        for _ in range(ATTEMPTS):
            found = run_build(sources, out, work / "config.toml", workers, tree, kill_after)
            if found["exit_status"] == 0 or found["made"]:
                return found
        sys.exit(f"the build in {out} failed")

    shards = count // 8
    builds: dict[str, dict[str, Any]] = {}
    builds["first, driver killed halfway"] = run(kill_after=shards // 2)
    builds["the same again"] = run()
    first_shards = len(list(out.glob("shard-*.tar")))
    builds["nothing changed"] = run()
    middle = count // 2
    added = sources / f"{Path(name_of(middle)).stem}-new.mp4"
    write_small(added, clips[0], count)
    time.sleep(3)
    builds["one file added"] = run()
    added.unlink()
    builds["one file removed"] = run()
    write_small(sources / name_of(middle), clips[1], count + 1)
    time.sleep(3)
    builds["one file changed"] = run()
    return {
        "files": count,
        "workers": workers,
        "source_bytes": size,
        "shard_bytes": sum(path.stat().st_size for path in out.glob("shard-*.tar")),
        "shards": len(list(out.glob("shard-*.tar"))),
        "first_shards": first_shards,
        "builds": builds,
    }


def build_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a build."""
    return [
        {
            "build": name,
            "s": f"{build['seconds']:.1f}",
            "shards made": f"{build['made']} of {found['shards']}",
            "sources read": f"{build['sources_read']}, {build['source_bytes_read'] / 1e6:.2f} MB",
            "shards read": f"{build['shards_read']}, {build['shard_bytes_read'] / 1e6:.2f} MB",
            "driver read, MB": f"{build['driver_bytes'] / 1e6:.0f}",
        }
        for name, build in found["builds"].items()
    ]


def name_of(number: int) -> str:
    """Of a file."""
    return f"clip-{number:06d}.mp4"


def short_clips(videos: Path, work: Path) -> list[Path]:
    """The first second of every video in a folder, small."""
    import cv2

    clips = []
    for path in sorted(videos.iterdir()):
        video = open_video(path)
        height = round(WIDTH * video.info.height / video.info.width / 2) * 2
        images = [
            np.asarray(cv2.resize(frame.image, (WIDTH, height), interpolation=cv2.INTER_AREA))
            for frame in video.frames(range(min(FRAMES, video.info.frames)))
        ]
        clip = work / f"short-{path.stem}.mp4"
        write_video(clip, images, fps=24)
        clips.append(clip)
    return clips


def write_small(path: Path, clip: Path, number: int) -> None:
    """Write the packets of a clip with a comment that no other file has."""
    chance = random.Random(number)
    comment = f"{number} " + "x" * chance.randrange(MOST_COMMENT)
    with av.open(str(clip)) as given, av.open(str(path), "w") as container:
        container.metadata["comment"] = comment
        stream = given.streams.video[0]
        copy = container.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                container.mux(packet)


def run_build(
    sources: Path, out: Path, config: Path, workers: int, tree: Path, kill_after: int | None
) -> dict[str, Any]:
    """One call of ``corrfractal precompute``.

    Args:
        sources, out, config, workers: of the call.
        tree: whose code runs.
        kill_after: SIGKILL the driver once this many shards exist.
    """
    command = [sys.executable, "-m", "corrfractal", "precompute", str(sources), "--out", str(out)]
    command += ["--config", str(config), "--workers", str(workers), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    before = {path.name for path in out.glob("shard-*.tar")}
    with ReadFiles(sources, out) as read, tempfile.TemporaryFile() as report:
        started = time.monotonic()
        # Not from the folder of this script, whose modules would come first.
        driver = subprocess.Popen(command, env=environment, cwd=tree, stdout=report)
        killed = kill_after is not None and kill_halfway(driver, out, kill_after)
        os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
        seconds = time.monotonic() - started
        driver_bytes = bytes_read(driver.pid)
        code = driver.wait()
        if killed:
            time.sleep(5)  # until Ray has ended the tasks
            made = len({path.name for path in out.glob("shard-*.tar")} - before)
        else:
            report.seek(0)
            made = 0 if code else json.loads(report.read())["made"]
    source_names = read.names[sources]
    shard_names = {name for name in read.names[out] if name.startswith("shard-")}
    shard_names = {name for name in shard_names if name.endswith(".tar")}
    return {
        "seconds": seconds,
        "made": made,
        "exit_status": code,
        "driver_bytes": driver_bytes,
        "sources_read": len(source_names),
        "source_bytes_read": total_size(sources, source_names),
        "shards_read": len(shard_names),
        "shard_bytes_read": total_size(out, shard_names),
    }


def kill_halfway(driver: subprocess.Popen[bytes], out: Path, shards: int) -> bool:
    """SIGKILL the driver once this many shards exist; False if it ended before."""
    # Not poll(): the kernel's counters of a process end when its status is taken.
    while not os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        if len(list(out.glob("shard-*.tar"))) >= shards:
            driver.kill()
            return True
        time.sleep(0.5)
    return False


def bytes_read(pid: int) -> int:
    """Bytes that a process, alive or not yet waited for, got from read calls."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/{pid}/io has no rchar")


def total_size(folder: Path, names: set[str]) -> int:
    """Bytes of those of the named files that exist."""
    paths = [folder / name for name in names]
    return sum(path.stat().st_size for path in paths if path.exists())


class ReadFiles:
    """Names of the files in folders that any process reads during a ``with`` block.

    Attributes:
        names: by folder.
    """

    def __init__(self, *folders: Path) -> None:
        self.names: dict[Path, set[str]] = {folder: set() for folder in folders}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._overflow = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)

    def __enter__(self) -> Self:
        self._queue = self._libc.inotify_init1(os.O_NONBLOCK)
        self._folders: dict[int, Path] = {}
        for folder in self.names:
            watch = self._libc.inotify_add_watch(self._queue, os.fsencode(folder), ACCESS)
            if watch < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))
            self._folders[watch] = folder
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._queue)
        if self._overflow:
            sys.exit("files were read faster than this benchmark noted their names")

    def _collect(self) -> None:
        while True:
            # Asked before the queue is read, so that nothing that came earlier is left in it.
            stopped = self._stop.is_set()
            if select.select([self._queue], [], [], 0.2)[0]:
                self._take(os.read(self._queue, 1 << 20))
            elif stopped:
                return

    def _take(self, block: bytes) -> None:
        position = 0
        while position < len(block):
            watch, mask, _, length = EVENT.unpack_from(block, position)
            position += EVENT.size
            name = block[position : position + length].rstrip(b"\0")
            position += length
            if mask & OVERFLOW:
                self._overflow = True
            elif name:
                self.names[self._folders[watch]].add(os.fsdecode(name))


if __name__ == "__main__":
    main()

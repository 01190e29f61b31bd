"""Outcome of every odd video.

    python benchmarks/odd_videos.py DATA [--page docs/reference/odd-videos.md]

DATA contains the folders odd_videos and videos; kinds of files that they lack are generated.
All files go through the pipeline as in any data set. The page is a table of the index's sources
with the properties that a probe of each file finds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from measure import table

from corrfractal.shards.index import Index
from corrfractal.shards.manifest import SourceEntry, load_manifest
from corrfractal.video import open_video, resize_area, write_video
from pipeline.config import PipelineConfig
from pipeline.run import precompute

FOLDERS = ("odd_videos", "videos")
FOOTAGE = "videos/cotracker_bear.mp4"
# Frames of a generated video: one clip at 30 frames per second.
FRAMES = 36
PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "odd-videos.md"

HEAD = """# Outcome of odd videos

Written by `{command}`: {files} files go through
`corrfractal precompute` with the default configuration, in one data set. **{sources} sources =
{sampled} sampled + {quarantined} quarantined + {rejected} rejected**, in {seconds:.0f} s; {frames}
frames in {clips} clips are stored. The command generates the files in `made/`; all others are real.

- *sampled*: read to the end.
- *quarantined*: damaged; everything before the damage is kept. *first bad* is the index of the
  first frame that could not be decoded.
- *rejected*: intact, but no clip fits.
- *size* is as coded, before rotation.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "in"
        for name in FOLDERS:
            shutil.copytree(arguments.data / name, root / name)
        make_videos(root / "made", root / FOOTAGE)
        started = time.monotonic()
        precompute([str(root)], Path(folder) / "out", PipelineConfig(), workers=2)
        seconds = time.monotonic() - started
        out = Path(folder) / "out"
        manifest = load_manifest(out)
        sources = list(Index(out, manifest).sources)
        rows = [row(entry, root / entry.uri) for entry in sources]
        files = {path.relative_to(root).as_posix() for path in root.glob("*/*")}
    missing = files - {entry.uri for entry in sources}
    if missing:
        raise SystemExit(f"missing from the index: {sorted(missing)}")
    statistics = manifest.statistics
    outcomes = Counter(entry.outcome for entry in sources)
    head = HEAD.format(
        command="python benchmarks/odd_videos.py ../shared/data",
        files=len(files),
        sources=len(rows),
        sampled=outcomes["sampled"],
        quarantined=outcomes["quarantined"],
        rejected=outcomes["rejected"],
        seconds=seconds,
        frames=statistics.frames,
        clips=statistics.samples,
    )
    parts = [head]
    for name, group in itertools.groupby(rows, key=lambda row: row["file"].split("/")[0]):
        parts.append(f"## {name}\n\n{table(list(group))}")
    arguments.page.write_text("\n".join(parts), encoding="utf-8")
    print(json.dumps(outcomes), f"-> {arguments.page}")


def row(entry: SourceEntry, path: Path) -> dict[str, Any]:
    """A row of the table."""
    return {
        "file": f"{entry.uri}",
        **(probe_folder(path) if path.is_dir() else probe(path)),
        "outcome": entry.outcome,
        "decoder": entry.decoder,
        "frames": str(entry.frames or ""),
        "cuts": str(entry.cuts or ""),
        "clips": str(entry.clips or ""),
        "first bad": "" if entry.first_bad_frame is None else str(entry.first_bad_frame),
        "reason": entry.reason or "",
    }


def probe(path: Path) -> dict[str, str]:
    """Codec, size, pixel format, rate and unusual properties, from the header and first frame."""
    properties = {"codec": "", "size": "", "pixels": "", "fps": "", "odd": ""}
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                return {**properties, "odd": "no video stream"}
            stream = container.streams.video[0]
            context = stream.codec_context
            rate = stream.average_rate
            properties["codec"] = context.name
            properties["fps"] = f"{float(rate):.4g}" if rate else ""
            properties["size"] = f"{context.width} x {context.height}" if context.width else ""
            properties["pixels"] = context.pix_fmt or ""
            properties["odd"] = ", ".join(oddities(stream, next(container.decode(stream), None)))
    except av.FFmpegError as exc:
        properties["odd"] = properties["odd"] or f"unreadable: {str(exc.strerror).lower()}"
    return properties


def oddities(stream: Any, frame: Any) -> Iterator[str]:
    """Yield the unusual properties of a stream and its first frame."""
    width = stream.codec_context.width
    height = stream.codec_context.height
    pixels = stream.codec_context.pix_fmt or ""
    if stream.frames == 1:
        yield "one frame"
    if max(width, height) >= 3840:
        yield "4K"
    if width % 2 or height % 2:
        yield "odd size"
    if "10" in pixels:
        yield "10 bit"
    if pixels.startswith("gray"):
        yield "grey"
    has_alpha_format = "a4" in pixels or pixels in ("argb", "rgba", "bgra")
    if has_alpha_format or stream.metadata.get("alpha_mode") == "1":
        yield "alpha"
    aspect = stream.sample_aspect_ratio
    if aspect and aspect != 1:
        yield f"pixel aspect {aspect.numerator}:{aspect.denominator}"
    if frame is not None and frame.interlaced_frame:
        yield "interlaced"
    if frame is not None and frame.rotation:
        yield f"rotated by {frame.rotation % 360}"
    guessed = stream.base_rate
    average = stream.average_rate
    if guessed and average and stream.frames > 2 and not 0.98 < guessed / average < 1.02:
        yield "variable rate"


def probe_folder(path: Path) -> dict[str, str]:
    """The properties that ``probe`` returns, for a folder of images."""
    first = min(path.iterdir())
    image = np.asarray(cv2.imread(str(first), cv2.IMREAD_UNCHANGED))
    channels = 1 if image.ndim == 2 else image.shape[2]
    pixels = {1: "grey", 3: "rgb", 4: "rgba"}[channels] + ("16" if image.dtype == np.uint16 else "")
    size = f"{image.shape[1]} x {image.shape[0]}"
    return {
        "codec": first.suffix[1:],
        "size": size,
        "pixels": pixels,
        "fps": "",
        "odd": "folder of frames",
    }


def make_videos(folder: Path, footage: Path) -> None:
    """Generate kinds of files that the data lacks, from real footage: 4K, grey, alpha, 12 bit, and
    folders of images in unusual pixel formats."""
    folder.mkdir()
    frames = [frame.image for frame in itertools.islice(open_video(footage).frames(), FRAMES)]

    def scene(height: int, width: int) -> Iterator[npt.NDArray[np.uint8]]:
        return (resize_area(frame, height, width) for frame in frames)

    write_video(folder / "4k.mp4", scene(2160, 3840), fps=30)
    encode(folder / "grey.mp4", "libx264", "gray", scene(240, 320))
    encode(folder / "grey_16_bit.mkv", "ffv1", "gray16le", scene(240, 320))
    encode(folder / "alpha.mov", "qtrle", "argb", scene(240, 320))
    encode(folder / "alpha.webm", "libvpx-vp9", "yuva420p", scene(240, 320))
    encode(folder / "rgb.avi", "rawvideo", "bgr24", scene(90, 160))
    encode(folder / "12_bit.mkv", "libx265", "yuv444p12le", scene(240, 320))
    encode(folder / "odd_301x199.mkv", "ffv1", "yuv420p", scene(199, 301))
    encode(folder / "one_per_second.mp4", "libx264", "yuv420p", scene(240, 320), fps=1)
    for name, suffix, change in (
        ("grey_jpegs", "jpg", lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)),
        (
            "grey_16_bit_pngs",
            "png",
            lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.uint16) * 257,
        ),
        ("rgba_pngs", "png", lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)),
        ("one_jpeg", "jpg", lambda image: image),
    ):
        (folder / name).mkdir()
        for t, image in enumerate(
            itertools.islice(scene(240, 320), 1 if name == "one_jpeg" else FRAMES)
        ):
            cv2.imwrite(str(folder / name / f"{t}.{suffix}"), change(image[..., ::-1]))


def encode(
    path: Path, codec: str, pixels: str, images: Iterator[npt.NDArray[np.uint8]], fps: int = 30
) -> None:
    """Encode pictures with a given codec and pixel format."""
    with av.open(str(path), "w") as container:
        stream: Any = None
        for image in images:
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps))
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = pixels
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()

"""A file that takes too much memory or time is quarantined; other files are not affected."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from pipeline.run import precompute
from pipeline.store.limits import EXIT_CODE

EATERS = {
    "memory": (
        "limited(60, 100, word)",
        "kept = [bytearray(b'x' * 10_000_000) for _ in range(1000)]",
    ),
    "time": ("limited(0.3, 10_000, word)", "any(False for _ in iter(int, 1))"),
    "neither": ("limited(60, 100, word)", "pass"),
}


@pytest.mark.parametrize("what", EATERS)
def test_a_process_that_exceeds_a_limit_ends_and_reports_the_reason(what: str) -> None:
    limits, work = EATERS[what]
    code = (
        "import pipeline.store.limits as l\nword = lambda text: print(text, flush=True)\n"
        f"with l.{limits}:\n    {work}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    expected = {
        "memory": "more than 100 MB of memory",
        "time": "more than 0.3 s of processor time",
    }.get(what, "")
    assert done.returncode == (EXIT_CODE if expected else 0), done.stderr
    assert expected in done.stdout


def bomb(path: Path, side: int) -> None:
    """A PNG (ISO 15948) of side x side black pixels: some hundred kilobytes that become 3 side^2
    bytes."""
    deflate = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    data = b"".join(deflate.compress(row) for _ in range(side)) + deflate.flush()
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)),
        (b"IDAT", data),
        (b"IEND", b""),
    )
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, body in chunks:
            file.write(
                struct.pack(">I", len(body))
                + kind
                + body
                + struct.pack(">I", zlib.crc32(kind + body))
            )


@pytest.mark.usefixtures("ray_session")
def test_a_picture_that_grows_past_the_bound_on_memory_is_quarantined_and_the_other_videos_are_made(
    tiny_video: Path, config, tmp_path: Path
) -> None:
    videos = tmp_path / "videos"
    out = tmp_path / "out"
    (videos / "bomb").mkdir(parents=True)
    (videos / "good.mp4").write_bytes(tiny_video.read_bytes())
    bomb(videos / "bomb" / "0.png", 9_400)  # less than the bound on pixels
    assert (videos / "bomb" / "0.png").stat().st_size < 30_000
    result = precompute(
        [str(videos)], out, dataclasses.replace(config, max_memory_mb=300), workers=1
    )
    assert (result.sampled, result.quarantined) == (1, 1)
    line = json.loads((out / "quarantine.jsonl").read_text())
    assert (line["uri"], line["stage"]) == ("bomb", "decode")
    assert line["reason"] == "reading it took more than 300 MB of memory (max_memory_mb)"

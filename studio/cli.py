"""The command ``corrfractal studio``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from corrfractal.common.command_line import examples
from corrfractal.common.console import command
from inference.options import FILE, MODEL, inference_config, tracker_options


@click.command(
    epilog=examples(
        "corrfractal studio",
        "corrfractal studio clip.mp4 --out dogs",
        "corrfractal studio clip.mp4 other.mov --model champion --fast",
        "corrfractal studio --port 8200 --no-browser",
    )
)
@click.argument("videos", nargs=-1, type=FILE)
@click.option(
    "--out",
    type=FILE,
    default=Path("marked"),
    show_default=True,
    help="Folder for marks, masks and uploaded videos, in a folder for each video.",
)
@MODEL
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default="any free one",
    help="Port of the page on 127.0.0.1.",
)
@click.option("--no-browser", is_flag=True, help="Print the address only.")
@click.option(
    "--max-upload-mb",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Largest video that the page accepts as an upload.",
)
@tracker_options
@command
def studio(
    videos: tuple[Path, ...],
    out: Path,
    model: str | None,
    port: int,
    no_browser: bool,
    max_upload_mb: int,
    **tracker: Any,
) -> dict[str, Any]:
    """A local page to mark objects in VIDEOS, propagate, correct and download.

    The page is served on this computer only, at an address that holds a secret token. Results are
    the files that `propagate` writes; Ctrl-C ends the page, and the same command opens it again
    where it was.
    """
    # Imported late: --help stays fast.
    from corrfractal.common.errors import CallError

    try:
        import nicegui  # noqa: F401
    except ImportError as exc:
        raise CallError(
            "the studio needs the package nicegui: install this project with its extra, "
            "pip install -e '.[studio]'"
        ) from exc
    from .server import serve
    from .studio import Studio

    opened = Studio(out, model, inference_config(**tracker), max_upload_mb * 1_000_000)
    for video in videos:
        opened.add(video)
    address = serve(opened, port, open_browser=not no_browser)
    return {"address": address, "out": str(out), "videos": [str(v) for v in opened.videos]}

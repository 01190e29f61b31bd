"""The web server of the page: loopback only, one process, the routes that NiceGUI has not."""

from __future__ import annotations

import logging
import shutil
import socket
import tempfile
import webbrowser
import zipfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from corrfractal.common.console import say
from corrfractal.common.errors import CallError, CorrFractalError
from corrfractal.video import open_video

from .guard import UPLOAD, Guard, new_token
from .pictures import mask_png, points_png
from .project import Project
from .studio import Studio

HOST = "127.0.0.1"
FREE_BYTES = 1 << 30
"""Bytes of the disk that an upload leaves free."""

log = logging.getLogger(__name__)


def serve(studio: Studio, port: int, *, open_browser: bool) -> str:
    """Serve the page until Ctrl-C or SIGTERM; returns its address without the token.

    Raises:
        CallError: the port is in use.
    """
    from nicegui import ui

    from .page import build_page

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()  # whoever reads the address may connect at once
    except OSError as exc:
        raise CallError(
            f"port {port} cannot be used ({exc.strerror}): name another --port"
        ) from exc
    port = listener.getsockname()[1]

    token = new_token()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, studio)
    build_page(studio)
    ui.run_with(
        app,
        title="CorrFractal studio",
        dark=None,
        favicon="🎯",
        # A propagation may leave the server no processor for seconds; a page that is taken for
        # lost is loaded anew.
        reconnect_timeout=60,
        show_welcome_message=False,
    )
    guarded = Guard(app, token, f"corrfractal-studio-{port}", studio.max_upload)
    # No access log: the first line would hold the token.
    config = uvicorn.Config(
        guarded, log_level="warning", access_log=False, timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)

    address = f"http://{HOST}:{port}/"
    say(f"the studio is at {address}?token={token}")
    say("Ctrl-C ends it; marks and masks stay")
    if open_browser:
        webbrowser.open(f"{address}?token={token}")
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        studio.runner.stop()
    return address


def add_routes(app: FastAPI, studio: Studio) -> None:
    """Frames, masks, downloads and uploads. Every parameter is a number or one of a few words."""

    @app.exception_handler(CorrFractalError)
    def _tell(request: Request, error: CorrFractalError) -> Response:
        return PlainTextResponse(str(error), 422)

    def project(number: int, frame: int = 0) -> Project:
        if not 0 <= number < len(studio.videos):
            raise HTTPException(404)
        found = studio.project(number)
        if not 0 <= frame < found.info.frames:
            raise HTTPException(404)
        return found

    @app.get("/frame/{number}/{frame}")
    def frame_picture(number: int, frame: int) -> Response:
        picture = project(number, frame).pictures.jpeg(frame)
        # Of this session only: the next one may number other videos.
        kept = {"Cache-Control": "private, max-age=600"}
        return Response(picture, media_type="image/jpeg", headers=kept)

    @app.get("/mask/{number}/{frame}/{model}/{kind}")
    def mask_picture(number: int, frame: int, model: str, kind: str) -> Response:
        found = project(number, frame)
        model = known_folder(model)
        size = found.pictures.size
        if kind == "points":
            picture = points_png(found.shown_points(frame, model), found.size, size)
        else:
            mask = found.shown(frame, model)
            if mask is None:
                return Response(status_code=204)
            colors = {item.id: item.color for item in found.items["objects"]}
            picture = mask_png(mask, colors, size)
        return Response(picture, media_type="image/png", headers={"Cache-Control": "no-store"})

    @app.get("/download/{number}/{model}/{what}")
    def download(number: int, model: str, what: str) -> Response:
        found = project(number)
        model = known_folder(model)
        name = f"{found.folder.name}-{what}"
        if what == "masks.zip":
            return _zip(found.result_files(model, "objects"), name)
        if what == "marks.zip":
            return _zip(found.prompts().masks.values(), name)
        if what in ("overlay.mp4", "cutout.webm"):
            path = found.results(model) / what
        elif what == "points.csv":
            path = found.results(model) / "points" / what
        else:
            raise HTTPException(404)
        if not path.is_file():
            raise HTTPException(404, "it was not made yet")
        return FileResponse(path, filename=name)

    def known_folder(model: str) -> str:
        if model not in studio.folders():
            raise HTTPException(404)
        return model

    @app.put(UPLOAD)
    async def upload(request: Request) -> Response:
        place = studio.upload_place(unquote(request.headers.get("x-name", "")))
        length = int(request.headers["content-length"])
        try:
            if shutil.disk_usage(place.parent).free - length < FREE_BYTES:
                raise CallError(f"the disk of {place.parent} has no room for this file")
            with place.open("wb") as file:
                async for part in request.stream():
                    file.write(part)
            if place.stat().st_size != length:
                raise CallError("the upload was cut short")
            await run_in_threadpool(open_video, place)
            number = studio.add(place)
        except BaseException:
            place.unlink(missing_ok=True)
            raise
        return PlainTextResponse(str(number))


def _zip(files: Iterable[Path], name: str) -> Response:
    """The files as a ZIP, equal for equal files."""
    paths = sorted(files)
    if not paths:
        raise HTTPException(404, "there is nothing to download yet")
    # PNG files are compressed already: the default stores them as they are.
    with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as temporary:
        done = Path(temporary.name)
    with zipfile.ZipFile(done, "w") as archive:
        for path in paths:
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
    return FileResponse(done, filename=name, background=BackgroundTask(done.unlink))

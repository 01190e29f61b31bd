"""The page in a real Chromium: draw, propagate, correct, download, and compare with `propagate`."""

from __future__ import annotations

import json
import re
import zipfile
from base64 import b64decode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from corrfractal.network.tracker import TrackerConfig
from corrfractal.video import open_video
from inference.config import InferenceConfig
from inference.prompts.keypoints import Points
from inference.prompts.mask_images import read_mask
from inference.prompts.shapes import read_prompts
from inference.propagate import propagate_video
from studio.pictures import mask_png
from tests.studio.running import start_studio, wait_until

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra [dev]")

DENSITIES = (6.0, 3.0)
CONFIG = InferenceConfig(tracker=TrackerConfig(densities=DENSITIES))
SETTINGS = ("--model", "starter", "--set", f"tracker.densities={list(DENSITIES)}")
FRAMES = 24
HEIGHT, WIDTH = 160, 192


class Browser:
    """The page as a person uses it. Coordinates are pixels of the video."""

    def __init__(self, page: playwright.Page) -> None:
        self.page = page

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.page.wait_for_selector(".studio-layers img[alt=frame]")

    def _at(self, point: tuple[float, float]) -> tuple[float, float]:
        box = self.page.locator(".studio-layers").first.bounding_box()
        x = box["x"] + point[0] / WIDTH * box["width"]
        return x, box["y"] + point[1] / HEIGHT * box["height"]

    def click(self, point: tuple[float, float]) -> None:
        self.page.mouse.click(*self._at(point))

    def drag(self, *points: tuple[float, float]) -> None:
        first, *others = points
        self.page.mouse.move(*self._at(first))
        self.page.mouse.down()
        for point in others:
            self.page.mouse.move(*self._at(point), steps=3)
        self.page.mouse.up()

    def keys(self, *names: str) -> None:
        for name in names:
            self.page.keyboard.press(name)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).first.click()

    def wait(self, text: str) -> None:
        self.page.get_by_text(re.compile(text)).first.wait_for(timeout=120_000)

    def download(self, name: str, folder: Path) -> Path:
        with self.page.expect_download(timeout=120_000) as found:
            self.page.get_by_role("button", name=name, exact=True).last.click()
        path = folder / found.value.suggested_filename
        found.value.save_as(path)
        return path

    def go_to(self, frame: int) -> None:
        self.keys("Home", *["ArrowRight"] * frame)
        self.wait(f"^{frame} / {FRAMES - 1}")
        self.page.wait_for_selector(f".studio-view[data-shown='{frame}']")


@pytest.fixture
def browser(chromium: str) -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        # CI runs as root, where Chromium has no sandbox.
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = started.new_page(viewport={"width": 1400, "height": 900})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(120_000)
        yield Browser(page)
        started.close()
        assert errors == []


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def objects(path: Path) -> set[int]:
    """Ids in a mask; none while it does not exist."""
    return {int(i) for i in np.unique(read_mask(path))} - {0} if path.is_file() else set()


def unzip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_objects_drawn_propagated_and_corrected_give_the_files_of_propagate(
    browser: Browser, tiny_video: Path, tmp_path: Path
) -> None:
    with start_studio(tmp_path / "marked", tiny_video, *SETTINGS) as studio:
        folder = studio.out / tiny_video.stem
        masks = folder / "starter" / "masks"
        browser.open(studio.address)

        # A brush stroke, a box with a name, a polygon, and a stroke that is taken back
        marks = folder / "marks" / "00000.png"
        browser.drag((50, 40), (70, 45), (60, 60))
        browser.keys("n", "x")
        browser.page.get_by_label("name 2").fill("pavilion")
        browser.page.keyboard.press("Tab")
        browser.drag((110, 60), (140, 90))
        browser.keys("n", "p")
        for corner in ((20, 110), (60, 110), (40, 140)):
            browser.click(corner)
        browser.keys("Enter", "b", "1")
        wait_until(lambda: objects(marks) == {1, 2, 3}, lambda: f"{objects(marks)} are marked")
        drawn = read_mask(marks)
        browser.drag((150, 20), (180, 20))
        wait_until(lambda: read_mask(marks)[20, 165] == 1)
        browser.keys("Control+z")
        wait_until(lambda: np.array_equal(read_mask(marks), drawn))
        y, x = np.nonzero(drawn == 2)
        assert np.allclose([x.min(), x.max() + 1, y.min(), y.max() + 1], [110, 140, 60, 90], atol=1)
        assert drawn[115, 40] == 3

        # Propagate, pause, continue
        browser.press("Propagate")
        browser.press("Pause")
        browser.wait("paused, [0-9]+ of 24")
        browser.press("Continue")
        browser.wait(f"{FRAMES} frames have results of starter")
        times = {index: (masks / f"{index:05d}.png").stat().st_mtime_ns for index in range(10)}

        # Correct frame 10, and continue from it
        browser.go_to(10)
        browser.keys("x", "1")
        browser.drag((20, 20), (40, 50))
        browser.wait("10 frames have results of starter")
        browser.press("Propagate")
        browser.wait(f"{FRAMES} frames have results of starter")
        assert times == {i: (masks / f"{i:05d}.png").stat().st_mtime_ns for i in times}

        # The files are those of the command, which finds nothing left to do.
        given = read_prompts([str(folder / "marks")])
        assert given.frames == (0, 10)
        propagate_video(tiny_video, given, tmp_path / "command", "starter", CONFIG)
        expected = contents(tmp_path / "command")
        assert unzip(browser.download("Masks", tmp_path)) == expected
        assert contents(masks) == expected
        assert len(expected) == FRAMES
        assert unzip(browser.download("Marks", tmp_path)) == contents(folder / "marks")
        assert propagate_video(tiny_video, given, masks, "starter", CONFIG).kept == FRAMES
        overlay = browser.download("Overlay", tmp_path)
        assert open_video(overlay).info.frames == FRAMES
        assert browser.download("Cut-out", tmp_path).stat().st_size > 0

    # Another session shows what this one left.
    with start_studio(studio.out, tiny_video, *SETTINGS) as again:
        browser.open(again.address)
        assert browser.page.get_by_label("name 2").input_value() == "pavilion"
        browser.wait(f"{FRAMES} frames have results of starter")
        browser.keys("Delete")
        browser.wait("mark an object on any frame")


def test_key_points_give_the_table_of_propagate_and_a_bad_upload_is_told(
    browser: Browser, tiny_video: Path, tmp_path: Path
) -> None:
    with start_studio(tmp_path / "marked", *SETTINGS) as studio:
        browser.page.goto(studio.address)
        browser.wait("Choose or drop a video to begin")
        noise = tmp_path / "noise.mp4"
        noise.write_bytes(b"no video")
        browser.page.locator("input[type=file]").set_input_files(noise)
        browser.wait("the video was not accepted: .*noise.mp4")
        browser.press("Close")
        browser.page.locator("input[type=file]").set_input_files(tiny_video)
        browser.wait(f"192 x 160, {FRAMES} frames")
        assert (studio.out / "uploads" / tiny_video.name).read_bytes() == tiny_video.read_bytes()

        browser.press("Key points")
        browser.go_to(3)
        browser.click((60, 50))
        browser.keys("n")
        browser.click((120, 80))
        note = studio.out / tiny_video.stem / "studio.json"
        wait_until(lambda: len(json.loads(note.read_text())["positions"]) == 2)
        browser.keys("Enter")
        browser.wait(f"{FRAMES} frames have results of starter")
        found = browser.download("Key points", tmp_path).read_text()

        rows = [line.split(",") for line in found.splitlines()[1:]]
        given = [(float(row[2]), float(row[3])) for row in rows if row[0] == "3"]
        assert np.allclose(given, [(60, 50), (120, 80)], atol=1)
        points = Points(frame=3, names=("point 1", "point 2"), xy=tuple(given))
        propagate_video(tiny_video, points, tmp_path / "command", "starter", CONFIG)
        assert found == (tmp_path / "command" / "points.csv").read_text()


def shown_masks(browser: Browser, frame: int) -> list[str]:
    """SHA-256 of the masks that the tab Compare shows on a frame."""
    hashes = []
    for side in (1, 2):
        view = browser.page.locator(f".studio-view[data-shown='{frame}']:visible").nth(side - 1)
        view.locator("img[alt=masks]").wait_for()
        encoded = view.locator("img[alt=masks]").evaluate(
            """async (image) => btoa(String.fromCharCode(
                ...new Uint8Array(await (await fetch(image.src)).arrayBuffer())))"""
        )
        hashes.append(sha256(b64decode(encoded)).hexdigest())
    return hashes


def test_two_models_side_by_side_show_the_masks_that_propagate_writes_for_each(
    browser: Browser, tiny_video: Path, tmp_path: Path
) -> None:
    with start_studio(tmp_path / "marked", tiny_video, *SETTINGS) as studio:
        folder = studio.out / tiny_video.stem
        browser.open(studio.address)
        browser.keys("x")
        browser.drag((40, 40), (90, 90))
        wait_until(lambda: objects(folder / "marks" / "00000.png") == {1})

        # A result of starter exists already: the tab computes the other one only.
        browser.press("Propagate")
        browser.wait(f"{FRAMES} frames have results of starter")
        masks = folder / "starter" / "masks"
        times = {path: path.stat().st_mtime_ns for path in masks.glob("*.png")}
        browser.page.get_by_role("tab", name="Compare").click()
        assert browser.page.get_by_label("Model B").input_value() == "baseline:colour"
        browser.wait(f"0 of {FRAMES} frames have masks")
        browser.press("Propagate what is missing")
        browser.page.get_by_text(f"{FRAMES} of {FRAMES} frames have masks").nth(1).wait_for()
        assert times == {path: path.stat().st_mtime_ns for path in masks.glob("*.png")}

        # One slider moves both.
        browser.page.get_by_role("slider", name="Frame of both models").focus()
        browser.keys(*["ArrowRight"] * 20)
        browser.wait("^Frame 20: ")
        expected, pictures = [], []
        for model in ("starter", "baseline:colour"):
            out = tmp_path / model.replace(":", "-")
            propagate_video(tiny_video, read_prompts([str(folder / "marks")]), out, model, CONFIG)
            assert contents(folder / out.name / "masks") == contents(out)
            expected.append(read_mask(out / "00020.png"))
            color = browser.page.get_by_label("colour 1").input_value()
            picture = mask_png(expected[-1], {1: color}, (HEIGHT, WIDTH))
            pictures.append(sha256(picture).hexdigest())
        assert pictures[0] != pictures[1]
        wait_until(lambda: shown_masks(browser, 20) == pictures)
        share = 100 * np.mean(expected[0] != expected[1])
        browser.wait(f"Frame 20: the masks differ in {share:.2f} % of the pixels")

        # The keys of the other tab do nothing here; another model takes a side.
        browser.keys("Delete")
        browser.page.get_by_label("Model B").fill("baseline:copy")
        browser.keys("Enter")
        browser.wait("Frame 20: a mask is missing")
        assert (folder / "marks" / "00000.png").is_file()

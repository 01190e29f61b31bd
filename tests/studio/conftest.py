"""What the tests of the studio share."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("nicegui", reason="needs the extra [studio]")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium or Chrome."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip("no Chromium to use the page with: apt-get install chromium")

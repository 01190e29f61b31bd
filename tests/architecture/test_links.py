"""Relative links of pages, and paths below docs/ that any file names, lead to something."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"(?<![\w/.-])docs/[\w/.-]*\w/?")
EXTERNAL = re.compile(r"[a-z]+:")


def _tracked_files() -> list[Path]:
    """Files of the repository: what git tracks or would track, or all files of an exported tree."""

    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        folders = ["docs", "corrfractal", "pipeline", "training", "inference", "studio", "cluster"]
        folders += ["benchmarks", "scripts", "tests"]
        paths = [*ROOT.glob("*.md"), *(p for name in folders for p in (ROOT / name).rglob("*"))]
    return sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts)


def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, spelled as GitHub does."""

    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in plain]
    return {heading.strip().replace(" ", "-") for heading in kept}


FILES = _tracked_files()
PAGES = [path for path in FILES if path.suffix == ".md"]


def test_there_are_pages_and_files() -> None:
    assert ROOT / "README.md" in PAGES
    assert len(FILES) > 200


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    dead = []
    for target in LINK.findall(CODE.sub("", page.read_text("utf-8"))):
        if EXTERNAL.match(target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            dead.append(target)
    assert dead == []


def test_every_path_below_docs_that_a_file_names_exists() -> None:
    dead = []
    for path in FILES:
        # Listings of packages and binary files name no pages.
        if path.name == "requirements.lock":
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for name in NAMED.findall(text):
            # A decision may be named by its number: docs/decisions/0042.
            is_number = re.fullmatch(r"docs/decisions/\d{4}", name) is not None
            found = any(ROOT.glob(name + "-*.md")) if is_number else (ROOT / name).exists()
            if not found and not name.startswith("docs/decisions/NNNN"):
                dead.append(f"{path.relative_to(ROOT)}: {name}")
    assert dead == []


def test_every_test_that_a_page_names_exists() -> None:
    dead = []
    for page in PAGES:
        named = re.findall(r"(?<![\w/.-])tests/[\w/-]*\w(?:\.\w+)?", page.read_text("utf-8"))
        dead += [
            f"{page.relative_to(ROOT)}: {name}" for name in named if not (ROOT / name).exists()
        ]
    assert dead == []


def test_every_page_is_in_the_index_of_its_kind() -> None:
    docs = ROOT / "docs"
    index = (docs / "README.md").read_text("utf-8")
    decisions = (docs / "decisions" / "README.md").read_text("utf-8")

    pages = [page for page in docs.glob("*/*.md") if page.parent.name != "decisions"]
    missing = [page for page in pages if f"]({page.relative_to(docs)})" not in index]
    records = list((docs / "decisions").glob("0*.md"))
    missing += [page for page in records if f"]({page.name})" not in decisions]
    assert missing == []


def test_every_page_is_in_the_menu_of_the_site() -> None:
    # `make docs` refuses a page that no menu lists; this says so without the extra `docs`.
    menu = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    listed = set(re.findall(r"[\w/-]+\.md", menu))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    # Decision records are appended by a hook; measurements and the notebook are outside docs.
    records = {name for name in pages if name.startswith("decisions/0")}
    outside = {"measurements/results.md", "measurements/notes.md", "tutorial/quickstart.md"}
    assert pages - records == listed - outside


def test_decision_records_have_a_status_and_the_parts_of_a_record() -> None:
    for record in (ROOT / "docs" / "decisions").glob("0*.md"):
        text = record.read_text("utf-8")
        assert re.match(rf"# {record.name[:4]}: ", text), record.name
        assert "**Status:**" in text, record.name
        for heading in ("## Context", "## Decision", "## Consequences"):
            assert heading in text, f"{record.name}: {heading}"

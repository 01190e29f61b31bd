"""Names of any kind are shown literally by renderers of Markdown and never become markup."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt

from corrfractal.registry.markdown import bullets, escape

NAMES = [
    "bear.mp4",
    "<img src=x onerror=alert(1)>",
    "</code></pre><script>alert(1)</script>",
    "![](http://127.0.0.1/pixel.png)",
    "[click](javascript:alert(1))",
    "a | b | c",
    "`rm -rf`",
    "```",
    "**bold** __bold__ _it_ ~~gone~~",
    "http://example.org www.example.org a@example.org @somebody",
    "&lt;b&gt; &amp; \\* \\",
    "# heading",
    "{{ 7 * 7 }} ${x} <% x %>",
    "naïve 影片.mp4",
]


def shown(markdown: str) -> tuple[str, set[str]]:
    """The text that a renderer shows, and the HTML elements that it makes."""
    renderer = MarkdownIt("gfm-like", {"html": True, "linkify": False}).enable("table")
    page = renderer.render(markdown)
    return html.unescape(re.sub(r"<[^>]*>", "", page)).strip(), set(re.findall(r"<(\w+)", page))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_literally_in_a_list_and_in_a_table(name: str) -> None:
    escaped = escape(name, limit=500)
    text, elements = shown(bullets([("name", escaped)]))
    assert text == f"name: {name}"
    assert elements == {"ul", "li", "strong"}

    text, elements = shown(f"| name | more |\n| --- | --- |\n| {escaped} | x |")
    assert text.split("\n\n\n")[-1].split() == [*name.split(), "x"]
    assert elements == {"table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize("name", ["a\nb", "a\r\n\r\n# b", "a\x1b[31mb", "a\u202eb", "a\udce9b"])
def test_what_cannot_be_printed_is_shown_as_in_a_string_on_one_line(name: str) -> None:
    escaped = escape(name)
    assert escaped.isprintable()
    escaped.encode()
    text, _ = shown(f"- {escaped}")
    assert text == name.encode("unicode_escape").decode()


def test_no_bare_address_is_left_for_a_renderer_to_link() -> None:
    escaped = escape(NAMES[9], limit=500)
    assert not re.search(r"://|www\.|@", escaped, re.IGNORECASE)


def test_a_long_name_is_cut_between_characters() -> None:
    escaped = escape("<" * 100, limit=40)
    assert escaped == "&#60;" * 7 + "…"
    assert len(escape("x" * 1000)) <= 80

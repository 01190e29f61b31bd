"""Put text of unknown origin, such as names of videos, into Markdown and HTML as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Letters and digits of any script, and punctuation without a meaning inside a line. Not ":" and
# "@", since many renderers turn bare URLs and addresses into links.
PLAIN = re.compile(r"[\w .,;%+/='()-]")


def escape(text: object, limit: int = 80) -> str:
    """A value as one line of Markdown that every renderer shows literally.

    Special characters become HTML entities: unlike backslashes, these mean the same to all dialects
    of Markdown and to HTML. Characters that cannot be printed are shown as in a Python string.

    Args:
        text: any value.
        limit: length of the result in characters; a longer one ends with "…".
    """
    pieces = [_escape_character(character) for character in str(text)]
    length = 0
    kept = []
    for piece in pieces:
        length += len(piece)
        if length >= limit:
            kept.append("…")
            break
        kept.append(piece)
    # Some renderers link names that begin like this.
    return re.sub(r"www\.", "www&#46;", "".join(kept), flags=re.IGNORECASE)


def bullets(facts: Iterable[tuple[str, str]]) -> str:
    """A list of names and values; both are Markdown."""
    return "\n".join(f"- **{name}**: {value}" for name, value in facts)


def _escape_character(character: str) -> str:
    # "_" may begin emphasis.
    if PLAIN.fullmatch(character) and character.isprintable() and character != "_":
        return character
    if character.isprintable():
        return f"&#{ord(character)};"
    return "".join(map(_escape_character, character.encode("unicode_escape").decode()))

"""Text files as editors and spreadsheets save them."""

from __future__ import annotations

import codecs
import re


def decode_text(contents: bytes, errors: str = "surrogateescape") -> str:
    """Text in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Args:
        contents: of the file.
        errors: what to do with bytes that are not UTF-8: by default they are kept as
            ``os.fsdecode`` keeps them, since names of files need not be UTF-8; ``"strict"`` refuses
            them.

    Raises:
        ValueError: it is not text.
    """
    if contents.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = contents.decode("utf-16")
    else:
        text = contents.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors)
    if "\0" in text:
        raise ValueError("it is not text")
    return text


def split_lines(text: str) -> list[str]:
    """Lines of a list, whatever ends them; ``str.splitlines`` would also split names at odd spaces."""
    return re.split(r"\r\n|\r|\n", text)


def without_password(text: str) -> str:
    """A URI, or a text that names some, as it may be shown and stored: a password in a URI gives
    way to three stars."""
    return re.sub(r"(://[^/?#\s:@]*):[^/?#\s]*@", r"\1:***@", text)

"""Decode text files as editors and spreadsheets save them; hide passwords."""

from __future__ import annotations

import codecs
import re


def decode_text(contents: bytes, errors: str = "surrogateescape") -> str:
    """Text in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Args:
        contents: of the file.
        errors: error handler for bytes that are not UTF-8. The default keeps them as
            ``os.fsdecode`` does, since file names need not be UTF-8; ``"strict"`` raises.

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
    """Lines of a list, with any line ends. ``str.splitlines`` would also split at form feeds and
    other characters that file names can contain."""
    return re.split(r"\r\n|\r|\n", text)


def counted(count: int, noun: str, of: int | None = None) -> str:
    """A number of things: ``1 shard``, ``2 shards``; with ``of``, ``1 of 5 shards``."""
    total = count if of is None else of
    share = "" if of is None else f"{count} of "
    return f"{share}{total} {noun}{'' if total == 1 else 's'}"


def without_password(text: str) -> str:
    """A URI, or a text with URIs, with each password replaced by three stars."""
    return re.sub(r"(://[^/?#\s:@]*):[^/?#\s]*@", r"\1:***@", text)

"""Files of an evaluation: a stored result for each sequence, ``scores.json``, and the notes of what
was written.

    scores.json                   the summary
    sequences/<name>.json         a result; ``/`` in a name is stored as ``_``
    written/<name>.jsonl          SHA-256 of the predictions and the result of a sequence
    written.jsonl                 SHA-256 of the other files

A stored result is reused if its digest matches and neither it nor a prediction was changed since.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from corrfractal.files.written_files import Written

from .results import Result, S, Summary

SCORES = "scores.json"


def sequence_note(out: Path, name: str) -> Written:
    """The note of the files written for one sequence."""
    return Written(sequence_note_file(out, name), root=out)


def sequence_note_file(out: Path, name: str) -> Path:
    """Where that note is stored."""
    return out / "written" / f"{_flat(name)}.jsonl"


def summary_note(out: Path) -> Written:
    """The note of the files written for the data set as such."""
    return Written(out / "written.jsonl")


def result_file(out: Path, name: str) -> Path:
    """Where the result of a sequence is stored."""
    return out / "sequences" / f"{_flat(name)}.json"


def store_result(out: Path, result: Result[S]) -> None:
    """Write ``sequences/<name>.json``; the fields of the scores follow those of the run."""
    # The stored format is one flat object: results of earlier versions stay readable.
    document = asdict(result)
    document |= document.pop("scores")
    contents = json.dumps(document) + "\n"
    sequence_note(out, result.name).write(result_file(out, result.name), contents.encode())


def load_result(
    out: Path, name: str, digest: str, kind: type[S], predictions: Iterable[Path]
) -> Result[S] | None:
    """Read a stored result.

    Args:
        out: folder of the evaluation.
        name: of the sequence.
        digest: that the result must have, see ``result_digest``.
        kind: class of its scores.
        predictions: files that must be unchanged as well.

    Returns:
        None if there is none, its digest differs, or a file is missing or was changed.
    """
    path = result_file(out, name)
    note = sequence_note(out, name)
    # Hashes every prediction: a mask that was edited by hand must not keep its old score.
    if not all(note.owns(file) for file in (path, *predictions)):
        return None

    document = json.loads(path.read_bytes())
    try:
        scores = TypeAdapter(kind).validate_python(document)
        result = TypeAdapter(Result).validate_python({**document, "scores": scores})
    except ValidationError:
        return None  # written by another version of the program
    return result if result.digest == digest else None


def write_scores(out: Path, summary: Summary) -> None:
    """Write ``scores.json``."""
    contents = json.dumps(summary.to_dict(), indent=2) + "\n"
    summary_note(out).write(out / SCORES, contents.encode())


def _flat(name: str) -> str:
    return name.replace("/", "_")

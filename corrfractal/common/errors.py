"""Everything this project raises on purpose.

    CorrFractalError                 exit code 1: the work failed
    ├── CallError                    exit code 2: the call was wrong; nothing was started
    │   ├── ConfigError              a field of a configuration is unknown or out of range
    │   ├── NotFoundError            a named file, folder, model or run does not exist
    │   └── MaskError                a mask does not fit its frame or is not a mask
    ├── VideoError                   a video cannot be opened or decoded (path, stage, first bad frame)
    ├── images.ImageError            a file is damaged, too large, or not an image
    ├── IntegrityError               a shard, manifest, checkpoint or model file is damaged
    ├── BoundExceededError           more was lost than the caller allowed, or a data set is worse than allowed
    ├── GateError                    a model may not become champion, with every reason
    └── DivergedError                the loss is not finite

The message is what a user reads at 2 a.m.: what happened, to which file, what to do. Low-level
errors are re-raised ``from exc``, and the command line prints only the message unless ``--debug``
is given.
"""

from __future__ import annotations


class CorrFractalError(Exception):
    """Base of all errors raised on purpose. ``exit_code`` is what the command line exits with."""

    exit_code = 1


class CallError(CorrFractalError):
    """The call cannot be carried out as written."""

    exit_code = 2


class ConfigError(CallError):
    """A configuration has an unknown field or a value out of range."""


class NotFoundError(CallError):
    """A named file, folder, model or run does not exist."""


class MaskError(CallError):
    """A mask has the wrong size, mode or contents."""


class VideoError(CorrFractalError):
    """A video cannot be opened or decoded.

    Attributes:
        path: the file as the user named it.
        stage: ``"open"`` or ``"decode"``.
        frame: index of the first frame that cannot be read, if known.
    """

    def __init__(self, path: str, stage: str, reason: str, frame: int | None = None) -> None:
        at = "" if frame is None else f" at frame {frame}"
        super().__init__(f"cannot {stage} the video {path}{at}: {reason}")
        self.path = path
        self.stage = stage
        self.reason = reason
        self.frame = frame

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str, str, int | None]]:
        return type(self), (self.path, self.stage, self.reason, self.frame)


class IntegrityError(CorrFractalError):
    """A stored file differs from what was written."""


class BoundExceededError(CorrFractalError):
    """More was lost than the caller allowed, or a data set is worse than allowed."""


class GateError(CorrFractalError):
    """A model may not become champion."""


class DivergedError(CorrFractalError):
    """The loss is not finite."""

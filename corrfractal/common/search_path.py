"""No code of the folder where a command is given: what is imported is what is installed.

A ``statistics.py`` or ``training/`` of the user's, in the folder where a command is given, must not
take the place of a
module that we or our libraries import. Python itself puts that folder on ``sys.path``: first for
``python -m``, at the place of an empty or relative entry for ``PYTHONPATH``. Importing this module
takes it off again, in this process and
its children. Only commands import it, before anything that is not built into Python: a library
leaves the search path of its user alone. Ray's workers get their search path from
``runtime.ray_session``. See docs/decisions/0042.
"""

from __future__ import annotations

import os
import sys

ROOT = os.path.realpath(os.path.join(__file__, "..", "..", ".."))  # noqa: PTH118 (nothing to import)
"""The folder that holds this package and the other layers: site-packages, or a checkout."""


def forget_working_folder() -> None:
    """Take the working folder off the search path of this process and its children; our own
    packages come first."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    hidden = {_real(entry) for entry in ("", *given) if not os.path.isabs(entry)}  # noqa: PTH117
    hidden -= {_real(folder) for folder in (ROOT, os.path.dirname(os.__file__))}  # noqa: PTH120

    def kept(entry: str) -> bool:
        return os.path.isabs(entry) and _real(entry) not in hidden  # noqa: PTH117

    sys.path[:] = [ROOT, *(entry for entry in sys.path if kept(entry))]
    os.environ.pop("PYTHONPATH", None)
    if absolute := [entry for entry in given if kept(entry)]:
        os.environ["PYTHONPATH"] = os.pathsep.join(absolute)
    # For children: `python -m` and `python -c` do not search the working folder, nor a script its
    # own.
    os.environ["PYTHONSAFEPATH"] = "1"


def _real(entry: str) -> str | None:
    """The folder an entry means, without links; None for a relative one in a working folder that
    was deleted."""
    try:
        return os.path.realpath(entry)
    except OSError:
        return None


forget_working_folder()

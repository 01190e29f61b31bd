"""Remove the working directory from the module search path: only installed code is imported.

A ``statistics.py`` or ``training/`` in the user's working directory must not shadow a module that
we or our libraries import. Python puts that directory on ``sys.path``: first for ``python -m``, and
for every empty or relative entry of ``PYTHONPATH``. Importing this module removes it, in this
process and its children.

Only commands import it, before any module that is not built into Python. A library does not change
the search path of its user. ``ray_session`` sets the search path of Ray's workers. See
docs/decisions/0042.
"""

from __future__ import annotations

import os
import sys

ROOT = os.path.realpath(os.path.join(__file__, "..", "..", ".."))  # noqa: PTH118 (nothing to import)
"""The folder that holds this package and the other layers: site-packages, or a checkout."""


def forget_working_folder() -> None:
    """Remove the working directory from the search path of this process and its children, and put
    our own packages first."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    hidden = {_real(entry) for entry in ("", *given) if not os.path.isabs(entry)}  # noqa: PTH117
    hidden -= {_real(folder) for folder in (ROOT, os.path.dirname(os.__file__))}  # noqa: PTH120

    def kept(entry: str) -> bool:
        return os.path.isabs(entry) and _real(entry) not in hidden  # noqa: PTH117

    sys.path[:] = [ROOT, *(entry for entry in sys.path if kept(entry))]
    os.environ.pop("PYTHONPATH", None)
    if absolute := [entry for entry in given if kept(entry)]:
        os.environ["PYTHONPATH"] = os.pathsep.join(absolute)
    # Children must not add it again: with this, `python -m` and `python -c` do not search the
    # working directory, nor a script its own folder.
    os.environ["PYTHONSAFEPATH"] = "1"


def _real(entry: str) -> str | None:
    """The real path of an entry; None for a relative one if the working directory was deleted."""
    try:
        return os.path.realpath(entry)
    except OSError:
        return None


forget_working_folder()

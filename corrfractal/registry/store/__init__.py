"""The MLflow store without MLflow: its address, and whether it can be used.

Importing MLflow takes seconds and its errors are tracebacks, so commands check the store here
first.

- ``addresses``: parse and build store URIs.
- ``availability``: ``check_store``, for every kind of store.
- ``sqlite_store``: checks, lock and error messages of a local SQLite file.
- ``relocation``: update artefact locations after a local store was moved or copied.
"""

from corrfractal.registry.store.addresses import (
    canonical_uri,
    local_file,
    named_uri,
    sqlite_uri,
    tracking_uri,
)
from corrfractal.registry.store.availability import check_store
from corrfractal.registry.store.sqlite_store import check_contents, holds_run

__all__ = [
    "canonical_uri",
    "check_contents",
    "check_store",
    "holds_run",
    "local_file",
    "named_uri",
    "sqlite_uri",
    "tracking_uri",
]

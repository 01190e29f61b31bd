"""The TOML file of a workflow, as every command reads it.

``corrfractal run`` takes the complete file. ``--config`` of another command takes the same file and
reads one table of it, and ``--set KEY=VALUE`` overrides single fields of what was read. ``rung``,
the paper's ablation, changes several tables, so it is applied here and not by the commands.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .config import C, config_from_dict, config_to_dict, read_toml
from .errors import ConfigError

# The paper's ablation (Table 3). Each rung adds one module to the previous one; "+C" is the full
# method.
_NO_MODULES: dict[str, Any] = {
    "appearance": "off",
    "aggregation": False,
    "correspondence": {"multi_density": False},
}
_A = _NO_MODULES | {"appearance": "literal"}
_B = _A | {"aggregation": True}
_C = _B | {"correspondence": {"multi_density": True}}
_COLOUR_ONLY: dict[str, Any] = {"quantization": {"n_patterns": 0}}
LADDER: dict[str, dict[str, Any]] = {
    "base": {"precompute": _COLOUR_ONLY, "training": {"network": _NO_MODULES}},
    "+A": {"precompute": _COLOUR_ONLY, "training": {"network": _A}},
    "+P": {"training": {"network": _A}},
    "+B": {"training": {"network": _B}},
    "+C": {"training": {"network": _C}},
}


def read_workflow_values(path: str | Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Plain values of a workflow file, with ``settings`` and the rung applied.

    Args:
        path: TOML file.
        settings: ``KEY=VALUE`` texts as in ``apply_settings``, such as ``training.steps=300``.

    Raises:
        NotFoundError: no such file.
        ConfigError: invalid TOML, no such rung, or a malformed setting.
    """
    values = apply_settings(read_toml(path), settings)
    rung = values.pop("rung", None)
    if rung is None:
        return values
    if not isinstance(rung, str) or rung not in LADDER:
        raise ConfigError(f"{path}: field 'rung' must be one of {', '.join(LADDER)}, got {rung!r}")
    return merged(LADDER[rung], values)


def read_table(path: str | Path, name: str) -> dict[str, Any]:
    """One table of a workflow file, such as ``precompute``.

    Raises:
        NotFoundError: no such file.
        ConfigError: invalid TOML, no such rung, or the table is missing or is no table.
    """
    if name not in read_toml(path):
        raise ConfigError(f"{path} has no [{name}] table; add one for the settings")
    return check_table(path, name, read_workflow_values(path)[name])


def check_table(path: str | Path, name: str, table: Any) -> dict[str, Any]:
    """``table`` itself.

    Raises:
        ConfigError: it is a single value.
    """
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: field '{name}' must be a table, got {table!r}")
    return table


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` overridden by ``changes``; nested tables are merged recursively."""
    result = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            result[key] = merged(base[key], value)
        else:
            result[key] = value
    return result


def with_settings(config: C, settings: Sequence[str]) -> C:
    """``config`` with fields changed by ``KEY=VALUE`` texts, as of ``--set``.

    Raises:
        ConfigError: there is no such field, or the value does not suit it.
    """
    if not settings:
        return config
    values = apply_settings(config_to_dict(config), settings)
    return config_from_dict(type(config), values, where="--set")


def apply_settings(values: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Plain values with fields changed by ``KEY=VALUE`` texts.

    Args:
        values: nested plain values.
        settings: a dot in the key names a field of a nested table (``network.width=32``); values
            are TOML, or else taken as text.

    Raises:
        ConfigError: it is not KEY=VALUE, or a name before a dot is a single value.
    """
    changed = dict(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set takes KEY=VALUE, got {setting!r}")
        *path, name = key.strip().split(".")
        parent = changed
        for part in path:
            child = parent.get(part, {})
            if not isinstance(child, dict):
                raise ConfigError(
                    f"--set {key.strip()}: the field '{part}' has no fields of its own"
                )
            # Tables on the way are copied, since ``values`` stays as it is.
            parent[part] = dict(child)
            parent = parent[part]
        parent[name] = _parse_value(text)
    return changed


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text

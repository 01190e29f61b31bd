"""Configurations are frozen keyword-only dataclasses; this module reads, checks, prints and hashes
them.

A configuration class derives from ``Config``, states the values of each field in its type
(``Literal``, ``Annotated`` with bounds), checks combinations of fields in ``__post_init__`` after
``super().__post_init__()``, and may hold other configurations. What comes from a file goes through
``config_from_dict``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_type_hints

from .errors import ConfigError, NotFoundError
from .text import decode_text

if TYPE_CHECKING:
    from pydantic import TypeAdapter

C = TypeVar("C", bound="Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every configuration dataclass: fields are checked against their types when it is
    constructed; unknown fields and NaN or infinite numbers are refused."""

    # Range checks such as "x <= 0" let NaN pass; TOML and Python's JSON can both spell it.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    SETTLED: ClassVar[dict[str, Any]] = {}
    """Removed fields, and the value at which each is now fixed. Files of earlier versions hold
    them: ``config_from_dict`` accepts that value and refuses any other."""

    def __post_init__(self) -> None:
        from pydantic import ValidationError

        kind: Any = type(self)  # mypy finds a class object with __hash__ of a dataclass unhashable
        for name, adapter in _field_adapters(kind).items():
            value = getattr(self, name)
            try:
                adapter.validate_python(value)
            except ValidationError as exc:
                raise ValueError(f"{name}: {exc.errors()[0]['msg']}, got {value!r}") from exc


@functools.cache
def _field_adapters(cls: Any) -> dict[str, TypeAdapter[Any]]:
    """What checks each field of a configuration class against its annotation."""
    from pydantic import ConfigDict, TypeAdapter  # imported late: --help stays fast

    hints = get_type_hints(cls, include_extras=True)
    adapters = {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        # A nested configuration brings its own settings, and pydantic refuses a second set.
        nested = dataclasses.is_dataclass(hint)
        settings = None if nested else ConfigDict(allow_inf_nan=False)
        adapters[field.name] = TypeAdapter(hint, config=settings)
    return adapters


def config_from_dict(cls: type[C], values: Mapping[str, Any], where: str = "configuration") -> C:
    """Build a configuration from plain values.

    Raises:
        ConfigError: names ``where``, the field, and what is wrong with it.
    """
    from pydantic import TypeAdapter, ValidationError  # imported late: --help stays fast

    try:
        return TypeAdapter(cls).validate_python(_without_settled(cls, values, where))
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "(whole)"
        given = repr(first["input"])
        shown = given if len(given) <= 200 else given[:200] + " ..."
        raise ConfigError(f"{where}: field '{field}': {first['msg']} (got {shown})") from exc


def _without_settled(cls: Any, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``values`` without removed fields, at every depth; ConfigError if one has another value than
    the one that it is fixed at."""
    kept = dict(values)
    for name in cls.SETTLED.keys() & kept.keys():
        fixed = cls.SETTLED[name]
        # Compare types too: 1 == True, and a file that holds 1 was never valid.
        if type(kept[name]) is not type(fixed) or kept[name] != fixed:
            raise ConfigError(
                f"{where}: field '{name}' was removed: this version knows only {fixed!r}; use the "
                f"version that made the file (got {kept[name]!r})"
            )
        del kept[name]

    for name, hint in get_type_hints(cls).items():
        nested = isinstance(hint, type) and issubclass(hint, Config)
        if nested and isinstance(kept.get(name), Mapping):
            kept[name] = _without_settled(hint, kept[name], where)
    return kept


def config_to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dictionary of a configuration, as JSON would give it back (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain values with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``value``: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_toml(path: str | Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        NotFoundError: no such file.
        ConfigError: not TOML; names the line.
    """
    try:
        return tomllib.loads(decode_text(Path(path).read_bytes(), errors="strict"))
    except FileNotFoundError as exc:
        raise NotFoundError(f"no such configuration file: {path}") from exc
    except (ValueError, RecursionError) as exc:  # TOMLDecodeError, or it is not text
        raise ConfigError(f"{path} is not valid TOML: {exc}") from exc

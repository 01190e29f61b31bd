"""Configurations come back from plain values as they were, and what does not fit is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from corrfractal.common.config import Config, config_from_dict, config_to_dict, digest, read_toml
from corrfractal.common.errors import ConfigError, NotFoundError


@dataclass(frozen=True, kw_only=True)
class Inner(Config):
    sizes: tuple[float, ...] = (1.0, 2.0)

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ValueError("sizes is empty")


@dataclass(frozen=True, kw_only=True)
class Outer(Config):
    name: str = "x"
    inner: Inner = field(default_factory=Inner)


def test_a_configuration_survives_the_way_through_plain_values() -> None:
    config = Outer(name="y", inner=Inner(sizes=(3.5,)))
    assert config_from_dict(Outer, config_to_dict(config)) == config


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"nmae": "y"}, "nmae"),
        ({"name": 3}, "name"),
        ({"inner": {"sizes": []}}, "inner.*sizes is empty"),
    ],
)
def test_a_wrong_field_is_named_with_the_file_it_stands_in(values: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"run\.toml.*{named}"):
        config_from_dict(Outer, values, where="run.toml")


@dataclass(frozen=True, kw_only=True)
class Successor(Config):
    SETTLED: ClassVar[dict[str, Any]] = {"grey": False}
    sizes: tuple[float, ...] = (1.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class HoldsSuccessor(Config):
    inner: Successor = field(default_factory=Successor)


def test_a_removed_field_is_read_at_its_fixed_value_and_refused_at_any_other() -> None:
    old = {"inner": {"sizes": [3.5], "grey": False}}
    read = config_from_dict(HoldsSuccessor, old)
    assert read == HoldsSuccessor(inner=Successor(sizes=(3.5,)))
    assert "grey" not in config_to_dict(read)["inner"]
    assert old["inner"]["grey"] is False
    for other in (True, 0, None):
        with pytest.raises(ConfigError, match=r"field 'grey' was removed.*knows only False"):
            config_from_dict(HoldsSuccessor, {"inner": {"grey": other}})


def test_a_digest_depends_on_contents_and_not_on_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_toml_that_is_missing_or_broken_is_named(tmp_path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("a = \n")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        read_toml(broken)
    with pytest.raises(NotFoundError, match=r"none\.toml"):
        read_toml(tmp_path / "none.toml")

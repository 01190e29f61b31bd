from __future__ import annotations

import pytest

from corrfractal.common.text import counted


@pytest.mark.parametrize(
    ("count", "of", "text"),
    [(0, None, "0 shards"), (1, None, "1 shard"), (1, 5, "1 of 5 shards"), (1, 1, "1 of 1 shard")],
)
def test_a_noun_agrees_with_its_number(count: int, of: int | None, text: str) -> None:
    assert counted(count, "shard", of) == text

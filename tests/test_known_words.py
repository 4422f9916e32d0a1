from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from dualpath.known_words import with_known_words


class Part(msgspec.Struct, forbid_unknown_fields=True):
    kinds: list[Literal["some", "other"]] = []
    number: int = 0


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    parts: Annotated[list[Part], msgspec.Meta(min_length=0)] = []
    last: Part | None = None
    by_name: dict[str, Part] = {}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"part": 1}, "unknown field `part`; known: parts, last, by_name"),
        ({"parts": [{}, {"numbr": 1}]}, "unknown field `numbr` - at `$.parts[1]`; known: kinds, number"),
        ({"parts": [{"kinds": ["sone"]}]}, "Invalid enum value 'sone' - at `$.parts[0].kinds[0]`; known: other, some"),
        ({"last": {"x": 1}}, "`x` - at `$.last`; known: kinds, number"),
        ({"by_name": {"a": {"x": 1}}}, "`x` - at `$.by_name[...]`; known: kinds, number"),
        ({"last": {"number": "one"}}, "Expected `int`, got `str` - at `$.last.number`"),
    ],
)
def test_the_known_words_of_a_place(written: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert(written, Whole)
    assert with_known_words(error.value, Whole).endswith(said)

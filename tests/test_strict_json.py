"""Guarantees of JSON that is read strictly: what two readers could understand in two ways is an error."""

import pytest

from keyswap.strict_json import AmbiguousJSON, DuplicateName, NotFinite, loads


def test_a_name_that_stands_twice_is_an_error_at_any_depth() -> None:
    """However deep, and with whatever values; the error knows the name, and its text does not hold it."""
    for text in ('{"marked": 1, "marked": 1}', '[{"a": {"b": 1, "marked": 2, "marked": null}}]'):
        with pytest.raises(DuplicateName) as caught:
            loads(text)
        assert caught.value.name == "marked" and "marked" not in str(caught.value)
    assert loads('{"a": {"b": 1}, "b": [{"a": 1}, {"a": 1}]}') == {"a": {"b": 1}, "b": [{"a": 1}, {"a": 1}]}


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_a_number_is_a_number(word: str) -> None:
    """What Python reads as a number beyond JSON is an error that knows the word."""
    with pytest.raises(NotFinite) as caught:
        loads(f'{{"a": [{word}]}}')
    assert caught.value.word == word
    assert issubclass(NotFinite, AmbiguousJSON) and issubclass(DuplicateName, AmbiguousJSON)


@pytest.mark.parametrize("text", ["", "{", "[1,]", "'a'", "1 2", "\ufeff{}", "1" * 100_000])
def test_what_is_no_json_is_an_error(text: str) -> None:
    """Whatever else is wrong is a ValueError."""
    with pytest.raises(ValueError):
        loads(text)


def test_whoever_reads_may_read_numbers_and_objects_by_itself() -> None:
    """`as_float` reads the numbers that are not whole, `as_object` makes the objects."""
    assert loads('{"a": 1.50}', as_float=str) == {"a": "1.50"}
    assert loads('{"a": 1, "a": 2}', as_object=list) == [("a", 1), ("a", 2)]

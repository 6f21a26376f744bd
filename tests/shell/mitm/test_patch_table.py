"""What is changed in mitmproxy's layers, and that nothing depends on when."""

from collections.abc import Callable
from typing import Any

import pytest

from keyswap.shell.mitm.patch_table import PATCHES, REPLACEMENTS, SEEN, UNSEEN, install
from keyswap.shell.mitm.patching import beneath, patch


@pytest.mark.parametrize(("shows", "relay"), [(True, SEEN), (False, UNSEEN)])
def test_each_method_is_changed_once_by_what_the_table_says(shows: bool, relay: Any) -> None:
    """Installing it again, also for other viewers, changes nothing; mitmproxy's own method is beneath all changes."""
    install({}, shows=shows)
    install({}, shows=not shows)
    for owner, name, changes in (*PATCHES, relay):
        assert list(reversed(vars(owner)[name].keyswap_beneath)) == list(changes)
        assert beneath(owner, name, changes[-1]).__module__.startswith(("mitmproxy.", "wsproto."))
    assert all(vars(owner)[name] is replacement for owner, name, replacement in REPLACEMENTS)


def test_a_method_has_one_row() -> None:
    """Who wants to know what is done to a method reads one line."""
    rows = [(patched.owner, patched.name) for patched in (*PATCHES, SEEN)]
    assert len(rows) == len(set(rows)) and (UNSEEN.owner, UNSEEN.name) == (SEEN.owner, SEEN.name)


def test_the_first_change_is_the_outermost() -> None:
    """Each is given the method beneath it; `beneath` gives the same to others."""

    class Layer:
        def name(self) -> str:
            return "own"

    def outer(original: Callable[[Any], str], self: Any) -> str:
        return f"outer({original(self)})"

    def inner(original: Callable[[Any], str], self: Any) -> str:
        return f"inner({original(self)})"

    for _again in range(2):
        patch(Layer, "name", outer, inner)
    assert Layer().name() == "outer(inner(own))"
    assert beneath(Layer, "name", outer)(Layer()) == "inner(own)" and beneath(Layer, "name", inner)(Layer()) == "own"


def test_a_subclass_is_changed_beside_its_base() -> None:
    """A method that is inherited is changed for the subclass, whether or not the base's is."""

    class Base:
        def name(self) -> str:
            return "own"

    class Layer(Base):
        pass

    def change(original: Callable[[Any], str], self: Any) -> str:
        return f"changed({original(self)})"

    patch(Base, "name", change)
    patch(Layer, "name", change)
    assert (Base().name(), Layer().name()) == ("changed(own)", "changed(changed(own))")

"""Guarantees of a file's identity: another file of the same name is another, whatever it holds."""

import os
from pathlib import Path

from keyswap.file_identity import identity, same_file, version_of


def test_another_file_of_the_same_name_is_another(tmp_path: Path) -> None:
    """Writing keeps the identity and changes the version; what takes the file's place has neither; a link is its file."""
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"a")
    with path.open("rb") as file:
        first, version = identity(path), version_of(path.stat())
        assert same_file(path, file.fileno()) and first is not None
        path.write_bytes(b"ab")
        assert same_file(path, file.fileno()) and identity(path) == first and version_of(path.stat()) != version
        (tmp_path / "link").symlink_to("file")
        assert same_file(tmp_path / "link", file.fileno())
        other.write_bytes(b"ab")
        os.replace(other, path)
        assert not same_file(path, file.fileno()) and identity(path) not in {first, None}


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    """No file has no identity, and is the same as no other."""
    path = tmp_path / "file"
    assert identity(path) is None
    path.write_bytes(b"a")
    handle = os.open(path, os.O_RDONLY)
    path.unlink()
    assert not same_file(path, handle)
    os.close(handle)

"""The dict oracle, by hand-written tables; the oracle itself has no oracle."""

import pytest

from vfs.testing.model import Model


def filled() -> Model:
    model = Model()
    for name in ("f", "d/a", "d/e/c", "dd"):
        model.put(name, name.encode())
    return model


def test_reads() -> None:
    model = filled()
    assert model.get("d/a") == b"d/a"
    assert (model.get("f", 1), model.get("d/a", -1), model.get("d/a", 2, 1)) == (b"", b"a", b"")
    for missing in ("d", "x", "d/e"):
        with pytest.raises(FileNotFoundError):
            model.get(missing)


@pytest.mark.parametrize(
    "prefix,found",
    [
        ("", {"f", "d/a", "d/e/c", "dd"}),
        ("d", {"d/a", "d/e/c"}),
        ("d/e", {"d/e/c"}),
        ("f", {"f"}),
        ("x", set()),
    ],
)
def test_find(prefix: str, found: set[str]) -> None:
    assert set(filled().find(prefix)) == found


def test_children() -> None:
    model = filled()
    assert model.children("") == {"f": "file", "d": "directory", "dd": "file"}
    assert model.children("d") == {"a": "file", "e": "directory"}
    assert model.children("f") == {}


@pytest.mark.parametrize("name", ["d", "d/e", "f/x", "d/a/b/c"])
def test_blocked(name: str) -> None:
    assert filled().blocked(name)


@pytest.mark.parametrize("name", ["f", "d/b", "d/e/c", "d.d", "new/er"])
def test_not_blocked(name: str) -> None:
    assert not filled().blocked(name)


def test_directories_may_be_left() -> None:
    model = filled()
    model.remove("d/e/c")
    assert not model.is_directory("d/e")
    assert model.may_be_directory("d/e")
    model.remove_tree("d")
    assert not model.may_be_directory("d/e")
    assert set(model.objects) == {"f", "dd"}


def test_writes() -> None:
    model = Model()
    model.put_create("a", b"1")
    with pytest.raises(FileExistsError):
        model.put_create("a", b"2")
    model.append("a", b"2")
    model.append("b", b"3")
    model.copy("a", "c")
    model.move("a", "a")
    model.move("a", "b")
    assert model.objects == {"b": b"12", "c": b"12"}
    with pytest.raises(FileNotFoundError):
        model.remove("a")
    model.remove_tree("nothing")

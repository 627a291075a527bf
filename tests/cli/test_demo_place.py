from pathlib import Path

import pytest

from vfs.cli.demo_place import cold_options, demo_place
from vfs.errors import ConfigError


def test_cold_options_are_json_or_text_and_dots_nest() -> None:
    pairs = ("anon=true", "a.b=x=y", "a.c=3", 'key={"env": "K"}', "empty=")
    assert cold_options(pairs) == {
        "anon": True,
        "a": {"b": "x=y", "c": 3},
        "key": {"env": "K"},
        "empty": "",
    }


@pytest.mark.parametrize("pair", ["secret", "=secret", "a.=secret", ".a=secret"])
def test_a_bad_pair_is_refused_without_telling_it(pair: str) -> None:
    with pytest.raises(ConfigError) as refused:
        cold_options(("a=1", pair))
    assert "number 2" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_value_cannot_be_a_group() -> None:
    with pytest.raises(ConfigError):
        cold_options(("a=1", "a.b=2"))


def test_everything_is_removed_even_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    mine = tmp_path / "cold" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("stays")

    def fail() -> None:
        with demo_place(cold=str(mine.parent)) as place:
            fs, root = place.plain()
            fs.makedirs(root, exist_ok=True)
            fs.pipe_file(f"{root}/a", b"1")
            assert place.read_plain() == {"a": b"1"}
            place.hot.mkdir(parents=True)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert not list((tmp_path / "tmp").iterdir())
    assert list(mine.parent.iterdir()) == [mine]


def test_a_directory_in_use_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("stays")
    with pytest.raises(ConfigError), demo_place(keep=tmp_path):
        pass
    with pytest.raises(ConfigError), demo_place(keep=tmp_path / "mine"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("cold", ["nosuch://x", "s3:/bucket"])
def test_a_wrong_url_is_found_before_anything_is_made(
    cold: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused, demo_place(cold=cold):
        pass
    assert cold in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_what_is_shown_and_told_of_a_place_has_no_secret() -> None:
    with demo_place(cold="memory://me:pw@x", options={"secret": "hidden"}) as place:
        assert "pw" not in place.shown
        assert "hidden" not in repr(place)

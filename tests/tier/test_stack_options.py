"""What ``tiers`` may not say is refused before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from vfs.errors import ConfigError

COLD = "disk:///cold"

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"tiers": []}, "list of a directory"),
    "one": ({"tiers": [COLD]}, "list of a directory"),
    "no list": ({"tiers": "/a"}, "list of a directory"),
    "a mapping": ({"tiers": {"hot": "/a"}}, "list of a directory"),
    "a number": ({"tiers": 3}, "list of a directory"),
    "an element that is none": ({"tiers": [3, COLD]}, "3 names no directory"),
    "no hot": ({"tiers": [{"max_bytes": 1}, COLD]}, "names no directory"),
    "remote above": ({"tiers": ["s3://bucket/a", COLD]}, "not a local directory"),
    "remote in the middle": ({"tiers": ["/a", "s3://bucket/a", COLD]}, "not a local directory"),
    "chained above": ({"tiers": ["cache::disk:///a", COLD]}, "not a local directory"),
    "empty name": ({"tiers": ["", COLD]}, "hot is missing"),
    "twice": ({"tiers": ["/a", "/a/", COLD]}, "overlap"),
    "twice by another name": ({"tiers": ["/a", "file:///b/../a", COLD]}, "overlap"),
    "inside": ({"tiers": ["/a", "/a/b", COLD]}, "overlap"),
    "around": ({"tiers": ["/a/b/c", "/a", COLD]}, "overlap"),
    "first inside third": ({"tiers": ["/a/b", "/c", "/a", COLD]}, "overlap"),
    "cold inside the top": ({"tiers": ["/a", "/b", "disk:///a/cold"]}, "overlap"),
    "top inside cold": ({"tiers": ["/cold/a", "/b", COLD]}, "overlap"),
    "last inside cold": ({"tiers": ["/a", "/cold/b", COLD]}, "overlap"),
    "cold is not last": ({"tiers": ["/a", {"cold": COLD}, "/b"]}, "names no directory"),
    "no cold": ({"tiers": ["/a", {"hot": "/b"}]}, "is no cold store"),
    "hot beside": ({"tiers": ["/a", COLD], "hot": "/b"}, "hot beside tiers"),
    "cold beside": ({"tiers": ["/a", COLD], "cold": COLD}, "cold beside tiers"),
    "chained beside": ({"tiers": ["/a", COLD], "target_protocol": "s3"}, "target_protocol beside"),
    "options of a chain": ({"tiers": ["/a", COLD], "target_options": {}}, "target_options beside"),
    "unknown": ({"tiers": [{"hot": "/a", "max_bite": 1}, COLD]}, "did you mean 'max_bytes'"),
    "write of one": ({"tiers": [{"hot": "/a", "write": "back"}, COLD]}, "unknown option 'write'"),
    "generic": ({"tiers": [{"hot": "/a", "anon": True}, COLD]}, "unknown option 'anon'"),
    "unknown of cold": ({"tiers": ["/a", {"cold": COLD, "hot": "/b"}]}, "unknown option 'hot'"),
    "options of cold": ({"tiers": ["/a", {"cold": COLD, "options": 3}]}, "not a mapping"),
    "a wrong size": ({"tiers": [{"hot": "/a", "max_bytes": -1}, "/b", COLD]}, "max_bytes"),
    "a wrong size below": ({"tiers": ["/a", {"hot": "/b", "max_bytes": "x"}, COLD]}, "max_bytes"),
    "a wrong size in the middle": (
        {"tiers": ["/a", {"hot": "/b", "promote": "x"}, "/c", COLD]},
        "promote",
    ),
    "wrong write": ({"tiers": ["/a", "/b", COLD], "write": "sideways"}, "write"),
    "what belongs to back": ({"tiers": ["/a", "/b", COLD], "max_lag_s": 3.0}, "write='back'"),
    "wrong engine": ({"tiers": ["/a", "/b", {"cold": "s3://b/c", "engine": "x"}]}, "engine"),
    "unknown beside": ({"tiers": ["/a", COLD], "promot": "never"}, "did you mean 'promote'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_io(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(args)

    for call in ("mkdir", "open", "scandir", "listdir"):
        monkeypatch.setattr(f"os.{call}", no_io)
    options, said = WRONG[name]
    with pytest.raises(ConfigError, match=said):
        fsspec.filesystem("tier", **options)


def test_nothing_is_made_by_a_refusal_or_an_instance(tmp_path: Path) -> None:
    tiers = [str(tmp_path / "a"), str(tmp_path / "b"), f"disk://{tmp_path}/c"]
    fsspec.filesystem("tier", tiers=tiers)
    with pytest.raises(ConfigError):
        fsspec.filesystem("tier", tiers=[*tiers[:2], str(tmp_path / "b/c"), tiers[2]])
    assert list(tmp_path.iterdir()) == []


def test_options_of_cold_are_spelled_as_beside_it() -> None:
    secret = "not for messages"
    cold = {"cold": "s3://bucket/x", "options": {"key": "k", "secret": secret}, "engine": "s3fs"}
    inside = fsspec.filesystem("tier", tiers=["/a", "/b", cold])
    beside = fsspec.filesystem(
        "tier",
        tiers=["/a", "/b", "s3://bucket/x"],
        cold_options={"key": "k", "secret": secret},
        engine="s3fs",
    )
    by_protocol = fsspec.filesystem(
        "tier",
        tiers=["/a", "/b", "s3://bucket/x"],
        s3={"key": "k", "secret": secret},
        engine="s3fs",
    )
    for fs in (inside, beside, by_protocol):
        assert fs._last.fs.secret == secret
        assert type(fs._last.fs).__module__ == "s3fs.core"
        for text in (repr(fs), str(fs), fs.to_json(), fs._identity()):
            assert secret not in text


def test_options_beside_hold_where_a_directory_says_nothing() -> None:
    fs = fsspec.filesystem(
        "tier",
        tiers=[{"hot": "/a", "promote": "never", "max_bytes": 10}, "/b", COLD],
        promote="second",
        max_bytes=1000,
        pin=["x"],
        write="back",
        max_lag_s=5.0,
    )
    top, last = fs._options, fs._last._options
    assert (top.promotion.rule, last.promotion.rule) == ("never", "second")
    assert (top.max_bytes, last.max_bytes) == (10, 1000)
    assert "x" in top.pins
    assert "x" in last.pins
    assert (top.write, last.write) == ("through", "back")
    assert top.back is None
    assert last.back is not None
    assert last.back.max_lag_s == 5.0

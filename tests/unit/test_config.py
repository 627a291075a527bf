"""Sizes, options and secrets."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from vfs.config.options import check_choice, check_known
from vfs.config.secrets import is_secret_name, redact, redact_url, reveal, seal, unseal
from vfs.config.sizes import format_bytes, parse_bytes
from vfs.errors import ConfigError


@pytest.mark.parametrize(
    "text, size",
    [
        (0, 0),
        (7, 7),
        ("7", 7),
        ("1kB", 1000),
        ("1 KiB", 1024),
        ("1.5 MiB", 3 << 19),
        ("500 GiB", 500 << 30),
        ("2tb", 2 * 10**12),
        (" 1 EiB ", 1 << 60),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_bytes(text, "x") == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 GiBb", "1,5 GB", None, True, 1.5, b"1"])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ConfigError, match="max_bytes"):
        parse_bytes(text, "max_bytes")


def test_minimum() -> None:
    with pytest.raises(ConfigError):
        parse_bytes("1 KiB", "x", minimum=1025)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 3 << 19, 5 << 40])
def test_printed_sizes_are_sizes(size: int) -> None:
    assert abs(parse_bytes(format_bytes(size), "x") - size) <= size / 10


def test_unknown_options() -> None:
    check_known("x", {"a": 1, "asynchronous": True, "anon": True}, ["a"])
    with pytest.raises(ConfigError, match="did you mean 'max_bytes'"):
        check_known("x", {"max_byte": "hunter2"}, ["max_bytes", "hot"])
    with pytest.raises(ConfigError) as caught:
        check_known("x", {"zzz": "hunter2"}, ["a"])
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError):
        check_choice("mode", ["a"], ("a", "b"))


@pytest.mark.parametrize(
    "name",
    ["key", "secret", "token", "password", "aws_secret_access_key", "account_key", "sas_token"],
)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["hot", "keys_per_page", "monkey", "endpoint_url", "tokenizer"])
def test_other_names(name: str) -> None:
    assert not is_secret_name(name)


def test_seal_hides_and_opens() -> None:
    options = {
        "key": "AKIA",
        "nested": [{"password": "hunter2"}],
        "url": "ftp://me:hunter2@host/x",
        "plain": 3,
    }
    sealed = seal(options)
    for secret in ("AKIA", "hunter2"):
        assert secret not in repr(sealed)
        assert secret.encode() not in pickle.dumps(sealed)
        assert secret not in repr(redact(options))
    assert seal(sealed) == sealed
    assert reveal(sealed) == unseal(sealed) == options


def test_seal_of_another_process_names_the_option() -> None:
    with pytest.raises(ConfigError, match="'secret'"):
        reveal({"secret": {"vfs-sealed-secret": "0" * 32}})


def test_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("from file\n")
    monkeypatch.setenv("LAB_KEY", "from env")
    options = {"key": {"env": "LAB_KEY"}, "token": {"file": str(tmp_path / "token")}}
    assert reveal(options) == {"key": "from env", "token": "from file"}
    assert unseal(seal(options)) == options, "references travel as they are"
    with pytest.raises(ConfigError, match="NO_SUCH"):
        reveal({"key": {"env": "NO_SUCH"}})
    with pytest.raises(ConfigError, match="token"):
        reveal({"token": {"file": str(tmp_path / "none")}})
    other = {"options": {"env": "production"}}
    assert reveal(other) == other, "a reference only where a secret is expected"


def test_urls_lose_their_secrets() -> None:
    url = "https://me:pw@host/x?X-Amz-Signature=abc&X-Amz-Security-Token=t&list-type=2&sig=zz"
    assert redact_url(url) == (
        "https://***@host/x?X-Amz-Signature=***&X-Amz-Security-Token=***&list-type=2&sig=***"
    )

"""A secret given plainly appears nowhere; a reference to one works wherever it is sent."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dask.array as da
import fsspec
import pytest
import zarr
from dask.base import tokenize
from fsspec import AbstractFileSystem
from fsspec.core import OpenFile, url_to_fs
from interop.data import temperature
from numpy.testing import assert_array_equal
from zarr.storage import FsspecStore

from vfs import ConfigError
from vfs.testing.servers import S3Server

# Nothing of these may be found again, in whatever encoding.
SECRETS = {
    "key": "AKIAVERYPLAINKEY0001",
    "secret": "very+plain/secret-0002",
    "token": "very-plain-token-0003",
}
PASSWORD = "very-plain-password-0004"

Dumps = Callable[[object], bytes]
DUMPS = pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps], ids=["std", "cloud"])


def assert_no_secret(*shown: object) -> None:
    for value in shown:
        data = value if isinstance(value, bytes) else str(value).encode()
        for secret in (*SECRETS.values(), PASSWORD):
            assert secret.encode() not in data
            assert json.dumps(secret).encode()[1:-1] not in data


def offline_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def options_of(tmp_path: Path, s3: dict[str, Any]) -> dict[str, Any]:
    return {"tier": {"hot": str(tmp_path / "hot")}, "s3": s3}


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Any]:
    """Options of a tier over S3 that nobody answers for."""
    client = {"endpoint_url": f"http://127.0.0.1:{offline_port()}"}
    retries = {"retries": {"max_attempts": 1}, "connect_timeout": 1}
    return options_of(tmp_path, {**SECRETS, "client_kwargs": client, "config_kwargs": retries})


CHAINS = pytest.mark.parametrize("chain", ["tier::s3", "tier::readonly::s3", "readonly::tier::s3"])


@CHAINS
def test_in_no_text_or_pickle(chain: str, plain: dict[str, Any]) -> None:
    fs, path = url_to_fs(f"{chain}://bucket/key", **plain)
    html = getattr(fs, "_repr_html_", str)()
    assert_no_secret(repr(fs), str(fs), f"{fs}", html)
    assert_no_secret(fs.to_json(), fs.to_dict(), fs.to_json(include_password=False))
    assert_no_secret(repr(fs.fsid), hash(fs), fs.__dask_tokenize__(), tokenize(fs))
    for dumps in (pickle.dumps, cloudpickle.dumps):
        assert_no_secret(dumps(fs), dumps(fs.get_mapper(path)), dumps(OpenFile(fs, path)))
        assert_no_secret(dumps(fs.fs if hasattr(fs.fs, "target") else fs))
    assert_no_secret(repr(OpenFile(fs, path)), repr(fs.get_mapper(path)))


def with_filesystem(block: Any, fs: AbstractFileSystem) -> Any:
    return block


@CHAINS
def test_in_no_store_or_graph(chain: str, plain: dict[str, Any]) -> None:
    url = f"{chain}://bucket/key"
    store = FsspecStore.from_url(url, storage_options=plain)
    assert_no_secret(repr(store), str(store), cloudpickle.dumps(store), pickle.dumps(store))
    assert_no_secret(repr(store.fs), tokenize(store.fs))
    fs, path = url_to_fs(url, **plain)
    graph = da.from_array(temperature(), chunks=54).map_blocks(with_filesystem, fs=fs)
    assert_no_secret(cloudpickle.dumps(graph), dict(graph.dask), graph.name)
    assert_no_secret(*[cloudpickle.dumps(file) for file in fsspec.open_files(url, **plain)])
    assert_no_secret(path)


def test_token_does_not_depend_on_secrets(plain: dict[str, Any]) -> None:
    """A token that did could be tried against a list of likely secrets."""
    one = url_to_fs("tier::s3://bucket/key", **plain)[0]
    plain["s3"]["secret"] = "another"
    other = url_to_fs("tier::s3://bucket/key", **plain)[0]
    assert one is not other
    assert tokenize(one) == tokenize(other)


def error_of(call: Callable[[], object]) -> str:
    """Everything that is shown of an error: with its causes, notes, and pickled."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whichever; what it shows is what counts
        chain: list[BaseException] = []
        current: BaseException | None = error
        while current is not None:
            chain.append(current)
            current = current.__cause__ or current.__context__
        shown = "".join(traceback.format_exception(error))
        return shown + "".join(f"{each!r} {each} {each.args} {vars(each)}" for each in chain)
    pytest.fail("no error")


def test_in_no_error_of_an_unreachable_endpoint(
    plain: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="vfs")
    fs, path = url_to_fs("tier::s3://bucket/key", **plain)
    for call in (
        lambda: fs.cat_file(path),
        lambda: fs.info(path),
        lambda: fs.ls(path),
        lambda: fs.pipe_file(path, b"1"),
        lambda: fs.open(path).read(),
        lambda: zarr.open_array("tier::s3://bucket/key", mode="r", storage_options=plain),
    ):
        assert_no_secret(error_of(call))
    assert_no_secret(caplog.text, *[vars(record) for record in caplog.records])


@pytest.mark.parametrize(
    "where,extra",
    [
        ("tier", {"max_bite": 1}),
        ("s3", {"no_such_option": 1}),
        ("tier", {"secret": SECRETS["secret"]}),
        ("tier", {"password": PASSWORD}),
        ("tier", {"max_bytes": "many"}),
        ("readonly", {"token": SECRETS["token"]}),
    ],
)
def test_in_no_error_of_an_option(plain: dict[str, Any], where: str, extra: dict[str, Any]) -> None:
    plain.setdefault(where, {}).update(extra)

    def use() -> None:
        fs, path = url_to_fs("tier::readonly::s3://bucket/key", **plain)
        fs.cat_file(path)

    shown = error_of(use)
    assert_no_secret(shown)
    assert "ConfigError" in shown or where == "s3"


# fsspec's FTP filesystem connects when it is made, and stumbles over itself when that fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("scheme", ["ftp", "http"])
def test_in_no_error_of_a_url(tmp_path: Path, scheme: str) -> None:
    hot = str(tmp_path / "hot")
    cold = f"{scheme}://me:{PASSWORD}@127.0.0.1:{offline_port()}/dir/key"

    def use_chain() -> None:
        fs, path = url_to_fs(f"tier::{cold}", tier={"hot": hot})
        assert_no_secret(repr(fs), fs.to_json(), pickle.dumps(fs))
        fs.cat_file(path)

    def use_cold() -> None:
        fs = fsspec.filesystem("tier", hot=hot, cold=cold)
        assert_no_secret(repr(fs), fs.to_json(), pickle.dumps(fs), fs.stats())
        fs.cat_file("o")

    assert_no_secret(error_of(use_chain))
    assert_no_secret(error_of(use_cold))
    assert_no_secret(error_of(lambda: fsspec.filesystem("tier", hot=cold, cold=f"{tmp_path}/c")))


def test_in_no_file_of_the_hot_directory(plain: dict[str, Any], tmp_path: Path) -> None:
    fs, path = url_to_fs("tier::s3://bucket/key", **plain)
    error_of(lambda: fs.cat_file(path))
    files = [file for file in (tmp_path / "hot").rglob("*") if file.is_file()]
    assert files
    assert_no_secret(*[file.read_bytes() for file in files])


@DUMPS
def test_plain_secrets_return_in_the_same_process(plain: dict[str, Any], dumps: Dumps) -> None:
    fs = url_to_fs("tier::s3://bucket/key", **plain)[0]
    assert pickle.loads(dumps(fs)) is fs
    type(fs).clear_instance_cache()
    again = pickle.loads(dumps(fs))
    assert again is not fs
    assert {name: again.fs.storage_options[name] for name in SECRETS} == SECRETS
    assert AbstractFileSystem.from_json(fs.to_json()).fs is again.fs


def fresh(code: str, sent: bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"import pickle, sys\nload = lambda: pickle.load(sys.stdin.buffer)\n{code}",
        ],
        input=sent,
        capture_output=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("dumps", [pickle.dumps])
@pytest.mark.parametrize("name", SECRETS)
def test_plain_secret_elsewhere_is_a_named_error(
    plain: dict[str, Any], dumps: Dumps, name: str
) -> None:
    for other in SECRETS.keys() - {name}:
        del plain["s3"][other]
    fs, path = url_to_fs("tier::s3://bucket/key", **plain)
    store = FsspecStore.from_url("tier::s3://bucket/key", storage_options=plain)
    for sent, use in (
        (fs, "load().info('bucket/key')"),
        (fs, "fs = pickle.loads(pickle.dumps(load())); print(repr(fs)); fs.protocol"),
        (fs, "import asyncio; asyncio.run(load()._cat_file('bucket/key'))"),
        (fs.get_mapper(path), "load()['x']"),
        (OpenFile(fs, path), "load().open()"),
        (store, "import zarr; zarr.open_array(load(), mode='r')"),
    ):
        run = fresh("load()", dumps(sent))
        assert run.returncode == 0, run.stderr
        run = fresh(use, dumps(sent))
        assert run.returncode == 1
        last = run.stderr.decode().strip().splitlines()[-1]
        assert last.startswith("vfs.errors.ConfigError")
        assert repr(name) in last
        assert "env" in last
        assert_no_secret(run.stdout, run.stderr)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pool_of_processes_without_the_secret_says_so(plain: dict[str, Any], method: str) -> None:
    """A task that cannot be unpickled is lost, and waited for for ever."""
    fs, path = url_to_fs("tier::s3://bucket/key", **plain)
    with multiprocessing.get_context(method).Pool(1) as pool:
        waiting = pool.map_async(fs.cat_file, [path])
        with pytest.raises(ConfigError, match="plain text in another process"):
            waiting.get(timeout=60)


@pytest.mark.server
@DUMPS
@pytest.mark.parametrize("kind", ["env", "file"])
def test_references_work_and_travel(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dumps: Dumps, kind: str
) -> None:
    bucket = s3.make_bucket(uuid.uuid4().hex)
    references = {}
    for name, secret in SECRETS.items():
        monkeypatch.setenv(f"TEST_S3_{name.upper()}", secret)
        (tmp_path / name).write_text(f"{secret}\n", encoding="utf-8")
        where = f"TEST_S3_{name.upper()}" if kind == "env" else str(tmp_path / name)
        references[name] = {kind: where}
    options = options_of(tmp_path, {**s3.storage_options, **references})
    fs, path = url_to_fs(f"tier::s3://{bucket}/o", **options)
    fs.pipe_file(path, b"hello")
    assert {name: fs.fs.storage_options[name] for name in SECRETS} == SECRETS
    assert_no_secret(repr(fs), fs.to_json(), dumps(fs), dumps(fs.get_mapper(path)), tokenize(fs))
    run = fresh("fs, path = load(); print(fs.cat_file(path), fs.fsid)", dumps((fs, path)))
    assert run.stdout.decode().split() == ["b'hello'", fs.fsid], run.stderr
    url = f"tier::s3://{bucket}/a.zarr"
    array = zarr.create_array(url, data=temperature(), storage_options=options)
    assert_no_secret(cloudpickle.dumps(array), pickle.dumps(array.store))
    assert_array_equal(pickle.loads(dumps(array))[:], temperature())
    run = fresh("print(load()[3, 4, 5])", dumps(array))
    assert float(run.stdout) == pytest.approx(float(temperature()[3, 4, 5])), run.stderr


@DUMPS
def test_reference_that_is_not_there(
    plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch, dumps: Dumps
) -> None:
    monkeypatch.setenv("ONLY_HERE", SECRETS["secret"])
    plain["s3"] |= {"secret": {"env": "ONLY_HERE"}, "key": {"env": "ONLY_HERE"}}
    del plain["s3"]["token"]
    sent = dumps(url_to_fs("tier::s3://bucket/key", **plain)[0])
    monkeypatch.delenv("ONLY_HERE")
    run = fresh("load().ls('bucket')", sent)
    assert run.returncode == 1
    assert b"ConfigError" in run.stderr
    assert b"ONLY_HERE" in run.stderr
    assert_no_secret(run.stderr)
    with pytest.raises(ConfigError, match="no-such-file"):
        url_to_fs("tier::s3://b/k", **{**plain, "s3": {"secret": {"file": "/no-such-file"}}})


@pytest.mark.server
def test_in_no_error_of_a_refusal(
    s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="vfs")
    bucket = s3.make_bucket(uuid.uuid4().hex)
    options = options_of(tmp_path, {**s3.storage_options, **SECRETS})
    fs, path = url_to_fs(f"tier::s3://{bucket}/o", **options)
    fs.pipe_file(path, b"hello")
    fs.evict(path)
    s3.fail_next(403, times=100)
    with pytest.raises(PermissionError):
        fs.cat_file(path)
    for call in (
        lambda: fs.cat_file(path),
        lambda: fs.ls(bucket),
        lambda: fs.pipe_file(path, b"1"),
        lambda: fs.get_file(path, str(tmp_path / "got")),
    ):
        assert_no_secret(error_of(call))
    s3.reset()
    assert fs.cat_file(path) == b"hello"
    fs.evict(path)
    assert_no_secret(caplog.text, *[vars(record) for record in caplog.records])
    shown = io.StringIO()
    print(fs, fs.stats(), fs.status(path), file=shown)
    assert_no_secret(shown.getvalue())

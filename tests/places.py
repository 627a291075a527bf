"""The filesystems that conformance and upstream suites run over, as classes of fixtures."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec import AbstractFileSystem

from vfs.testing.conformance import ALL_CAPABILITIES
from vfs.testing.servers import S3Server
from vfs.testing.stores import AzuriteServer, FakeGCSServer, SeaweedServer

_MEMORY = {
    "shared": "objects live in the memory of one process",
    "empty_directories": "keys only; a directory is what has keys below it",
}
_S3 = {
    "empty_directories": "S3 has keys only",
    "append": "s3fs appends by copying, and only above 5 MiB",
}


class Mem:
    capabilities: ClassVar[frozenset[str]] = ALL_CAPABILITIES - _MEMORY.keys()
    reasons: ClassVar[Mapping[str, str]] = _MEMORY

    @pytest.fixture
    def fs(self) -> AbstractFileSystem:
        return fsspec.filesystem("mem", store=uuid.uuid4().hex)

    @pytest.fixture
    def root(self) -> str:
        return "suite"


class Disk:
    @pytest.fixture
    def fs(self) -> AbstractFileSystem:
        return fsspec.filesystem("disk")

    @pytest.fixture
    def root(self, tmp_path: Path) -> str:
        return str(tmp_path / "root")


class TierOverDisk:
    @pytest.fixture
    def fs(self, tmp_path: Path) -> AbstractFileSystem:
        return fsspec.filesystem("tier", hot=str(tmp_path / "hot"), cold=f"disk://{tmp_path}/cold")

    @pytest.fixture
    def root(self) -> str:
        return "suite"


class TierOverMem:
    capabilities: ClassVar[frozenset[str]] = ALL_CAPABILITIES - _MEMORY.keys()
    reasons: ClassVar[Mapping[str, str]] = _MEMORY

    @pytest.fixture
    def fs(self, tmp_path: Path) -> AbstractFileSystem:
        store = {"store": uuid.uuid4().hex}
        hot = str(tmp_path / "hot")
        return fsspec.filesystem("tier", target_protocol="mem", target_options=store, hot=hot)

    @pytest.fixture
    def root(self) -> str:
        return "suite"


class TierOverS3:
    capabilities: ClassVar[frozenset[str]] = ALL_CAPABILITIES - _S3.keys()
    reasons: ClassVar[Mapping[str, str]] = _S3

    @pytest.fixture
    def fs(
        self, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> AbstractFileSystem:
        options = _by_reference(s3, monkeypatch)
        hot = str(tmp_path / "hot")
        return fsspec.filesystem(
            "tier", target_protocol="s3", target_options=options, hot=hot, engine="s3fs"
        )

    @pytest.fixture
    def root(self, s3: S3Server) -> str:
        return s3.make_bucket(f"suite-{uuid.uuid4().hex}") + "/root"


class TierBackOverDisk(TierOverDisk):
    @pytest.fixture
    def fs(self, tmp_path: Path) -> AbstractFileSystem:
        cold = f"disk://{tmp_path}/cold"
        return fsspec.filesystem("tier", hot=str(tmp_path / "hot"), cold=cold, write="back")

    def put_raw(self, fs: AbstractFileSystem, path: str, data: bytes) -> None:
        fs.flush()
        fs.fs.pipe_file(f"{fs._cold_root}/{path}", data)


class TierBackOverMem(TierOverMem):
    @pytest.fixture
    def fs(self, tmp_path: Path) -> AbstractFileSystem:
        store = {"store": uuid.uuid4().hex}
        return fsspec.filesystem(
            "tier",
            target_protocol="mem",
            target_options=store,
            hot=str(tmp_path / "hot"),
            write="back",
            durability="process",
        )


class TierBackOverS3(TierOverS3):
    engine: ClassVar[str] = "s3fs"

    @pytest.fixture
    def fs(
        self, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> AbstractFileSystem:
        return fsspec.filesystem(
            "tier",
            target_protocol="s3",
            target_options=_by_reference(s3, monkeypatch),
            hot=str(tmp_path / "hot"),
            write="back",
            engine=self.engine,
        )

    def put_raw(self, fs: AbstractFileSystem, path: str, data: bytes) -> None:
        # Until cold has the object below, the tier itself knows that there is a directory.
        fs.pipe_file(path, data)
        fs.flush()

    def fill(self, fs: AbstractFileSystem, root: str, tree: Mapping[str, bytes]) -> None:
        fs.pipe({f"{root}/{name}": data for name, data in tree.items()})
        fs.flush()


class TierStackOverDisk(TierOverDisk):
    """Two directories over a cold store."""

    options: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def fs(self, tmp_path: Path) -> AbstractFileSystem:
        tiers = [str(tmp_path / "top"), str(tmp_path / "hot"), f"disk://{tmp_path}/cold"]
        return fsspec.filesystem("tier", tiers=tiers, **self.options)


class TierStackBackOverDisk(TierStackOverDisk):
    options: ClassVar[Mapping[str, Any]] = {"write": "back"}

    def put_raw(self, fs: AbstractFileSystem, path: str, data: bytes) -> None:
        fs.flush()
        fs.fs.fs.pipe_file(f"{fs.fs._cold_root}/{path}", data)


class CacheOverDisk:
    """The mode in which nothing is asked again: whatever is stale shows."""

    consistency: ClassVar[str] = "immutable"

    @pytest.fixture
    def fs(self, tmp_path: Path) -> AbstractFileSystem:
        return fsspec.filesystem(
            "cache",
            target_protocol="disk",
            directory=str(tmp_path / "cache"),
            consistency=self.consistency,
        )

    @pytest.fixture
    def root(self, tmp_path: Path) -> str:
        return str(tmp_path / "root")


class CacheOverMem:
    capabilities: ClassVar[frozenset[str]] = ALL_CAPABILITIES - _MEMORY.keys()
    reasons: ClassVar[Mapping[str, str]] = _MEMORY

    @pytest.fixture
    def fs(self, tmp_path: Path) -> AbstractFileSystem:
        return fsspec.filesystem(
            "cache",
            target_protocol="mem",
            target_options={"store": uuid.uuid4().hex},
            directory=str(tmp_path / "cache"),
            consistency="strict",
        )

    @pytest.fixture
    def root(self) -> str:
        return "suite"


class CacheOverS3:
    capabilities: ClassVar[frozenset[str]] = ALL_CAPABILITIES - _S3.keys()
    reasons: ClassVar[Mapping[str, str]] = _S3

    @pytest.fixture
    def fs(
        self, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> AbstractFileSystem:
        return fsspec.filesystem(
            "cache",
            target_protocol="s3",
            target_options=_by_reference(s3, monkeypatch),
            engine="s3fs",
            directory=str(tmp_path / "cache"),
        )

    @pytest.fixture
    def root(self, s3: S3Server) -> str:
        return s3.make_bucket(f"suite-{uuid.uuid4().hex}") + "/root"


def _by_reference(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give the secrets by reference, so that other processes of the suite can open the store."""
    monkeypatch.setenv("SUITE_KEY", "testing")
    secret = {"env": "SUITE_KEY"}
    return {**s3.storage_options, "key": secret, "secret": secret}


def _referred(
    options: Mapping[str, Any], names: Iterable[str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Give some options by reference to the environment."""
    for name in names:
        monkeypatch.setenv(f"SUITE_{name.upper()}", options[name])
    return {**options, **{name: {"env": f"SUITE_{name.upper()}"} for name in names}}


_OBSTORE = {
    "empty_directories": "S3 has keys only",
    "fork": "the Rust client's threads do not exist in a forked child; it is refused there",
}


class Obstore:
    capabilities: ClassVar[frozenset[str]] = ALL_CAPABILITIES - _OBSTORE.keys()
    reasons: ClassVar[Mapping[str, str]] = _OBSTORE

    @pytest.fixture
    def fs(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> AbstractFileSystem:
        return fsspec.filesystem("obs3", **_by_reference(s3, monkeypatch))

    @pytest.fixture
    def root(self, s3: S3Server) -> str:
        return s3.make_bucket(f"suite-{uuid.uuid4().hex}") + "/root"


class ObstoreOnSeaweed:
    capabilities: ClassVar[frozenset[str]] = ALL_CAPABILITIES - _OBSTORE.keys()
    reasons: ClassVar[Mapping[str, str]] = _OBSTORE

    @pytest.fixture
    def fs(self, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> AbstractFileSystem:
        options = seaweed.storage_options
        return fsspec.filesystem(
            "obs3", **_referred(options, ("key", "secret"), monkeypatch), preset="seaweedfs"
        )

    @pytest.fixture
    def root(self, seaweed: SeaweedServer) -> str:
        return f"{seaweed.fresh()}/root"


class Azure:
    capabilities: ClassVar[frozenset[str]] = ALL_CAPABILITIES - _OBSTORE.keys()
    reasons: ClassVar[Mapping[str, str]] = _OBSTORE

    @pytest.fixture
    def fs(self, azurite: AzuriteServer, monkeypatch: pytest.MonkeyPatch) -> AbstractFileSystem:
        names = ("connection_string",)
        return fsspec.filesystem("obaz", **_referred(azurite.storage_options, names, monkeypatch))

    @pytest.fixture
    def root(self, azurite: AzuriteServer) -> str:
        return f"{azurite.fresh()}/root"


class GCS:
    capabilities: ClassVar[frozenset[str]] = ALL_CAPABILITIES - _OBSTORE.keys()
    reasons: ClassVar[Mapping[str, str]] = _OBSTORE

    @pytest.fixture
    def fs(self, fake_gcs: FakeGCSServer, monkeypatch: pytest.MonkeyPatch) -> AbstractFileSystem:
        options = fake_gcs.obstore_options
        return fsspec.filesystem(
            "obgs", **_referred(options, ("service_account_key",), monkeypatch)
        )

    @pytest.fixture
    def root(self, fake_gcs: FakeGCSServer) -> str:
        return f"{fake_gcs.fresh()}/root"


class TierOverObstore(Obstore):
    """What ``tier::s3://`` is where obstore is installed; a forked child goes on with s3fs."""

    capabilities: ClassVar[frozenset[str]] = Obstore.capabilities | {"fork"}

    @pytest.fixture
    def fs(
        self, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> AbstractFileSystem:
        options = _by_reference(s3, monkeypatch)
        hot = str(tmp_path / "hot")
        return fsspec.filesystem("tier", target_protocol="s3", target_options=options, hot=hot)


class CacheOverObstore(Obstore):
    capabilities: ClassVar[frozenset[str]] = Obstore.capabilities | {"fork"}

    @pytest.fixture
    def fs(
        self, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> AbstractFileSystem:
        return fsspec.filesystem(
            "cache",
            target_protocol="s3",
            target_options=_by_reference(s3, monkeypatch),
            directory=str(tmp_path / "cache"),
        )


class ReadOnlyOverDisk:
    """Only for reading: what is read is written past it."""

    capabilities: ClassVar[frozenset[str]] = ALL_CAPABILITIES
    reasons: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture
    def fs(self) -> AbstractFileSystem:
        return fsspec.filesystem("readonly", target_protocol="disk")

    @pytest.fixture
    def root(self, tmp_path: Path) -> str:
        return str(tmp_path / "root")

    def put_raw(self, fs: AbstractFileSystem, path: str, data: bytes) -> None:
        fs.fs.pipe_file(path, data)

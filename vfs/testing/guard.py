"""Run a server that would outlive its starter: ``python guard.py DIRECTORY COMMAND...``.

Servers of other people do not watch for the end of the process that started
them. This one does: when its standard input is closed or it is told to end,
the server is ended and its directory removed. It imports nothing of ``vfs``,
so that it starts in a few hundredths of a second.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys

_GRACE_S = 5.0  # SeaweedFS needs 1.3 s to end; then it is killed


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server's whole group: politely, then not."""
    for number, patience_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, None)):
        try:
            os.killpg(server.pid, number)
            server.wait(patience_s)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _told(_number: int, _frame: object) -> None:
    raise SystemExit


def main(directory: str, *command: str) -> None:
    """Run the command until it ends, the input is closed, or a signal arrives.

    Parameters
    ----------
    directory : str
        The server's own, removed at the end.
    *command : str
        The server.
    """
    signal.signal(signal.SIGTERM, _told)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests; they end us
    # A group of its own: what the server starts ends with it.
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        ended = os.pidfd_open(server.pid)
        while True:
            ready, _, _ = select.select([sys.stdin, ended], [], [])
            if ended in ready or not os.read(sys.stdin.fileno(), 1):
                return
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end(server)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The RADOS gateway of Ceph on loopback, from the packages of the distribution.

Ceph is four processes and their keys; a shell script that starts them and
waits lives here. What is common to servers is in ``foreign``.
"""

from __future__ import annotations

import shutil
from typing import ClassVar
from uuid import uuid4

from vfs.testing.foreign import S3Store

__all__ = ["CephServer"]

_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "radosgw-admin", "monmaptool")

# With authentication switched off the gateway hangs: hence keys.
_CONFIG = """\
[global]
fsid = {fsid}
mon initial members = a
mon host = {mon}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth allow insecure global id reclaim = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
run dir = {home}/run
admin socket = {home}/run/$name.asok
pid file = {home}/run/$name.pid
log file = {home}/log/$name.log
osd objectstore = memstore
memstore device bytes = 2147483648
osd data = {home}/osd
mon data = {home}/mon
mgr data = {home}/mgr
keyring = {home}/keyring
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {home}/rgw
"""

# The gateway is last and replaces the shell; the rest ends with its group.
_START = """\
set -e
options="-c $HOME/ceph.conf" keyring=$HOME/keyring
mkdir -p mon osd mgr rgw run log
ceph-authtool -C $keyring --gen-key -n mon. --cap mon 'allow *'
for name in client.admin osd.0 mgr.a client.rgw.a; do
    ceph-authtool $keyring --gen-key -n $name \\
        --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
done
monmaptool --create --clobber --fsid $FSID --addv a "$MON" monmap
ceph-mon $options --mkfs -i a --monmap monmap --keyring $keyring
ceph-mon $options -f -i a &
timeout 60 ceph $options auth import -i $keyring
timeout 60 ceph $options osd create $OSD 0
ceph-osd $options -i 0 --mkfs --osd-uuid $OSD
ceph-osd $options -f -i 0 &
ceph-mgr $options -f -i a &
timeout 120 radosgw-admin $options user create --uid=testing --display-name=testing \\
    --access-key=$KEY --secret=$SECRET
exec radosgw $options -n client.rgw.a -f
"""


class CephServer(S3Store):
    """Ceph's S3, from the packages ``radosgw ceph-mon ceph-osd ceph-mgr ceph-base``."""

    n_ports: ClassVar[int] = 3

    @classmethod
    def missing(cls) -> str | None:
        """Say which of Ceph's programs is not there."""
        absent = [name for name in _PROGRAMS if not shutil.which(name)]
        return f"no {absent[0]}: install radosgw, ceph-mon, ceph-osd, ceph-mgr" if absent else None

    def command(self) -> list[str]:
        """Write the configuration; return the shell that starts everything."""
        self._mon = f"[v2:127.0.0.1:{self.ports[1]},v1:127.0.0.1:{self.ports[2]}]"
        self._fsid = str(uuid4())
        config = _CONFIG.format(fsid=self._fsid, mon=self._mon, home=self.directory, port=self.port)
        (self.directory / "ceph.conf").write_text(config)
        return ["sh", "-c", _START]

    def environment(self) -> dict[str, str]:
        """Return what the script refers to."""
        return {
            "HOME": str(self.directory),
            "FSID": self._fsid,
            "OSD": str(uuid4()),
            "MON": self._mon,
            "KEY": self.key,
            "SECRET": self.secret,
        }

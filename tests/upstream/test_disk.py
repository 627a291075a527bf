"""disk:// passes the suites of fsspec and zarr."""

import pytest
from places import Disk

from vfs.testing import upstream


class TestCopy(Disk, upstream.FsspecCopyTests):
    pass


class TestGet(Disk, upstream.FsspecGetTests):
    pass


class TestPut(Disk, upstream.FsspecPutTests):
    pass


class TestOpen(Disk, upstream.FsspecOpenTests):
    pass


class TestPipe(Disk, upstream.FsspecPipeTests):
    pass


class TestZarrStore(Disk, upstream.ZarrStoreTests):
    pass


@pytest.mark.stateful
class TestZarrMachines(Disk, upstream.ZarrMachineTests):
    pass

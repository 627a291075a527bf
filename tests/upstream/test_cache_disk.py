"""A cache over disk:// passes the suites of fsspec and zarr."""

import pytest
from places import CacheOverDisk

from vfs.testing import upstream


class TestCopy(CacheOverDisk, upstream.FsspecCopyTests):
    pass


class TestGet(CacheOverDisk, upstream.FsspecGetTests):
    pass


class TestPut(CacheOverDisk, upstream.FsspecPutTests):
    pass


class TestOpen(CacheOverDisk, upstream.FsspecOpenTests):
    pass


class TestPipe(CacheOverDisk, upstream.FsspecPipeTests):
    pass


class TestZarrStore(CacheOverDisk, upstream.ZarrStoreTests):
    pass


@pytest.mark.stateful
class TestZarrMachines(CacheOverDisk, upstream.ZarrMachineTests):
    pass

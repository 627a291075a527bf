"""A cache over obs3 passes the suites of fsspec and zarr."""

import pytest
from places import CacheOverObstore

from vfs.testing import upstream

pytestmark = pytest.mark.server


class TestCopy(CacheOverObstore, upstream.FsspecCopyTests):
    pass


class TestGet(CacheOverObstore, upstream.FsspecGetTests):
    pass


class TestPut(CacheOverObstore, upstream.FsspecPutTests):
    pass


class TestOpen(CacheOverObstore, upstream.FsspecOpenTests):
    pass


class TestPipe(CacheOverObstore, upstream.FsspecPipeTests):
    pass


class TestZarrStore(CacheOverObstore, upstream.ZarrStoreTests):
    pass


@pytest.mark.stateful
@pytest.mark.once
class TestZarrMachines(CacheOverObstore, upstream.ZarrMachineTests):
    pass

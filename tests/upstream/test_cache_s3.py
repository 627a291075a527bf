"""A cache over S3 passes the suites of fsspec and zarr."""

import pytest
from places import CacheOverS3

from vfs.testing import upstream

pytestmark = pytest.mark.server


class TestCopy(CacheOverS3, upstream.FsspecCopyTests):
    pass


class TestGet(CacheOverS3, upstream.FsspecGetTests):
    pass


class TestPut(CacheOverS3, upstream.FsspecPutTests):
    pass


class TestOpen(CacheOverS3, upstream.FsspecOpenTests):
    pass


class TestPipe(CacheOverS3, upstream.FsspecPipeTests):
    pass


class TestZarrStore(CacheOverS3, upstream.ZarrStoreTests):
    pass


@pytest.mark.stateful
@pytest.mark.once
class TestZarrMachines(CacheOverS3, upstream.ZarrMachineTests):
    pass

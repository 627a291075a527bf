"""A tier over S3 passes the suites of fsspec and zarr."""

import pytest
from places import TierOverS3

from vfs.testing import upstream

pytestmark = pytest.mark.server


class TestCopy(TierOverS3, upstream.FsspecCopyTests):
    pass


class TestGet(TierOverS3, upstream.FsspecGetTests):
    pass


class TestPut(TierOverS3, upstream.FsspecPutTests):
    pass


class TestOpen(TierOverS3, upstream.FsspecOpenTests):
    pass


class TestPipe(TierOverS3, upstream.FsspecPipeTests):
    pass


class TestZarrStore(TierOverS3, upstream.ZarrStoreTests):
    pass


@pytest.mark.stateful
@pytest.mark.once
class TestZarrMachines(TierOverS3, upstream.ZarrMachineTests):
    pass

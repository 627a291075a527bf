"""A tier over disk:// passes the suites of fsspec and zarr."""

import pytest
from places import TierOverDisk

from vfs.testing import upstream


class TestCopy(TierOverDisk, upstream.FsspecCopyTests):
    pass


class TestGet(TierOverDisk, upstream.FsspecGetTests):
    pass


class TestPut(TierOverDisk, upstream.FsspecPutTests):
    pass


class TestOpen(TierOverDisk, upstream.FsspecOpenTests):
    pass


class TestPipe(TierOverDisk, upstream.FsspecPipeTests):
    pass


class TestZarrStore(TierOverDisk, upstream.ZarrStoreTests):
    pass


@pytest.mark.stateful
class TestZarrMachines(TierOverDisk, upstream.ZarrMachineTests):
    pass

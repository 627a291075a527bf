"""obs3 over S3 passes the suites of fsspec and zarr."""

import pytest
from places import Obstore

from vfs.testing import upstream

pytestmark = pytest.mark.server


class TestCopy(Obstore, upstream.FsspecCopyTests):
    pass


class TestGet(Obstore, upstream.FsspecGetTests):
    pass


class TestPut(Obstore, upstream.FsspecPutTests):
    pass


class TestOpen(Obstore, upstream.FsspecOpenTests):
    pass


class TestPipe(Obstore, upstream.FsspecPipeTests):
    pass


class TestZarrStore(Obstore, upstream.ZarrStoreTests):
    pass


@pytest.mark.stateful
class TestZarrMachines(Obstore, upstream.ZarrMachineTests):
    pass

"""mem:// passes the suites of fsspec and zarr."""

import pytest
from places import Mem

from vfs.testing import upstream


class TestCopy(Mem, upstream.FsspecCopyTests):
    pass


class TestGet(Mem, upstream.FsspecGetTests):
    pass


class TestPut(Mem, upstream.FsspecPutTests):
    pass


class TestOpen(Mem, upstream.FsspecOpenTests):
    pass


class TestPipe(Mem, upstream.FsspecPipeTests):
    pass


class TestZarrStore(Mem, upstream.ZarrStoreTests):
    pass


@pytest.mark.stateful
class TestZarrMachines(Mem, upstream.ZarrMachineTests):
    pass

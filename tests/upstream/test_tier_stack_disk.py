"""Two directories over disk:// pass the suites of fsspec and zarr."""

import pytest
from places import TierStackOverDisk

from vfs.testing import upstream

# A directory alone runs them unmarked; what several add is in tests/tier/test_stack.py.
pytestmark = pytest.mark.slow


class TestCopy(TierStackOverDisk, upstream.FsspecCopyTests):
    pass


class TestGet(TierStackOverDisk, upstream.FsspecGetTests):
    pass


class TestPut(TierStackOverDisk, upstream.FsspecPutTests):
    pass


class TestOpen(TierStackOverDisk, upstream.FsspecOpenTests):
    pass


class TestPipe(TierStackOverDisk, upstream.FsspecPipeTests):
    pass


class TestZarrStore(TierStackOverDisk, upstream.ZarrStoreTests):
    pass


@pytest.mark.stateful
class TestZarrMachines(TierStackOverDisk, upstream.ZarrMachineTests):
    pass

"""A tier that writes back over mem:// passes the conformance kit."""

import pytest
from places import TierBackOverMem

from vfs.testing.conformance import FilesystemConformance

pytestmark = pytest.mark.slow


class TestConformance(TierBackOverMem, FilesystemConformance):
    pass

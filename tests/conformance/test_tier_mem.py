"""A tier over mem:// passes the conformance kit."""

import pytest
from places import TierOverMem

from vfs.testing.conformance import FilesystemConformance

pytestmark = pytest.mark.slow


class TestConformance(TierOverMem, FilesystemConformance):
    pass

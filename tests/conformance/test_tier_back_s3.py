"""A tier that writes back over S3 passes the conformance kit."""

from typing import ClassVar

import pytest
from places import TierBackOverS3

from vfs.testing.conformance import FilesystemConformance

pytestmark = pytest.mark.server

_FLAT = "as over S3 alone: a GET of a prefix is answered 404"


class TestConformance(TierBackOverS3, FilesystemConformance):
    deviations: ClassVar = {
        f"test_directory_where_an_object_is_meant[{call}]": _FLAT
        for call in ("cat_file", "cat_file range", "cat_file suffix", "cat_ranges", "cat")
    }

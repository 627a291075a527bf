"""A cache over S3 passes the conformance kit."""

from typing import ClassVar

import pytest
from places import CacheOverS3

from vfs.testing.conformance import FilesystemConformance

pytestmark = pytest.mark.server


_FLAT = (
    "a GET of a prefix is answered 404; to tell it from nothing would cost a LIST for each of the "
    "many keys that zarr asks for and that are absent"
)


class TestConformance(CacheOverS3, FilesystemConformance):
    deviations: ClassVar = {
        f"test_directory_where_an_object_is_meant[{call}]": _FLAT for call in ("cat_file", "cat")
    }

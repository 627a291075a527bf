"""obgs over fake-gcs-server passes the conformance kit."""

from typing import ClassVar

import pytest
from places import GCS

from vfs.testing.conformance import FilesystemConformance

pytestmark = pytest.mark.server


_FLAT = (
    "a GET of a prefix is answered 404; to tell it from nothing would cost a LIST for each of the "
    "many keys that zarr asks for and that are absent"
)


class TestConformance(GCS, FilesystemConformance):
    deviations: ClassVar = {
        f"test_directory_where_an_object_is_meant[{call}]": _FLAT
        for call in ("cat_file", "cat_file range", "cat_file suffix", "cat_ranges", "cat")
    } | {"test_sign": "only a service account's key can sign, and the server knows none"}

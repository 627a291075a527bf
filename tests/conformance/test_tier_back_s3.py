"""A tier that writes back over S3 passes the conformance kit."""

from collections.abc import Mapping
from typing import ClassVar

import pytest
from fsspec import AbstractFileSystem
from places import TierBackOverS3

from vfs.testing.conformance import FilesystemConformance

pytestmark = pytest.mark.server

_FLAT = "as over S3 alone: a GET of a prefix is answered 404"


class TestConformance(TierBackOverS3, FilesystemConformance):
    deviations: ClassVar = {
        f"test_directory_where_an_object_is_meant[{call}]": _FLAT
        for call in ("cat_file", "cat_file range", "cat_file suffix", "cat_ranges", "cat")
    }

    def put_raw(self, fs: AbstractFileSystem, path: str, data: bytes) -> None:
        # Until cold has the object below, the tier itself knows that there is a directory.
        fs.pipe_file(path, data)
        fs.flush()

    def fill(self, fs: AbstractFileSystem, root: str, tree: Mapping[str, bytes]) -> None:
        fs.pipe({f"{root}/{name}": data for name, data in tree.items()})
        fs.flush()

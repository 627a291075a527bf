"""disk:// passes the conformance kit."""

from places import Disk

from vfs.testing.conformance import FilesystemConformance


class TestConformance(Disk, FilesystemConformance):
    pass

"""A cache over disk:// passes the conformance kit."""

from places import CacheOverDisk

from vfs.testing.conformance import FilesystemConformance


class TestConformance(CacheOverDisk, FilesystemConformance):
    pass

"""A cache over mem:// passes the conformance kit."""

from places import CacheOverMem

from vfs.testing.conformance import FilesystemConformance


class TestConformance(CacheOverMem, FilesystemConformance):
    pass

"""A tier over disk:// passes the conformance kit."""

from places import TierOverDisk

from vfs.testing.conformance import FilesystemConformance


class TestConformance(TierOverDisk, FilesystemConformance):
    pass

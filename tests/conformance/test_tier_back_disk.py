"""A tier that writes back over disk:// passes the conformance kit."""

from places import TierBackOverDisk

from vfs.testing.conformance import FilesystemConformance


class TestConformance(TierBackOverDisk, FilesystemConformance):
    pass

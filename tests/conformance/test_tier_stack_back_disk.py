"""Three tiers that write back over disk:// pass the conformance kit."""

from places import TierStackBackOverDisk

from vfs.testing.conformance import FilesystemConformance


class TestConformance(TierStackBackOverDisk, FilesystemConformance):
    pass

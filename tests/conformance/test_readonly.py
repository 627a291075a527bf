"""readonly:: over disk:// reads as disk:// does."""

from places import ReadOnlyOverDisk

from vfs.testing.conformance import ReadConformance


class TestReads(ReadOnlyOverDisk, ReadConformance):
    pass

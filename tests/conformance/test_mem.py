"""mem:// passes the conformance kit."""

from places import Mem

from vfs.testing.conformance import FilesystemConformance


class TestConformance(Mem, FilesystemConformance):
    pass

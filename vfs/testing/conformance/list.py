"""What listing means: ls, find, walk, glob, du and the questions around them.

The expected answers come from a dict of names written here and from tables
written out by hand; no path function of the filesystems' own is used.
"""

from __future__ import annotations

import pytest
from fsspec import AbstractFileSystem

from vfs.testing.conformance.base import Conformance, needs, relative

__all__ = ["ListConformance"]

TREE = {
    "f": b"1",
    "d/a": b"22",
    "d/b": b"",
    "d/e/c": b"4444",
    "dd/x": b"55555",
    "x.y": b"666666",
}
DIRECTORIES = {"d": {"a", "b", "e"}, "d/e": {"c"}, "dd": {"x"}, "": {"f", "d", "dd", "x.y"}}
GLOBS = {
    "*": ["d", "dd", "f", "x.y"],
    "**": ["", "d", "d/a", "d/b", "d/e", "d/e/c", "dd", "dd/x", "f", "x.y"],
    "d/*": ["d/a", "d/b", "d/e"],
    "d/**": ["d", "d/a", "d/b", "d/e", "d/e/c"],
    "d/?": ["d/a", "d/b", "d/e"],
    "[dx]*": ["d", "dd", "x.y"],
    "d*/**/c": ["d/e/c"],
    "**/c": ["d/e/c"],
    "*/x": ["dd/x"],
    "d/[!a]": ["d/b", "d/e"],
    "*.y": ["x.y"],
    "**/[ac]": ["d/a", "d/e/c"],
    "nothing*": [],
    "f/*": [],
}
ODD_NAMES = [
    "a b",
    " lead",
    "trail ",
    "100%",
    "%41",
    "%2F",
    "st*r",
    "br[a]cket",
    "wh?y",
    "h#sh",
    "pl+s",
    "am&p=1",
    "tilde~",
    "back\\slash",
    "qu'ote\"s",
    "co:lon",
    "semi;colon",
    "...",
    ".hidden",
    ".tmp",
    ".vfs-tmp-",  # a name that is written is also listed, whatever staging files are called
    "ünï-日本-🎉",
    "\u00e9",  # é as one character (NFC)
    "e\u0301",  # é as two (NFD)
    "n" * 255,
    "ü" * 127,
]


class ListConformance(Conformance):
    """Listings of a tree of known names."""

    @pytest.fixture
    def tree(self, fs: AbstractFileSystem, root: str) -> str:
        """Write the tree, and return the root."""
        self.fill(fs, root, TREE)
        return root

    @needs("list")
    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    def test_ls(self, fs: AbstractFileSystem, tree: str, how: str) -> None:
        """The names directly below, each once, with type and size."""
        for directory, children in DIRECTORIES.items():
            path = f"{tree}/{directory}".rstrip("/")
            for spelled in (path, path + "/"):
                names = self.call(fs, how, "ls", spelled, detail=False)
                assert relative(fs, path, names) == sorted(children)
            infos = self.call(fs, how, "ls", path, detail=True)
            assert relative(fs, path, [info["name"] for info in infos]) == sorted(children)
            for info in infos:
                name = relative(fs, tree, [info["name"]])[0]
                expected = "file" if name in TREE else "directory"
                assert info["type"] == expected
                if expected == "file":
                    assert info["size"] == len(TREE[name])

    @needs("list")
    def test_ls_of_a_file_and_of_nothing(self, fs: AbstractFileSystem, tree: str) -> None:
        """A file lists itself; a missing path raises."""
        assert relative(fs, tree, fs.ls(f"{tree}/f", detail=False)) == ["f"]
        assert fs.ls(f"{tree}/f", detail=True)[0]["size"] == 1
        for missing in ("no", "d/no", "no/no"):
            with pytest.raises(FileNotFoundError):
                fs.ls(f"{tree}/{missing}")

    @needs("list")
    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    def test_find(self, fs: AbstractFileSystem, tree: str, how: str) -> None:
        """Every object below, whatever the depth, and nothing beside."""
        for prefix in ("", "d", "d/", "d/e", "dd", "f", "no"):
            got = self.call(fs, how, "find", f"{tree}/{prefix}")
            below = prefix.rstrip("/") + "/" if prefix else ""
            expected = [n for n in TREE if n.startswith(below) or n == prefix]
            assert relative(fs, tree, got) == sorted(expected), prefix
        detailed = self.call(fs, how, "find", tree, detail=True)
        assert {relative(fs, tree, [n])[0]: i["size"] for n, i in detailed.items()} == {
            name: len(data) for name, data in TREE.items()
        }

    @needs("list")
    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    def test_find_below_a_file(self, fs: AbstractFileSystem, tree: str, how: str) -> None:
        """With a slash behind its name a file has nothing below it."""
        assert list(self.call(fs, how, "find", f"{tree}/f/")) == []

    @needs("list")
    def test_find_with_directories_and_depth(self, fs: AbstractFileSystem, tree: str) -> None:
        """``withdirs`` adds the directories; ``maxdepth`` counts from the path."""
        got = relative(fs, tree, fs.find(tree, withdirs=True))
        assert sorted(set(got) - {""}) == sorted([*TREE, "d", "d/e", "dd"])
        assert relative(fs, tree, fs.find(tree, maxdepth=1)) == ["f", "x.y"]
        assert relative(fs, tree, fs.find(tree, maxdepth=2)) == [
            "d/a",
            "d/b",
            "dd/x",
            "f",
            "x.y",
        ]

    @needs("list")
    def test_walk(self, fs: AbstractFileSystem, tree: str) -> None:
        """Each directory once, with its directories and its files."""
        seen = {}
        for path, directories, files in fs.walk(tree):
            (name,) = relative(fs, tree, [path])
            assert name not in seen
            seen[name] = (set(directories), set(files))
        assert seen == {
            "": ({"d", "dd"}, {"f", "x.y"}),
            "d": ({"e"}, {"a", "b"}),
            "d/e": (set(), {"c"}),
            "dd": (set(), {"x"}),
        }
        upwards = [relative(fs, tree, [p])[0] for p, _, _ in fs.walk(tree, topdown=False)]
        assert upwards.index("d/e") < upwards.index("d") < upwards.index("")
        assert [len(list(fs.walk(tree, maxdepth=depth))) for depth in (1, 2)] == [1, 3]
        for _, directories, files in fs.walk(f"{tree}/no"):  # fsspec yields it, or does not
            assert (list(directories), list(files)) == ([], [])

    @needs("list")
    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    @pytest.mark.parametrize("wanted", GLOBS)
    def test_glob(self, fs: AbstractFileSystem, tree: str, how: str, wanted: str) -> None:
        """Patterns match as they do on local files."""
        got = self.call(fs, how, "glob", f"{tree}/{wanted}")
        assert relative(fs, tree, got) == GLOBS[wanted]

    @needs("list")
    def test_du(self, fs: AbstractFileSystem, tree: str) -> None:
        """Sizes add up, in all and by object."""
        assert fs.du(tree) == sum(map(len, TREE.values()))
        assert fs.du(f"{tree}/d") == 6
        assert fs.du(f"{tree}/f") == 1
        by_name = {relative(fs, tree, [n])[0]: size for n, size in fs.du(tree, total=False).items()}
        assert by_name == {name: len(data) for name, data in TREE.items()}

    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    def test_questions(self, fs: AbstractFileSystem, tree: str, how: str) -> None:
        """``exists``, ``isfile``, ``isdir`` and ``info`` agree."""
        for name, data in TREE.items():
            answers = [self.call(fs, how, q, f"{tree}/{name}") for q in ("exists", "isfile")]
            assert answers == [True, True]
            assert not self.call(fs, how, "isdir", f"{tree}/{name}")
            info = self.call(fs, how, "info", f"{tree}/{name}")
            assert (info["type"], info["size"]) == ("file", len(data))
            assert relative(fs, tree, [info["name"]]) == [name]
        for name in ("d", "d/e", "dd"):
            assert self.call(fs, how, "exists", f"{tree}/{name}")
            assert self.call(fs, how, "isdir", f"{tree}/{name}")
            assert not self.call(fs, how, "isfile", f"{tree}/{name}")
            assert self.call(fs, how, "info", f"{tree}/{name}")["type"] == "directory"
        for name in ("no", "d/no", "x", "d/e/c/no", "ddd"):
            for question in ("exists", "isfile", "isdir"):
                assert not self.call(fs, how, question, f"{tree}/{name}"), (question, name)

    @needs("list", "write", "delete")
    def test_listing_follows_writes(self, fs: AbstractFileSystem, root: str) -> None:
        """A change made through the filesystem is in its next listing."""
        fs.pipe_file(f"{root}/d/a", b"1")
        assert relative(fs, root, fs.ls(f"{root}/d", detail=False)) == ["d/a"]
        fs.pipe_file(f"{root}/d/b", b"1")
        assert relative(fs, root, fs.ls(f"{root}/d", detail=False)) == ["d/a", "d/b"]
        with fs.open(f"{root}/d/c", "wb") as f:
            f.write(b"33")
        assert relative(fs, root, fs.find(root)) == ["d/a", "d/b", "d/c"]
        fs.pipe_file(f"{root}/d/c", b"4444")
        assert {i["size"] for i in fs.ls(f"{root}/d", detail=True)} == {1, 4}
        fs.rm_file(f"{root}/d/b")
        assert relative(fs, root, fs.ls(f"{root}/d", detail=False)) == ["d/a", "d/c"]
        fs.rm(f"{root}/d", recursive=True)
        assert relative(fs, root, fs.find(root)) == []
        assert not fs.exists(f"{root}/d")

    @needs("write", "odd_names")
    @pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
    def test_odd_names(self, fs: AbstractFileSystem, root: str, name: str) -> None:
        """A name is a name, in every place of the path, and comes back as it was."""
        paths = [f"{root}/{name}/leaf", f"{root}/dir/{name}"]
        for path in paths:
            fs.pipe_file(path, name.encode())
            assert fs.cat_file(path) == name.encode()
            assert fs.info(path)["size"] == len(name.encode())
            assert fs.isfile(path)
            with fs.open(path, "rb") as f:
                assert f.read() == name.encode()
        if "list" in self.capabilities:
            expected = sorted([f"{name}/leaf", f"dir/{name}"])
            prefix = fs._strip_protocol(root).rstrip("/") + "/"
            assert sorted(n.removeprefix(prefix) for n in fs.find(root)) == expected
            (entry,) = fs.ls(f"{root}/dir", detail=False)
            assert entry == f"{prefix}dir/{name}"
        if "delete" in self.capabilities:
            for path in paths:
                fs.rm_file(path)
                assert not fs.exists(path)

    @needs("write", "odd_names")
    def test_names_that_look_alike(self, fs: AbstractFileSystem, root: str) -> None:
        """Composed and decomposed, upper and lower case, escaped or not: all distinct."""
        names = ["\u00e9", "e\u0301", "A", "a", "%41", "a ", " a"]
        for name in names:
            fs.pipe_file(f"{root}/{name}", name.encode())
        for name in names:
            assert fs.cat_file(f"{root}/{name}") == name.encode()

    @needs("write", "list")
    def test_mkdir_is_harmless(self, fs: AbstractFileSystem, root: str) -> None:
        """Directories may be made, or not, before writing; making one deletes nothing."""
        fs.makedirs(f"{root}/made/deep", exist_ok=True)
        fs.makedirs(f"{root}/made/deep", exist_ok=True)
        fs.pipe_file(f"{root}/made/deep/a", b"1")
        fs.makedirs(f"{root}/made", exist_ok=True)
        fs.mkdir(f"{root}/single")
        fs.pipe_file(f"{root}/single/b", b"2")
        assert fs.cat_file(f"{root}/made/deep/a") == b"1"
        assert relative(fs, root, fs.find(root)) == ["made/deep/a", "single/b"]

    @needs("write", "list", "empty_directories", "delete")
    def test_empty_directories(self, fs: AbstractFileSystem, root: str) -> None:
        """An empty directory is there until it is removed."""
        fs.makedirs(f"{root}/empty/below")
        assert fs.isdir(f"{root}/empty/below")
        assert fs.find(f"{root}/empty") == []
        assert relative(fs, root, fs.ls(f"{root}/empty", detail=False)) == ["empty/below"]
        with pytest.raises(FileExistsError):
            fs.makedirs(f"{root}/empty/below", exist_ok=False)
        with pytest.raises(OSError):  # noqa: PT011 - not empty
            fs.rmdir(f"{root}/empty")
        fs.rmdir(f"{root}/empty/below")
        assert not fs.exists(f"{root}/empty/below")

    @needs("list")
    def test_many_names(self, fs: AbstractFileSystem, root: str) -> None:
        """A directory of more than a page (S3: 1000) is listed whole, each name once."""
        names = [f"{i:04}" for i in range(1100)]
        self.fill(fs, root, {f"many/{name}": b"" for name in names})
        assert relative(fs, f"{root}/many", fs.ls(f"{root}/many", detail=False)) == names
        assert relative(fs, f"{root}/many", fs.find(root)) == names

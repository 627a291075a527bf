"""A filesystem as a dict: the oracle the state machine compares with.

Nothing here calls, or shares a function with, what it judges.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Model"]


class Model:
    """Objects by name; directories are what the names imply.

    Names are relative to the root under test, without leading or trailing
    slash. Errors are the builtin ones; only their type counts.

    Attributes
    ----------
    objects : dict[str, bytes]
        What is stored now.
    left : set[str]
        Directories that may still be there, empty, where objects have been.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.left: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether there is an object of that name."""
        return name in self.objects

    # -- what a name can be ----------------------------------------------------

    def is_directory(self, name: str) -> bool:
        """Whether some object's name goes on below ``name``."""
        return name == "" or any(key.startswith(f"{name}/") for key in self.objects)

    def may_be_directory(self, name: str) -> bool:
        """Whether a hierarchical filesystem can know it as a directory, empty or not."""
        return name in self.left or self.is_directory(name)

    def blocked(self, name: str) -> bool:
        """Whether a hierarchical filesystem could not hold an object of that name."""
        return self.may_be_directory(name) or any(
            parent in self.objects for parent in _parents(name)
        )

    # -- reads -----------------------------------------------------------------

    def get(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes of an object, sliced as Python slices."""
        if name not in self.objects:
            raise FileNotFoundError(2, "not in the model", name)
        return self.objects[name][start:end]

    def find(self, prefix: str = "") -> dict[str, int]:
        """Sizes of the objects at and below ``prefix``."""
        return {
            name: len(data)
            for name, data in self.objects.items()
            if prefix in ("", name) or name.startswith(f"{prefix}/")
        }

    def children(self, directory: str) -> dict[str, str]:
        """Names directly below a directory, and what each is.

        A name that is both, which flat namespaces allow, is a file here.
        """
        below: dict[str, str] = {}
        for name in self._below(directory):
            child, slash, _ = name.partition("/")
            if below.get(child) != "file":
                below[child] = "directory" if slash else "file"
        return below

    def _below(self, directory: str) -> Iterator[str]:
        lead = f"{directory}/" if directory else ""
        return (key[len(lead) :] for key in self.objects if key.startswith(lead))

    # -- writes ----------------------------------------------------------------

    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object."""
        self.objects[name] = data
        self.left.update(_parents(name))

    def put_create(self, name: str, data: bytes) -> None:
        """Write an object that must not be there."""
        if name in self.objects:
            raise FileExistsError(17, "in the model already", name)
        self.put(name, data)

    def append(self, name: str, data: bytes) -> None:
        """Add to an object, or create it."""
        self.put(name, self.objects.get(name, b"") + data)

    def copy(self, source: str, target: str) -> None:
        """Copy an object."""
        self.put(target, self.get(source))

    def move(self, source: str, target: str) -> None:
        """Rename an object; onto itself it stays."""
        data = self.get(source)
        del self.objects[source]
        self.put(target, data)

    def remove(self, name: str) -> None:
        """Delete an object."""
        self.get(name)
        del self.objects[name]

    def remove_tree(self, prefix: str) -> None:
        """Delete what is at and below ``prefix``; nothing there is no error."""
        for name in self.find(prefix):
            del self.objects[name]
        self.left = {d for d in self.left if d != prefix and not d.startswith(f"{prefix}/")}


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]

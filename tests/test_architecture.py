"""The shape of the source: what `lint-imports` checks, and what it cannot see."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "vfs").rglob("*.py"))

MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60  # the docstring not counted

NAMES_THAT_SAY_NOTHING = {"common", "helper", "helpers", "manager", "managers", "util", "utils"}

# Modules that only decide: state in, actions out.
PURE = ("vfs.policies", "vfs.policies.*", "vfs.*.state")
PURE_MAY_IMPORT = (*PURE, "vfs.*.state.*", "vfs.types", "vfs.types.*", "vfs.errors", "vfs.errors.*")
IMPURE = {
    *("asyncio", "concurrent", "fsspec", "io", "multiprocessing", "os", "pathlib", "random"),
    *("secrets", "shutil", "socket", "sqlite3", "subprocess", "tempfile", "threading", "time"),
    "uuid",
}
IMPURE_CALLS = {"open", "print", "input"}

# Extras and heavy imports: inside functions only, so that importing vfs stays cheap.
HEAVY = {
    *("aiohttp", "dask", "h5netcdf", "h5py", "moto", "netCDF4", "numpy", "obstore", "pandas"),
    *("pyarrow", "s3fs", "scipy", "tifffile", "xarray", "zarr"),
}
MAY_BE_HEAVY = (
    *("vfs.cli.demo", "vfs.cli.demo.*", "vfs.testing", "vfs.testing.*"),
    # Loaded by its entry points only.
    *("vfs.backends.obstore", "vfs.backends.obstore.*"),
)

# INVARIANT comments name their guard: `# INVARIANT: <text> (tests/path.py::test_name)`.
GUARD = re.compile(r"\(([\w./-]+\.py)((?:::\w+)+)\)")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def statements(node: ast.AST, *, functions: bool) -> Iterator[ast.AST]:
    """Yield every node that runs: with those in functions, or only those that run on import."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        yield child
        in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if functions or not in_function:
            yield from statements(child, functions=functions)


def imports(path: Path, *, functions: bool) -> Iterator[tuple[int, str]]:
    """Yield line and full dotted name of everything imported."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in statements(tree(path), functions=functions):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_there_is_something_to_check() -> None:
    assert SOURCES


def test_import_contracts() -> None:
    pytest.importorskip("importlinter", reason="import-linter is in the extra 'test'")
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as main; main()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_modules_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not [
        f"{where(path, 1)} has {length} lines"
        for path, length in lengths.items()
        if length > MAX_MODULE_LINES
    ]


def test_functions_are_short() -> None:
    too_long = []
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node, clean=False) is not None:
                docstring = node.body[0]
                length -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
            if length > MAX_FUNCTION_LINES:
                too_long.append(f"{where(path, node.lineno)} {node.name} has {length} lines")
    assert not too_long


def test_names_say_what_lives_there() -> None:
    assert not [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if NAMES_THAT_SAY_NOTHING & set(path.relative_to(ROOT).with_suffix("").parts)
    ]


def test_every_module_has_a_docstring() -> None:
    assert not [
        str(path.relative_to(ROOT)) for path in SOURCES if not ast.get_docstring(tree(path))
    ]


def test_decisions_are_pure() -> None:
    impure = []
    for path in SOURCES:
        if not matches(module_name(path), PURE):
            continue
        for line, name in imports(path, functions=True):
            package = name.split(".")[0]
            allowed = matches(name, PURE_MAY_IMPORT)
            if package in IMPURE or (package == "vfs" and not allowed):
                impure.append(f"{where(path, line)} imports {name}")
        impure += [
            f"{where(path, node.lineno)} calls {node.func.id}"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in IMPURE_CALLS
        ]
    assert not impure


def test_extras_are_imported_inside_functions_only() -> None:
    assert not [
        f"{where(path, line)} imports {name}"
        for path in SOURCES
        if not matches(module_name(path), MAY_BE_HEAVY)
        for line, name in imports(path, functions=False)
        if name.split(".")[0] in HEAVY
    ]


def test_nothing_but_tests_imports_the_kit() -> None:
    assert not [
        f"{where(path, line)} imports {name}"
        for path in SOURCES
        if not matches(module_name(path), ("vfs.testing", "vfs.testing.*"))
        for line, name in imports(path, functions=True)
        # `vfs demo --s3` starts the same real server that the tests do.
        if name.startswith("vfs.testing")
        and (module_name(path), name) != ("vfs.cli.demo_place", "vfs.testing.servers.s3_server")
    ]


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every comment, those on adjoining lines joined to one."""
    start, last, text = 0, -1, ""
    reader = io.StringIO(path.read_text(encoding="utf-8")).readline
    for token in tokenize.generate_tokens(reader):
        if token.type != tokenize.COMMENT:
            continue
        line, body = token.start[0], token.string.lstrip("# ")
        if line == last + 1 and not body.startswith("INVARIANT:"):
            text += " " + body
        else:
            if text:
                yield start, text
            start, text = line, body
        last = line
    if text:
        yield start, text


def defines(path: Path, names: list[str]) -> bool:
    """Tell whether the file has the function or class ``names[-1]`` inside ``names[:-1]``."""
    scope: ast.AST = tree(path)
    for name in names:
        for node in ast.iter_child_nodes(scope):
            if (
                isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and node.name == name
            ):
                scope = node
                break
        else:
            return False
    return True


def test_invariants_name_the_test_that_guards_them() -> None:
    unguarded = []
    for path in SOURCES:
        for line, text in comments(path):
            if not text.startswith("INVARIANT:"):
                continue
            guards = GUARD.findall(text)
            if not guards:
                unguarded.append(f"{where(path, line)} names no test (tests/path.py::test_name)")
            for file, names in guards:
                guard = ROOT / file
                if not guard.is_file() or not defines(guard, names.split("::")[1:]):
                    unguarded.append(f"{where(path, line)} names {file}{names}, which is not there")
    assert not unguarded

"""How the documentation is built: every code cell runs, and every warning is an error.

`tox -e docs` runs ``sphinx-build -W``. A page whose cells shall run starts with MyST-NB's header
(``file_format: mystnb`` and ``kernelspec``) and writes them as ``{code-cell}``. Code that shall
not run says so by being a ``{code-block}``; a plain fence of Python is an error, because nobody
would notice when it stops working.
"""

import re
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "vfs"
author = "The vfs developers"
copyright = f"2026, {author}"
release = installed_version("fsspec-vfs")
version = release

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_click",
]
exclude_patterns = ["_build", "Thumbs.db", ".DS_Store", "**.ipynb_checkpoints"]
root_doc = "index"

# Pages run on every build and stop it when they fail. Nothing is fetched from the network.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_in_temp = True
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's sections say it
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "pydata_sphinx_theme"
html_title = f"vfs {release}"
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
}
html_show_sourcelink = False

PLAIN_PYTHON = re.compile(r"^\s*(`{3,}|~{3,})\s*(py|python3?|pycon|ipython3?)\s*$", re.MULTILINE)


def refuse_code_that_does_not_run(_app: "Sphinx", docname: str, source: list[str]) -> None:
    """Warn, and so fail, about a fence of Python that neither runs nor says that it does not."""
    for match in PLAIN_PYTHON.finditer(source[0]):
        line = source[0].count("\n", 0, match.start()) + 1
        logging.getLogger(__name__).warning(
            "this Python does not run: make it a {code-cell}, or a {code-block} if it cannot",
            location=(docname, line),
        )


def setup(app: "Sphinx") -> None:
    """Connect the check of plain fences."""
    app.connect("source-read", refuse_code_that_does_not_run)

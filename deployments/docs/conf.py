"""The site: what Sphinx needs to know. `sphinx-build -W deployments/docs SITE` builds it, and needs no network."""

import atexit
import os
import re
import shutil
import sys
import tempfile
from importlib.metadata import version as version_of
from importlib.resources import files
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from pages import GENERATED  # noqa: E402 - beside this file

project = "levelmatch"
author = "the levelmatch developers"
copyright = author  # noqa: A001 - Sphinx's name
release = version = version_of("levelmatch")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc", "myst_nb"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
highlight_language = "none"  # blocks without a language are terminals and sketches
smartquotes = False  # quotes belong to values
suppress_warnings = ["config.cache"]  # GENERATED holds functions

# -- pages: Markdown, of which those with code are notebooks that are executed here ------------------------------------
myst_enable_extensions = ["dollarmath", "deflist", "attrs_inline"]
myst_fence_as_directive = ["math"]  # ```math, as other readers of Markdown know it
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 240
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_output_stderr = "remove-warn"  # a page whose code warns is not built

# -- reference ---------------------------------------------------------------------------------------------------------
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's sections have the types
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# -- looks -------------------------------------------------------------------------------------------------------------
html_theme = "furo"
html_title = "levelmatch"
html_static_path = ["static", str(files("sphinx-mathjax-offline") / "static")]
mathjax_path = "mathjax/tex-chtml.js"  # from that package: no network
html_css_files = ["levelmatch.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "tango"
pygments_dark_style = "monokai"

# -- what the notebooks find -------------------------------------------------------------------------------------------
# the commands of this environment, a home of their own, and a terminal of fixed width
_HOME = tempfile.mkdtemp(prefix="levelmatch-docs-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
os.environ.setdefault("LEVELMATCH_HOME", str(Path(_HOME, "home")))
os.environ["COLUMNS"] = "100"
# a profile of the build's own, with what startup.py does
_PROFILE = Path(_HOME, "ipython", "profile_default", "startup")
_PROFILE.mkdir(parents=True)
shutil.copy(HERE / "startup.py", _PROFILE)
# kernels listen on the loopback only, and need not warn of it
_PROFILE.with_name("ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 40\n", encoding="utf-8")
os.environ["IPYTHONDIR"] = str(Path(_HOME, "ipython"))
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else the kernel's debugger warns on stderr
_SCRATCH = re.compile(re.escape(str(Path(tempfile.gettempdir(), "tmp"))) + r"\w+/")


def _fill(app: Sphinx, name: str, source: list[str]) -> None:
    """Put what is generated from the code into the page that asks for it."""
    del app, name
    for mark, write in GENERATED.items():
        if mark in source[0]:
            source[0] = source[0].replace(mark, write())


def _plain(text: str) -> str:
    """Return what a command printed with paths as a reader would have them, not where this build ran."""
    return _SCRATCH.sub("", text).replace(os.environ["LEVELMATCH_HOME"], "~/.levelmatch")


def _without_scratch(app: Sphinx, tree: nodes.document) -> None:
    """Take the paths of this build out of a page."""
    del app
    for block in tree.findall(nodes.literal_block):
        text = _plain(block.astext())
        if text != block.astext():
            block.children = [nodes.Text(text)]
            block.rawsource = text


def _notebooks_without_scratch(app: Sphinx, error: Exception | None) -> None:
    """Take the paths of this build out of the notebooks that readers download."""
    del error
    for notebook in app.outdir.glob("_downloads/*/*.ipynb"):
        notebook.write_text(_plain(notebook.read_text(encoding="utf-8")), encoding="utf-8")


def _links_between_guides(app: Sphinx, tree: nodes.document) -> None:
    """Lead from one of the operators' guides to another, which are pages here: from SERVICES.md to services."""
    del app
    for link in tree.findall(pending_xref):
        name, _, heading = link["reftarget"].partition("#")
        if name in {"SERVICES.md", "MACHINES.md"}:
            page = Path(name).stem.lower()
            link.attributes |= {"refdomain": "doc", "reftarget": page, "reftargetid": heading or None}


def setup(app: Sphinx) -> None:
    """Add the changes above to the build."""
    app.connect("source-read", _fill)
    app.connect("doctree-read", _without_scratch)
    app.connect("doctree-read", _links_between_guides)
    app.connect("build-finished", _notebooks_without_scratch)

"""The way of the arrows: who may import whom, read from the syntax trees and not from what happens to be loaded."""

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

ORDER = ("flows", "pipeline", "products", "matching", "sky", "images", "settings", "errors")
"""From the top down; a room imports from rooms that come later."""

PLACES = {
    # modules that lie beside the rooms
    "fields": "pipeline",
    "jobs": "pipeline",
    "library": "pipeline",
    "match_result": "pipeline",
    "nddata": "pipeline",
    "notebook": "pipeline",
    "notebook_bar": "pipeline",
    "jwst_step": "pipeline",
    "plan": "pipeline",
    "pjpipe_step": "pipeline",
    "runners": "pipeline",
    "warm_up": "pipeline",
    "workers": "pipeline",
    "simulate": "pipeline",
    "files": "errors",
    "process": "errors",
    "text": "errors",
    "field_contents": "pipeline",
    "records": "errors",
    "instrument_tables": "errors",
    "presets": "errors",
    "__init__": "pipeline",
}


def modules():
    return [
        path
        for folder in ("levelmatch_core", "flows")
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
        if "__pycache__" not in path.parts
    ]


def name_of(path):
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)


def imports_of(path):
    """Return the full names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(module):
    parts = module.split(".")
    if parts[0] == "flows":
        return "flows"
    room = parts[1] if len(parts) > 1 else "__init__"
    return PLACES.get(room, room)


INNER = {
    # within a room, from the top down: files by name, folders with all that they hold
    "levelmatch_core.matching": (
        {"match", "pair_matrices", "model_selection", "alternatives", "stages", "corrections", "reference_history"},
        {"status", "gauge", "loop_closure", "rejection"},
        {"solvers"},
        {"uncertainty"},
        {"linear"},
        {"model"},
        {"measure", "graph", "pairs", "graph_kernels", "results"},
    ),
    "flows": (
        {"cli"},
        {"commands"},
        {"demo", "launch", "nothing_new", "recording", "sweep", "level_match", "without_prefect"},
        {"orchestration"},
        {"alerting", "retention"},
        {"tracking"},
        {
            "summary",
            "home",
            "combinations",
            "found_here",
            "interruption",
            "progress",
            "secrets",
            "garbage_collection",
            "new_databases",
            "settings_help",
        },
    ),
}
"""The order of what lies in a room; a file imports from its own row and from rows below."""

EXCEPTIONS = {
    # the errors of a whole field are propagated through its stages, which are data
    ("levelmatch_core.matching.uncertainty.field", "levelmatch_core.matching.stages"),
    ("levelmatch_core.matching.uncertainty.field", "levelmatch_core.matching.corrections"),
}


@cache
def imported_modules():
    """Return the modules that each module imports, both by their full names: a submodule in place of its package."""
    names = {name_of(path).removesuffix(".__init__"): path for path in modules()}
    graph = {}
    for name, path in names.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {each if each in names else node.module for each in whole}
        graph[name] = (found & names.keys()) - {name}
    return graph


def inner_place(module, room):
    part = module.removeprefix(f"{room}.").split(".")[0]
    return next((number for number, row in enumerate(INNER[room]) if part in row), None)


@pytest.mark.parametrize("room", INNER)
def test_the_order_within_a_room_is_kept(room):
    for module, imported in imported_modules().items():
        if not module.startswith(f"{room}."):
            continue
        own = inner_place(module, room)
        assert own is not None, f"{module} has no place in the order of {room}"
        for other in imported:
            if other.startswith(f"{room}.") and (module, other) not in EXCEPTIONS:
                assert inner_place(other, room) >= own, f"{module} imports {other}"


def test_no_circle_of_files():
    graph = imported_modules()
    done, path = set(), []

    def walk(module):
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module in done:
            return
        path.append(module)
        for other in sorted(graph[module]):
            walk(other)
        path.pop()
        done.add(module)

    for module in graph:
        walk(module)


def test_what_writes_the_bytes_of_fits_reaches_nothing_of_matching():
    graph, reached, waiting = imported_modules(), set(), {"levelmatch_core.images.fits_cards"}
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting |= graph[module] - reached
    assert not {module for module in reached if room_of(module) in {"matching", "products", "sky"}}


def test_folders_and_modules_stay_small():
    """A folder of code holds 18 files at most, a module 450 lines."""
    folders = Counter(path.parent for path in modules())
    assert {folder: count for folder, count in folders.items() if count > 18} == {}
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert {name: length for name, length in lengths.items() if length > 450} == {}


def test_every_module_has_its_room():
    assert {room_of(name_of(path)) for path in modules()} <= set(ORDER)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_arrow_leads_back(path):
    own = ORDER.index(room_of(name_of(path)))
    for imported in imports_of(path):
        if imported.split(".")[0] in {"flows", "levelmatch_core"} and room_of(imported) in ORDER:
            assert ORDER.index(room_of(imported)) >= own, f"{name_of(path)} imports {imported}"


ONE_PLACE = {
    # what only one module does, by the names that it uses, and the modules that may use them
    "renames and synchronises files": (
        {"os.replace", "os.rename", "os.fsync", "shutil.move", ".rename", "tempfile.NamedTemporaryFile"},
        {"levelmatch_core.files.writing"},
    ),
    "locks files": ({"fcntl.flock", "fcntl.lockf", "fcntl"}, {"levelmatch_core.files.locks"}),
    "knows the errors of a full disk": ({"errno.ENOSPC", "errno.EDQUOT"}, {"levelmatch_core.files.writing"}),
    "defines filters and handlers of log lines": (
        {"class logging.Filter", "class logging.Handler", "class logging.StreamHandler"},
        {"levelmatch_core.process.log_context", "flows.orchestration.log_lines"},
    ),
}


def done_in(tree):
    """Yield the calls, names and imports of a syntax tree by which a module does something itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ClassDef):
            yield from (f"class {ast.unparse(base)}" for base in node.bases)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)
            yield f".{node.attr}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".replace"):
            # str.replace has two arguments or more, that of dates has names, Path.replace has one
            yield from [".rename"] if len(node.args) == 1 and not node.keywords else []


@pytest.mark.parametrize("what", ONE_PLACE)
def test_one_module_each_writes_files_locks_them_and_filters_log_lines(what):
    names, allowed = ONE_PLACE[what]
    found = {name_of(path) for path in modules() if names & set(done_in(ast.parse(path.read_text(encoding="utf-8"))))}
    assert found == allowed


def test_what_a_module_does_itself_is_seen():
    text = "import fcntl, os\nfrom os import fsync\np.replace(q)\ns.replace('a', 'b')\nclass A(logging.Filter): ..."
    found = set(done_in(ast.parse(text)))
    assert {"fcntl", "os.fsync", ".rename", "class logging.Filter"} <= found
    assert ".rename" not in set(done_in(ast.parse("s.replace('a', 'b'); t.replace(tzinfo=None); replace(a)")))


TWICE = {
    "LevelMatchStep": "pjpipe's step, and the step of JWST's pipeline",
    "main": "what a process starts with",
    "solve": "one call for all solvers",
    "run": "the command, and what it calls",
    **dict.fromkeys(
        ["explain", "prune", "simulate", "sweep", "undo", "verify", "warm_up"], "the command, and what it calls"
    ),
}
"""Public names that two modules define, and why."""


def test_one_name_has_one_meaning():
    defined = Counter(
        node.name
        for path in modules()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name for name, count in defined.items() if count > 1} == set(TWICE)


@pytest.mark.parametrize("path", [path for path in modules() if "levelmatch_core" in path.parts], ids=name_of)
def test_the_core_knows_neither_engine_nor_tracking(path):
    top = {imported.split(".")[0] for imported in imports_of(path)}
    assert not top & {"prefect", "mlflow", "flows", "click", "rich"}


def test_a_run_without_changes_imports_nothing_that_only_drawing_and_fitting_need():
    program = (
        "import sys, levelmatch_core.pipeline, levelmatch_core.products.report.images\n"
        "print(*({'matplotlib.figure', 'matplotlib.axes', 'scipy.interpolate', 'scipy.optimize'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == ""


IMPORT_FIRST = """
import importlib, os, sys
import astropy.io.fits, astropy.table, astropy.wcs, matplotlib.figure, numba, pydantic, reproject, scipy.sparse, shapely
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(f"{name}: {error!r}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_every_module_of_products_can_be_the_first_that_is_imported():
    """A package whose own file imports what imports the package works or fails by who comes first.

    Those of products are imported late, and in any order.
    """
    names = [name_of(path).removesuffix(".__init__") for path in modules() if "products" in path.parts]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_FIRST, *names],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    assert done.stdout == ""

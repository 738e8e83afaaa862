"""The way of the arrows: who may import whom, read from the syntax trees and not from what happens to be loaded."""

import ast
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
    "nddata": "pipeline",
    "plan": "pipeline",
    "pjpipe_step": "pipeline",
    "runners": "pipeline",
    "workers": "pipeline",
    "simulate": "pipeline",
    "disk_full": "errors",
    "log_context": "errors",
    "malloc_trim": "errors",
    "records": "errors",
    "thread_budget": "errors",
    "instrument_tables": "errors",
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


def test_every_module_has_its_room():
    assert {room_of(name_of(path)) for path in modules()} <= set(ORDER)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_arrow_leads_back(path):
    own = ORDER.index(room_of(name_of(path)))
    for imported in imports_of(path):
        if imported.split(".")[0] in {"flows", "levelmatch_core"} and room_of(imported) in ORDER:
            assert ORDER.index(room_of(imported)) >= own, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("path", [path for path in modules() if "levelmatch_core" in path.parts], ids=name_of)
def test_the_core_knows_neither_engine_nor_tracking(path):
    top = {imported.split(".")[0] for imported in imports_of(path)}
    assert not top & {"prefect", "mlflow", "flows", "click", "rich"}

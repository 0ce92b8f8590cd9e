"""Which part of the package may import which: every arrow that there is, and no other.

A component is a folder or a module of the package's top. An import counts wherever it stands: absolute or relative, in
a function, under `if TYPE_CHECKING`, by `import_module` with a name. Whoever needs a new arrow adds it to the table.
"""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = "rldk_tracking"
PACKAGE = Path(__file__).resolve().parents[1] / ROOT

MAY_IMPORT: dict[str, set[str]] = {
    "__main__": {"cli"},
    "cli": {
        *{"__init__", "charts", "checkpoint", "demo", "health", "history", "journal", "trackers", "metrics"},
        *{"courier", "messages", "report_to"},
    },
    "courier": {"journal"},
    "demo": {"callback", "charts"},
    # Its names are imported when they are first used.
    "__init__": {
        *{"report_to", "callback", "monitors", "history", "trackers", "health", "rollout", "isolation"},
        *{"messages"},
    },
    "report_to": {"callback", "monitors", "messages"},
    # The stacks import them.
    "integrations": {
        *{"callback", "monitors", "run", "probes", "journal", "trackers", "sources", "metrics", "rollout"},
    },
    "callback": {"monitors", "run", "probes", "journal", "trackers", "health", "messages"},
    "monitors": {
        *{"run", "probes", "journal", "trackers", "sources", "health", "checkpoint", "rollout"},
        *{"isolation", "messages"},
    },
    "run": {"probes", "ranks", "journal", "trackers", "sources", "health", "metrics", "rollout", "isolation"},
    "probes": {"ranks", "charts", "sources", "metrics", "checkpoint", "rollout", "isolation", "messages"},
    "ranks": {"metrics"},
    "history": {"messages", "journal", "trackers", "charts", "sources", "health", "metrics", "rollout"},
    "journal": {"trackers", "charts", "sources", "health", "rollout", "isolation", "messages"},
    "trackers": {"charts", "health", "rollout", "messages"},
    "charts": {"health", "metrics", "rollout", "messages"},
    "sources": {"metrics", "rollout", "isolation"},
    "health": {"metrics", "isolation", "messages"},
    "checkpoint": {"metrics", "messages"},
    "metrics": {"rollout"},
    "rollout": set(),
    "messages": {"isolation"},
    "isolation": set(),
}
"""Component to those that it may import, from the top of the package to its ground."""

Modules = Mapping[str, str]
"""Dotted name to source."""


def modules() -> dict[str, str]:
    """The package as it is."""
    return {_name(path): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def _name(path: Path) -> str:
    return ".".join((ROOT, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def component(module: str) -> str:
    """The folder or module of the top that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(name: str, known: Modules) -> Iterator[str]:
    """The modules of the package that one imports, for types too."""
    is_package = any(other.startswith(f"{name}.") for other in known)
    for node in _statements(known[name]):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
            source = ".".join([*parents, *filter(None, [node.module])])
            # A name is a module of a package, or something that the module defines.
            found = [f"{source}.{alias.name}" if f"{source}.{alias.name}" in known else source for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        else:
            continue
        yield from (module for module in found if module.split(".")[0] == ROOT and module != name)


@functools.cache
def _statements(source: str) -> list[ast.AST]:
    kinds = (ast.Import, ast.ImportFrom, ast.Call)
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]


def arrows(known: Modules) -> dict[str, set[str]]:
    """Each "component > component" to the modules that import across."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in known:
        for target in imports(name, known):
            if component(target) != component(name):
                found[f"{component(name)} > {component(target)}"].add(f"{name} imports {target}")
    return dict(found)


def offenders(known: Modules) -> dict[str, set[str]]:
    """What the table does not allow: components that it does not have, and arrows."""
    unknown = {component(name) for name in known} - set(MAY_IMPORT)
    allowed = {f"{upper} > {lower}" for upper, lowers in MAY_IMPORT.items() for lower in lowers}
    found = {name: {f"{name} is in no line of the table"} for name in unknown}
    for arrow, where in arrows(known).items():
        if arrow not in allowed and not unknown & set(arrow.split(" > ")):
            found[arrow] = where
    return found


def cycle(known: Modules) -> list[str]:
    """Modules that name each other, for types too, the first again at the end; empty where there are none."""
    graph = {name: {target for target in imports(name, known) if target in known} for name in known}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_component_imports_what_the_table_does_not_allow() -> None:
    assert offenders(modules()) == {}


def test_every_arrow_of_the_table_is_needed() -> None:
    known = modules()
    allowed = {f"{upper} > {lower}" for upper, lowers in MAY_IMPORT.items() for lower in lowers}
    assert allowed - set(arrows(known)) == set()


def test_the_table_points_downwards() -> None:
    order = list(MAY_IMPORT)
    for upper, lowers in MAY_IMPORT.items():
        assert lowers <= set(order[order.index(upper) + 1 :]), upper


def test_no_module_needs_itself_by_way_of_others() -> None:
    assert cycle(modules()) == []


@pytest.mark.parametrize(
    "line",
    [
        "from rldk_tracking.trackers.mlflow import MLflowTracker",
        "from rldk_tracking.trackers import mlflow",
        "from rldk_tracking import trackers",
        "import rldk_tracking.trackers.mlflow",
        "import math, rldk_tracking.trackers.mlflow as backend",
        "from ..trackers.mlflow import MLflowTracker",
        "from .. import trackers",
        "def late() -> None:\n    from rldk_tracking.trackers.mlflow import MLflowTracker",
        "if TYPE_CHECKING:\n    from rldk_tracking.trackers.mlflow import MLflowTracker",
        "import_module('rldk_tracking.trackers.mlflow')",
    ],
)
def test_a_planted_import_is_found(line: str) -> None:
    known = modules()
    known["rldk_tracking.metrics.kl"] += f"\n{line}\n"
    assert set(offenders(known)) - set(offenders(modules())) == {"metrics > trackers"}


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("rldk_tracking.metrics", "from ..trackers import mlflow", "metrics > trackers"),
        ("rldk_tracking.rollout", "from .isolation import Shield", "rollout > isolation"),
        ("rldk_tracking.health.conditions", "from ...run import Run", "health > run"),
        ("rldk_tracking.metrics.kl", "from rldk_tracking import MLflowTracker", "metrics > __init__"),
        ("rldk_tracking.metrics.kl", "import rldk_tracking", "metrics > __init__"),
        ("rldk_tracking.spare", "import math", "spare"),
    ],
)
def test_other_plants_are_found_too(module: str, line: str, found: str) -> None:
    known = modules()
    known[module] = known.get(module, "") + f"\n{line}\n"
    assert set(offenders(known)) - set(offenders(modules())) == {found}


@pytest.mark.parametrize("where", ["def late() -> None:", "if TYPE_CHECKING:"])
def test_a_planted_circle_is_found(where: str) -> None:
    known = modules()
    known["rldk_tracking.health.rule"] += f"\n{where}\n    from rldk_tracking.health.presets import rules_for\n"
    assert {"rldk_tracking.health.rule", "rldk_tracking.health.presets"} <= set(cycle(known))

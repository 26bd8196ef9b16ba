"""Imports point down only, siblings leave each other alone, and heavy packages stay where they belong."""

import ast
from pathlib import Path

import pytest

import edgekern

PACKAGE = Path(edgekern.__file__).parent
ROOT = Path(__file__).resolve().parents[2]

# From top to bottom. A unit (a module, or a folder with everything in it) imports only from lines below its own.
LEVELS = [
    ["cli"],
    ["report"],
    ["compress"],
    ["sensitivity", "integrations", "parallel"],
    ["train", "distill"],
    ["prune", "quantize", "qat", "fuse", "evaluate", "bench", "loading"],
    ["energy"],
    ["convert", "checkpoint"],
    ["calibration"],
    ["plan", "table"],
    ["nn"],
    ["config", "match", "ops", "summary", "figures"],
    ["targets", "machine"],
    ["kernels"],
    ["_lib"],
    ["_core"],
]
RANK = {unit: -level for level, units in enumerate(LEVELS) for unit in units}

# `import edgekern` must work without torch, and these must be usable then.
WITHOUT_TORCH = ["__init__", "config", "match", "summary", "targets", "kernels", "_lib"]

# Packages that only some units may import; torch and NumPy are free to the rest.
HOMES = {
    "transformers": {"evaluate", "integrations"},
    "typer": {"cli"},
    "rich": {"cli", "report", "calibration", "prune", "table"},
    "matplotlib": {"figures"},
    "jinja2": {"report"},
    "markupsafe": {"report"},
    "scipy": {"evaluate"},
    "PIL": {"evaluate"},
    "efficientnet_lite_pytorch": {"evaluate"},
    "safetensors": {"checkpoint", "distill"},
    "lm_eval": {"integrations"},
    "tomli_w": {"config"},
}


def unit_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def absolute(node, path):
    """Full names of what an import statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = []
    if node.level:
        package = ("edgekern", *path.relative_to(PACKAGE).with_suffix("").parts[:-1])
        base = list(package[: len(package) - node.level + 1])
    base += node.module.split(".") if node.module else []
    return [".".join([*base, alias.name]) for alias in node.names]


def imports(path, nodes):
    return [name for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for name in absolute(node, path)]


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


FILES = sorted(PACKAGE.rglob("*.py"))


def test_the_list_of_units_is_complete():
    assert {unit_of(path) for path in FILES} - {"__init__"} == RANK.keys() - {"_core"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    unit = unit_of(path)
    if path == PACKAGE / "__init__.py":
        return
    for name in imports(path, ast.walk(tree(path))):
        package, _, rest = name.partition(".")
        if package != "edgekern":
            continue
        target = rest.partition(".")[0]
        if target not in RANK:  # `import edgekern`, or one of its public names: the face of all this
            assert unit == "cli", f"{name} is above {unit}"
        elif target != unit:
            assert RANK[target] < RANK[unit], f"{unit} imports {name}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if unit_of(path) in WITHOUT_TORCH], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_torch_at_import(path):
    module = tree(path)
    assert not [imported for imported in imports(path, module.body) if imported.partition(".")[0] == "torch"]
    if unit_of(path) not in ("__init__", "_lib"):  # these two ask which torch there is, inside functions
        assert not [imported for imported in imports(path, ast.walk(module)) if imported.partition(".")[0] == "torch"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_packages_stay_at_home(path):
    for name in imports(path, ast.walk(tree(path))):
        package = name.partition(".")[0]
        assert unit_of(path) in HOMES.get(package, {unit_of(path)}), f"{name} in {path.name}"


def test_programs_beside_the_package_share_no_name():
    """Tests import from all of these folders in one process, where a name is taken by whoever comes first."""
    names = [path.stem for folder in ("benchmarks", "examples", "scripts") for path in (ROOT / folder).glob("*.py")]
    names += [path.name for folder in ("benchmarks", "scripts") for path in (ROOT / folder).iterdir() if path.is_dir()]
    assert sorted(set(names)) == sorted(names)

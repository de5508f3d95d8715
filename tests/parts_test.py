"""Every part owns its options, read from the syntax trees of the package: outside its own folder no
code asks which method it holds.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tf_robust_transfer"
# Where the name of a method is something else, or has to stand.
ALLOWED = {
    ("checkpoints/specs.py", "igam"): "the scheme of the checkpoints of IGAM's reference code",
    ("checkpoints/teacher_kinds.py", "trades"): "RobustBench's name of a kind of network",
    ("quickstart.py", "natural"): "a row of the quickstart",
    ("quickstart.py", "igam"): "a row of the quickstart",
    ("quickstart.py", "mixacm"): "a row of the quickstart",
    ("config.py", "natural"): "the default of --method",
}


def registry(path, name) -> ast.Dict:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return node.value
    raise AssertionError(f"no {name} in {path}")


METHODS = registry(PACKAGE / "methods/__init__.py", "METHODS")
NAMES = {key.value for key in METHODS.keys}
CLASSES = {value.id for value in METHODS.values} | {"Method"}


def docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.value


def faults(tree) -> list[str]:
    """The names of methods and the comparisons of their classes in a syntax tree."""
    ignored = {id(node) for node in docstrings(tree)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in NAMES and id(node) not in ignored:
            found.append(node.value)
        tested = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("isinstance", "issubclass"):
                tested = ast.walk(node.args[1])
        elif isinstance(node, ast.Compare):
            tested = [part for side in (node.left, *node.comparators) for part in ast.walk(side)]
        for part in tested:
            name = getattr(part, "attr", getattr(part, "id", ""))
            if name in CLASSES:
                found.append(f"{name} compared")
    return found


def test_no_code_outside_methods_asks_which_method_it_holds():
    seen = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if not file.startswith(("methods/", "papers/")):
            seen |= {(file, fault) for fault in faults(ast.parse(path.read_text()))}
    assert seen == set(ALLOWED), seen ^ set(ALLOWED)


@pytest.mark.parametrize(
    "line",
    [
        "x = 'igam'",
        "if method in ('rkd',): pass",
        "isinstance(x, IGAM)",
        "issubclass(x, (int, methods.MixACM))",
        "type(x) is IGAM",
        "x.__class__ == methods.Natural",
    ],
)
def test_the_walk_finds_a_fault(line):
    assert faults(ast.parse(line))


def test_the_walk_leaves_other_code_alone():
    assert not faults(ast.parse('"""natural"""\nisinstance(x, keras.Model)\ny = "linf"\n'))

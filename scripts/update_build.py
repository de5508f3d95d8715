"""Writes the file BUILD from the imports in the tree, so that nobody has to keep the Bazel targets
by hand.

    python scripts/update_build.py [--root DIR]

Targets: one py_library for each folder of the package and one for each of its top-level modules (a
single library for all of these would depend on itself: every folder imports `errors`, and
`__init__` imports every folder); one py_binary for each file with `if __name__ == "__main__"`; one
py_test for each tests/*_test.py; one library for the rest of tests/; a filegroup for what a library
reads of the tree. `deps` are the imports, wherever in the file they stand. tests/build_test.py
checks the result on its own."""

import argparse
import ast
import collections
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "tf_robust_transfer"
FOLDERS = (PACKAGE, "examples", "scripts", "tests")
TEST_SUPPORT = "test_support"

# Distributions whose name is not the name that one imports.
DISTRIBUTIONS = {"PIL": "pillow", "absl": "absl_py", "sklearn": "scikit_learn"}

# What a library reads of the tree: its filegroup, and the files of that.
DATA = {
    "checkpoints": ("zoo_files", "tf_robust_transfer/zoo/*"),
    "flag_files": ("flag_rows", "flags/**/*.flags"),
}

HEADER = """\
# Written by scripts/update_build.py: run it after a change of files or imports.
#
# Checked: Debian's Bazel 4.2 (bazel-bootstrap) reads it, every target of it, with a stand-in for
# rules_python (`scripts/test.sh -m slow tests/build_test.py`). Not checked: a build, for which
# Bazel's registry would have to be reached.
load("@rules_python//python:defs.bzl", "py_binary", "py_library", "py_test")

package(default_visibility = ["//visibility:public"])
"""


def has_main_guard(tree: ast.Module) -> bool:
    """Whether the module has an `if __name__ == "__main__":` at its top level."""
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in tree.body
    )


def rule_and_name(path: Path, tree: ast.Module) -> tuple[str, str]:
    """The rule and the name of the target that holds the file; path is relative to the root."""
    if path.parts[0] == "tests" and path.stem.endswith("_test"):
        return "py_test", path.stem
    if has_main_guard(tree):
        return "py_binary", path.stem
    if path.parts[0] == "tests":
        return "py_library", TEST_SUPPORT
    if len(path.parts) > 2:
        return "py_library", path.parts[1]
    return "py_library", path.parts[0] if path.stem == "__init__" else path.stem


def module_name(path: Path) -> str:
    """tf_robust_transfer/ops/norms.py -> tf_robust_transfer.ops.norms; a package's __init__.py ->
    the package.
    """
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yields the absolute dotted name of everything that the file imports: modules, and names
    inside modules.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                path.parent.parts[: len(path.parent.parts) - node.level + 1] if node.level else ()
            )
            prefix = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def dependency(name: str, modules: dict[str, str]) -> str | None:
    """The label that provides an imported name; None for the standard library. modules: module ->
    target.
    """
    module = name
    while module:
        if module in modules:
            return f":{modules[module]}"
        module = module.rpartition(".")[0]
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return None
    return f"@pypi//{DISTRIBUTIONS.get(top, top).lower()}"


def starlark_list(values: list[str]) -> str:
    """A list as buildifier lays it out: one value stays on its line."""
    if len(values) == 1:
        return f'["{values[0]}"]'
    return "[\n" + "".join(f'        "{value}",\n' for value in values) + "    ]"


def build_text(root: Path) -> str:
    """The content of BUILD for the tree at root."""
    paths = sorted(
        path.relative_to(root) for folder in FOLDERS for path in (root / folder).rglob("*.py")
    )
    trees = {
        path: ast.parse((root / path).read_text(encoding="utf-8"), filename=str(path))
        for path in paths
    }

    targets = collections.defaultdict(list)
    modules = {}
    for path, tree in trees.items():
        rule, name = rule_and_name(path, tree)
        targets[rule, name].append(path)
        modules[module_name(path)] = name
        if path.parts[0] == "tests":
            modules[path.stem] = name  # pytest puts tests/ itself on sys.path
    names = [name for _, name in targets]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two targets would be called {name!r}; rename one of their files")

    blocks, groups = [HEADER], []
    for (rule, name), sources in sorted(targets.items()):
        labels = {
            dependency(imported, modules)
            for path in sources
            for imported in imported_names(path, trees[path])
        }
        attributes = {"srcs": starlark_list([path.as_posix() for path in sources])}
        if rule == "py_binary":
            attributes["main"] = f'"{sources[0].as_posix()}"'
        if rule == "py_test":
            attributes["args"] = starlark_list([sources[0].as_posix()])
            attributes["main_module"] = '"pytest"'
            labels.add("@pypi//pytest")
            if Path("tests/conftest.py") in trees:
                labels.add(f":{TEST_SUPPORT}")  # pytest imports conftest.py before every test
        if rule == "py_library" and name == TEST_SUPPORT:
            attributes["testonly"] = "True"
        if rule == "py_library" and name in DATA:
            group, files = DATA[name]
            attributes["data"] = starlark_list([f":{group}"])
            groups.append(f'filegroup(\n    name = "{group}",\n    srcs = glob(["{files}"]),\n)\n')
        deps = sorted(labels - {None, f":{name}"}, key=lambda label: (label[0] == "@", label))
        if deps:
            attributes["deps"] = starlark_list(deps)
        lines = "".join(f"    {key} = {value},\n" for key, value in attributes.items())
        blocks.append(f'{rule}(\n    name = "{name}",\n{lines})\n')
    return "\n".join([*blocks, *groups])


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes BUILD from the imports in the tree.")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parent.parent,
        help="of the repository",
    )
    root = parser.parse_args().root
    (root / "BUILD").write_text(build_text(root), encoding="utf-8")


if __name__ == "__main__":
    main()

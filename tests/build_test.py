"""BUILD against the tree, and the layering of the package, both read from the imports; nothing here
runs the package.

The oracle shares no code with scripts/update_build.py: it resolves an import to a file by looking
on the disk, a file to a target by looking in BUILD, and a third-party module to its distribution by
asking importlib.metadata."""

import ast
import functools
import importlib.metadata
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "tf_robust_transfer"
HOW_TO_MEND = "\nIf the imports are as they should be, run: python scripts/update_build.py"

# A row imports only from the rows above it. The mains may import everything. Top-level modules in
# no row (errors) may be imported by everything, so they import no row themselves.
ROWS = (
    "ops",
    "losses",
    "models",
    "data",
    "checkpoints",
    "adapters",
    "inference",
    "attacks",
    "terms",
    "methods",
    "evaluation",
    "analysis",
    "plots",
    "config",
    "command_line",
    "runs",
    "reports",
    "command",
)


def source_files(root: Path) -> list[str]:
    paths = [
        path
        for folder in (PACKAGE, "examples", "scripts", "tests")
        for path in (root / folder).rglob("*.py")
    ]
    return sorted(path.relative_to(root).as_posix() for path in paths)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def read_build(root: Path) -> list[dict]:
    """The targets of BUILD, whose syntax is Python's, as dicts of their attributes; "rule" holds
    the rule's name.
    """
    calls = [node.value for node in parse(root / "BUILD").body if isinstance(node, ast.Expr)]
    return [
        {"rule": call.func.id}
        | {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        for call in calls
        if call.func.id.startswith("py_")
    ]


def find_file(root: Path, file: str, level: int, dotted: str) -> str | None:
    """The file in the tree that an import in `file` reaches; level: the number of leading dots.
    None: not ours.
    """
    folder = (root / file).parents[level - 1] if level else root
    bases = [folder, root / "tests"] if file.startswith("tests/") and not level else [folder]
    parts = dotted.split(".") if dotted else []
    for base in bases:
        for length in range(len(parts), -1 if level else 0, -1):
            module = base.joinpath(*parts[:length])
            for candidate in (module.with_suffix(".py"), module / "__init__.py"):
                if candidate.is_file():
                    return candidate.relative_to(root).as_posix()
    return None


def imports(root: Path, file: str) -> tuple[set[str], set[str]]:
    """What a file imports: the files of this tree, and the top-level modules from elsewhere."""
    files, modules = set(), set()
    for node in ast.walk(parse(root / file)):
        if isinstance(node, ast.Import):
            found = [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [
                (node.level, ".".join(filter(None, [node.module, alias.name])))
                for alias in node.names
            ]
        else:
            continue
        for level, dotted in found:
            target = find_file(root, file, level, dotted)
            if target:
                files.add(target)
            else:
                modules.add(dotted.split(".")[0])
    return files, modules - sys.stdlib_module_names


distributions_of_modules = functools.cache(importlib.metadata.packages_distributions)


def third_party_labels(modules: set[str]) -> set[str]:
    distributions = distributions_of_modules()
    names = {distributions.get(module, [module])[0] for module in modules}
    return {"@pypi//" + re.sub(r"[-_.]+", "_", name).lower() for name in names}


def is_main(root: Path, file: str) -> bool:
    return "\nif __name__ == " in (root / file).read_text(encoding="utf-8")


def row_of(file: str) -> str:
    """tf_robust_transfer/ops/norms.py -> ops; tf_robust_transfer/config.py -> config."""
    return Path(file).relative_to(PACKAGE).with_suffix("").parts[0]


def layering_errors(root: Path) -> list[str]:
    """One line for each import that the order of the package in docs/design.md forbids."""
    errors = []
    for file in source_files(root):
        if not file.startswith(f"{PACKAGE}/"):
            continue
        row = row_of(file)
        main = is_main(root, file)
        files, modules = imports(root, file)
        if "absl" in modules and not main and row != "command_line":
            errors.append(f"{file} imports absl; only command_line.py knows absl")
        if row == "models":
            names = {node.id for node in ast.walk(parse(root / file)) if isinstance(node, ast.Name)}
            if "tensorflow" in modules or "tf" in names:
                errors.append(f"{file} uses TensorFlow; models use keras and keras.ops only")
        for imported in sorted(files):
            other = row_of(imported)
            if main or other == row:
                continue
            if is_main(root, imported):
                errors.append(f"{file} imports the main {imported}")
            elif other == "__init__":
                errors.append(
                    f"{file} imports the package itself; import the module that defines the name"
                )
            elif row == "__init__" or other not in ROWS:
                # __init__ gathers all names; a module outside the rows may be imported by all
                continue
            elif row not in ROWS:
                errors.append(
                    f"{file} is in no row, so it may import no row, yet it imports {imported}"
                )
            elif ROWS.index(other) > ROWS.index(row):
                errors.append(
                    f"{file} imports {imported}; {row} may import only "
                    f"{', '.join(ROWS[: ROWS.index(row)])}"
                )
    return errors


def test_each_source_file_is_in_exactly_one_target():
    listed = [source for target in read_build(ROOT) for source in target["srcs"]]
    assert sorted(listed) == source_files(ROOT), HOW_TO_MEND


@pytest.mark.parametrize("target", read_build(ROOT), ids=lambda target: target["name"])
def test_deps_are_the_imports(target):
    owners = {source: f":{other['name']}" for other in read_build(ROOT) for source in other["srcs"]}
    expected = set()
    for source in target["srcs"]:
        files, modules = imports(ROOT, source)
        missing = sorted(files - owners.keys())
        assert not missing, f"{source} imports {missing}, which no target lists.{HOW_TO_MEND}"
        expected |= {owners[file] for file in files} | third_party_labels(modules)
    if target["rule"] == "py_test":  # run by pytest, which imports conftest.py first
        expected |= {"@pypi//pytest"} | {
            owners[file] for file in ["tests/conftest.py"] if file in owners
        }
    deps = target.get("deps", [])
    assert len(deps) == len(set(deps)), f"{target['name']} lists a dependency twice.{HOW_TO_MEND}"
    assert set(deps) == expected - {f":{target['name']}"}, (
        f"deps of {target['name']} in BUILD.{HOW_TO_MEND}"
    )


def test_rules_fit_the_files():
    for target in read_build(ROOT):
        for source in target["srcs"]:
            if source.startswith("tests/") and source.endswith("_test.py"):
                expected = "py_test"
            else:
                expected = "py_binary" if is_main(ROOT, source) else "py_library"
            assert target["rule"] == expected, f"{source} is in a {target['rule']}.{HOW_TO_MEND}"
    names = [target["name"] for target in read_build(ROOT)]
    assert len(names) == len(set(names)), HOW_TO_MEND


def test_build_is_what_the_generator_writes():
    text = runpy.run_path(str(ROOT / "scripts" / "update_build.py"))["build_text"](ROOT)
    assert (ROOT / "BUILD").read_text(encoding="utf-8") == text, HOW_TO_MEND


@pytest.mark.parametrize(
    "library, file",
    [
        ("checkpoints", "tf_robust_transfer/zoo/cifar10_preact_resnet_18.keras"),
        ("flag_files", "flags/igam/common_cifar.flags"),
    ],
)
def test_files_that_a_library_reads_are_its_data(library, file):
    groups = {
        ast.literal_eval(call.keywords[0].value): ast.literal_eval(call.keywords[1].value.args[0])
        for node in parse(ROOT / "BUILD").body
        if isinstance(call := getattr(node, "value", None), ast.Call)
        and call.func.id == "filegroup"
    }
    (target,) = (target for target in read_build(ROOT) if target["name"] == library)
    globs = [glob for label in target["data"] for glob in groups[label.removeprefix(":")]]
    assert ROOT / file in {path for glob in globs for path in ROOT.glob(glob)}, HOW_TO_MEND


def test_third_party_imports_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines += [line for extra in project["optional-dependencies"].values() for line in extra]
    declared = {re.match(r"[\w.-]*", line)[0].replace("-", "_").lower() for line in lines}
    used = {
        dep.removeprefix("@pypi//")
        for target in read_build(ROOT)
        for dep in target.get("deps", [])
        if "@" in dep
    }
    assert not used - declared, "add these to requirements.txt, or to an extra in pyproject.toml"


def test_every_folder_of_the_package_is_a_package():
    folders = {Path(file).parent for file in source_files(ROOT) if file.startswith(f"{PACKAGE}/")}
    missing = [
        f"{folder}/__init__.py"
        for folder in sorted(folders)
        if not (ROOT / folder / "__init__.py").is_file()
    ]
    assert not missing, "setuptools installs only folders with an __init__.py"


def test_layering():
    errors = layering_errors(ROOT)
    assert not errors, "\n".join(["imports against the order in docs/design.md:", *errors])


FAKE_TREE = {
    "tf_robust_transfer/__init__.py": "from tf_robust_transfer.ops.norms import project",
    "tf_robust_transfer/errors.py": "import math",
    "tf_robust_transfer/ops/__init__.py": "",
    "tf_robust_transfer/ops/norms.py": "import math, numpy\nfrom ..errors import InputError\nfrom "
    ". import gradients",
    "tf_robust_transfer/ops/gradients.py": "def f():\n    import sklearn.datasets",
    "tf_robust_transfer/train.py": """
from absl import app
from tf_robust_transfer import ops, errors

if __name__ == "__main__":
    app.run(ops)
""",
    "tests/helpers.py": "import numpy.testing",
    "tests/norms_test.py": "import helpers\nimport tf_robust_transfer as rt\nfrom "
    "tf_robust_transfer.ops import norms",
}

FAKE_BUILD = """
py_binary(
    name = "train",
    srcs = ["tf_robust_transfer/train.py"],
    main = "tf_robust_transfer/train.py",
    deps = [
        ":errors",
        ":ops",
        "@pypi//absl_py",
    ],
)

py_library(
    name = "errors",
    srcs = ["tf_robust_transfer/errors.py"],
)

py_library(
    name = "ops",
    srcs = [
        "tf_robust_transfer/ops/__init__.py",
        "tf_robust_transfer/ops/gradients.py",
        "tf_robust_transfer/ops/norms.py",
    ],
    deps = [
        ":errors",
        "@pypi//numpy",
        "@pypi//scikit_learn",
    ],
)

py_library(
    name = "test_support",
    srcs = ["tests/helpers.py"],
    testonly = True,
    deps = ["@pypi//numpy"],
)

py_library(
    name = "tf_robust_transfer",
    srcs = ["tf_robust_transfer/__init__.py"],
    deps = [":ops"],
)

py_test(
    name = "norms_test",
    srcs = ["tests/norms_test.py"],
    args = ["tests/norms_test.py"],
    main_module = "pytest",
    deps = [
        ":ops",
        ":test_support",
        ":tf_robust_transfer",
        "@pypi//pytest",
    ],
)
"""


@pytest.fixture
def fake_root(tmp_path):
    for name, text in FAKE_TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_generator_on_a_small_tree(fake_root):
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "update_build.py", "--root", fake_root], check=True
    )
    written = (fake_root / "BUILD").read_text(encoding="utf-8")
    assert written.split('package(default_visibility = ["//visibility:public"])\n')[1] == FAKE_BUILD


@pytest.mark.parametrize(
    ("file", "line", "error"),
    [
        (
            "ops/norms.py",
            "from tf_robust_transfer.losses import kl",
            "imports tf_robust_transfer/losses/__init__.py",
        ),
        ("ops/norms.py", "def f():\n    from ..losses import kl", "ops may import only"),
        ("ops/norms.py", "from absl import flags", "only command_line.py"),
        ("ops/norms.py", "import tf_robust_transfer.train", "imports the main"),
        ("ops/norms.py", "from tf_robust_transfer import project", "imports the package itself"),
        ("models/cnn.py", "import tensorflow", "uses TensorFlow"),
        ("models/cnn.py", "y = tf.abs(x)", "uses TensorFlow"),
        ("errors.py", "import tf_robust_transfer.ops", "is in no row"),
        ("losses/__init__.py", "from tf_robust_transfer.ops import norms", None),
        ("losses/__init__.py", "from tf_robust_transfer.errors import InputError", None),
        ("train.py", "from tf_robust_transfer.losses import kl", None),
        ("command_line.py", "from absl import flags", None),
    ],
)
def test_layering_errors_on_a_small_tree(fake_root, file, line, error):
    package = fake_root / PACKAGE
    for folder in ("losses", "models"):
        (package / folder).mkdir()
        (package / folder / "__init__.py").touch()
    with (package / file).open("a", encoding="utf-8") as stream:
        stream.write("\n" + line + "\n")
    errors = layering_errors(fake_root)
    assert len(errors) == (error is not None), errors
    assert error is None or error in errors[0]


@pytest.mark.slow
def test_bazel_reads_every_target(tmp_path):
    """`bazel query` loads the whole file. The rules of rules_python are stood in for by Bazel's."""
    if not shutil.which("bazel"):
        pytest.skip("no bazel on this machine: apt-get install bazel-bootstrap")
    rules = tmp_path / "rules_python" / "python"
    rules.mkdir(parents=True)
    (rules.parent / "WORKSPACE").write_text('workspace(name = "rules_python")\n')
    (rules / "BUILD").touch()
    (rules / "defs.bzl").write_text(
        "py_binary = native.py_binary\npy_library = native.py_library\n\n"
        "def py_test(main_module, **kwargs):\n"
        '    native.py_test(main = kwargs["srcs"][0], **kwargs)\n'
    )
    (tmp_path / "WORKSPACE").write_text(
        'local_repository(name = "rules_python", path = "rules_python")\n'
    )
    shutil.copy(ROOT / "BUILD", tmp_path / "BUILD")
    command = ["bazel", "--batch", f"--output_user_root={tmp_path}/out", "query"]
    query = subprocess.run(
        [*command, "--noshow_progress", 'kind("py_.*", //:*)'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert query.returncode == 0, query.stderr
    names = {target["name"] for target in read_build(ROOT)}
    assert {line.removeprefix("//:") for line in query.stdout.split()} == names

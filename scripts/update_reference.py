"""Writes the generated pages of docs/reference: flags, names and the API.

    python scripts/update_reference.py [--check]

--check: writes nothing, and exits with code 1 where a page is not what it would write. (teachers.md
is scripts/update_teachers.py's.)"""

import ast
import functools
import importlib
import inspect
import re
import sys
import textwrap
import types
from pathlib import Path

import tf_robust_transfer as rt
from tf_robust_transfer.adapters.build import ADAPTERS
from tf_robust_transfer.attacks.names import ALIASES, ATTACKS, EXAMPLES, full_name, parse_attack
from tf_robust_transfer.checkpoints.specs import SCHEMES
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.data.augmentation import AUGMENTATIONS
from tf_robust_transfer.methods import METHODS
from tf_robust_transfer.models import MODELS
from tf_robust_transfer.options import flags_of

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
COMMANDS = {
    "train": "TrainConfig",
    "evaluate": "EvaluateConfig",
    "convert": "ConvertConfig",
    "fitness": "FitnessConfig",
    "visualize": "VisualizeConfig",
    "report": "ReportConfig",
    "theorem41": "Theorem41Config",
    "theorem42": "Theorem42Config",
    "quickstart": "QuickstartConfig",
}
WRITTEN = "Written by scripts/update_reference.py from {}: change that, not this page.\n"
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields)\b.*:")
_ENTRY = re.compile(r"(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*|every other keyword): (.*)", re.DOTALL)


def pages() -> dict[str, str]:
    """File name -> text."""
    found = {"flags.md": _flags(), "names.md": _names(), "api.md": _api()}
    for name in sorted(rt.__all__):
        if isinstance(getattr(rt, name), types.ModuleType):
            found[f"api_{name}.md"] = _api_of_module(name)
    return found


def _flags():
    text = "# Flags\n\n" + WRITTEN.format("the commands' option classes")
    text += textwrap.dedent("""
        A flag is written `--name=value`. Radii and step sizes are fractions of the pixel range and
        may be written `8/255`; `true` and `false` are a switch's values, `--check` alone is
        `--check=true`. `--flagfile=PATH` reads flags from a file, one a line, and `--help` prints
        what stands here. Where a default is empty, the cell is.
    """)
    for command, name in COMMANDS.items():
        module = importlib.import_module(f"tf_robust_transfer.{command}")
        config = TrainConfig if command == "train" else getattr(module, name)
        about = " ".join(inspect.getdoc(module).partition(":")[0].split())
        text += f"\n## {command}\n\n`python -m tf_robust_transfer.{command}`: {_prose(about)}.\n\n"
        text += _flag_table(flags_of(config))
    text += "\n## Flags of the methods\n\nOf `train`, beside those above, by `--method`.\n"
    for name, method in METHODS.items():
        text += f"\n### {name}\n\n{_prose(_summary(method))}\n\n" + _flag_table(
            flags_of(method.Flags)
        )
    return text


def _flag_table(flags):
    rows = []
    for flag in flags:
        choices = flag.metadata["choices"]
        helped = flag.metadata["help"]
        listed = [str(choice) for choice in choices if str(choice) not in helped]
        allowed = f" ({', '.join(filter(None, listed))})" if listed else ""
        rows.append((f"`--{flag.name}`", _code(flag.shown), _prose(helped + allowed)))
    return _table(("flag", "default", "what it is"), rows)


def _names():
    text = "# Names\n\n" + WRITTEN.format("the package's registries")
    text += (
        "\nEverywhere a name of one of these stands, `package.module:NAME` names a part of your"
        " own: see [Extend](../guide/extend.md).\n"
    )
    text += "\n## Attacks\n\nFor `--attacks` and `rt.attacks.parse`; options in brackets.\n\n"
    rows = []
    for name, made in ATTACKS.items():
        rows.append((f"`{name}`", _prose(_summary(made)), _full_name(name).partition(" ")[2]))
    text += _table(("name", "attack", "options, as evaluations have them"), rows)
    text += "\nShort names, by example, and what they stand for:\n\n"
    patterns = [re.compile(pattern) for pattern in ALIASES]
    short = [n for n in EXAMPLES if any(p.fullmatch(n) for p in patterns) and n not in ATTACKS]
    rows = [(f"`{name}`", _full_name(name)) for name in short]
    text += _table(("short", "attack and options"), rows)
    for title, where, registry in (
        ("Methods", "For `--method`.", METHODS),
        ("Networks", "For `--model` and `rt.build_model`; keywords by `--model_options`.", MODELS),
        ("Adapters", "For `--adapter`, with a size (`resize:64x64`), joined by `+`.", ADAPTERS),
        ("Augmentations", "For `--augmentation`.", AUGMENTATIONS),
    ):
        rows = [(f"`{name}`", _prose(_summary(made))) for name, made in registry.items()]
        text += f"\n## {title}\n\n{where}\n\n" + _table(("name", "what it is"), rows)
    text += "\n## Data sets\n\nFor `--dataset`; any other TFDS image classification set too: "
    text += ", ".join(f"`{name}`" for name in rt.list_datasets()) + ".\n"
    text += (
        "\n## SPEC schemes\n\nFor `--model`, `--teacher` and `rt.load_model`, beside a path.\n\n"
    )
    rows = [
        (f"`{name}:{scheme.location}`", _prose(_summary(scheme.load)))
        for name, scheme in SCHEMES.items()
        if name != "robustbench"
    ]
    rows.append(("`robustbench:MODEL_ID:FILE.pt`", "A file of [Teachers](teachers.md)."))
    return text + _table(("SPEC", "what it is"), rows)


def _full_name(name):
    """The full name of an attack, each option a word of its own, which a table's cell breaks at."""
    attack, _, options = full_name(parse_attack(name)).partition("[")
    return " ".join(f"`{part}`" for part in [attack, *options.rstrip("]").split(";")] if part)


def _api():
    text = "# API\n\n" + WRITTEN.format("the docstrings of `rt.__all__`")
    text += "\n`import tf_robust_transfer as rt`. Modules have pages of their own:\n\n"
    modules = [n for n in sorted(rt.__all__) if isinstance(getattr(rt, n), types.ModuleType)]
    rows = []
    for name in modules:
        about = inspect.getdoc(getattr(rt, name)).partition("\n\n")[0].replace("\n", " ")
        rows.append((f"[rt.{name}](api_{name}.md)", _prose(about)))
    text += _table(("module", "what is in it"), rows)
    for name in sorted(set(rt.__all__) - set(modules), key=str.lower):
        text += _entry(f"rt.{name}", getattr(rt, name))
    return text


def _api_of_module(name):
    module = getattr(rt, name)
    text = f"# rt.{name}\n\n" + WRITTEN.format(f"the docstrings of `rt.{name}`") + "\n"
    text += _docstring(inspect.getdoc(module)) + "\n"
    for inner, part in _public(module):
        if isinstance(part, types.ModuleType):
            text += f"\n## rt.{name}.{inner}\n\n" + _docstring(inspect.getdoc(part)) + "\n"
            for function in _functions(part):
                text += _entry(f"rt.{name}.{inner}.{function.__name__}", function, level=3)
        elif getattr(rt, inner, None) is part:
            text += f"\n## rt.{name}.{inner}\n\nSee [rt.{inner}](api.md#rt{inner.lower()}).\n"
        else:
            text += _entry(f"rt.{name}.{inner}", part)
    return text


def _public(module):
    """(name, what it is), by name: of `__all__`, or of a package without it its modules."""
    names = getattr(module, "__all__", None) or [
        name for name, part in vars(module).items() if isinstance(part, types.ModuleType)
    ]
    return [(name, getattr(module, name)) for name in sorted(names, key=str.lower)]


def _functions(module):
    found = inspect.getmembers(module, inspect.isfunction)
    return [f for n, f in found if f.__module__ == module.__name__ and not n.startswith("_")]


def _entry(name, part, level=2):
    """A heading, the signature, the docstring; of a class its own public methods too."""
    text = f"\n{'#' * level} {name}\n\n"
    if not callable(part):
        return text + (f"`{part!r}`\n" if not isinstance(part, dict) else _keys(part))
    text += f"```python\n{_signature(name, part)}\n```\n\n{_docstring(inspect.getdoc(part))}\n"
    if inspect.isclass(part):
        for inner, function in _own_functions(part).items():
            if function.__doc__ and not inner.startswith("_"):
                text += f"\n**{inner}**\n\n"
                text += f"```python\n{_signature(inner, function)}\n```\n\n"
                text += _docstring(inspect.getdoc(function)) + "\n"
    return text


def _own_functions(made):
    """Name -> function of a class and of the parts of the package that it alone is made of."""
    parts = [
        base
        for base in made.__bases__
        if base.__module__.startswith("tf_robust_transfer") and base.__subclasses__() == [made]
    ]
    found = {name: f for part in parts for name, f in vars(part).items()} | vars(made)
    return {name: f for name, f in found.items() if inspect.isfunction(f)}


def _keys(registry):
    return ", ".join(f"`{name}`" for name in registry) + "\n"


def _signature(name, part):
    try:
        signature = inspect.signature(part)
    except ValueError:
        return name
    parameters = [str(p) for n, p in signature.parameters.items() if n != "self"]
    kinds = [p.kind for n, p in signature.parameters.items() if n != "self"]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    line = f"{name}({', '.join(parameters)})"
    if len(line) > 90:
        line = f"{name}(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + ")"
    line = re.sub(r" at 0x\w+", "", line)
    return re.sub(r"tf_robust_transfer(?:\.\w+)*\.(\w+)", r"\1", line)


def _docstring(text):
    """A docstring in Google's style as Markdown."""
    if not text:
        return ""
    out, lines = [], text.split("\n")
    while lines:
        line = lines.pop(0)
        if _SECTION.fullmatch(line) or (_SECTION.match(line) and lines and _deeper(lines[0])):
            head, _, rest = line.partition(":") if line.endswith(":") else (line, "", "")
            block = []
            while lines and (not lines[0].strip() or _deeper(lines[0])):
                block.append(lines.pop(0)[4:])
            out += ["", f"*{_prose(head.strip())}*{rest}", "", *_entries(block), ""]
        elif line.startswith((">>>", "    ")):
            block = [line]
            while lines and lines[0].strip():
                block.append(lines.pop(0))
            code = textwrap.dedent("\n".join(block))
            out += ["", f"```{_language(code)}", code, "```", ""]
        else:
            out.append(_prose(line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()


def _language(code):
    if code.startswith(">>>"):
        return "pycon"
    try:
        ast.parse(code)
    except SyntaxError:
        return "text"
    return "python"


def _deeper(line):
    return line.startswith("    ")


def _entries(block):
    """The list of a section; what has no name is a paragraph."""
    parts = []
    for line in block:
        if line.strip() and (not _deeper(line) or not parts):
            parts.append(line.strip())
        elif line.strip():
            parts[-1] += " " + line.strip()
    named = [_ENTRY.fullmatch(part) for part in parts]
    if not any(named):
        return [_prose(" ".join(parts))]
    joined = []
    for part, entry in zip(parts, named, strict=True):
        if entry:
            joined.append(f"- `{entry[1]}`: {_prose(entry[2])}")
        elif joined:
            joined[-1] += " " + _prose(part)
        else:
            joined.append(_prose(part) + "\n")
    return joined


def _summary(part):
    """The first sentence of a docstring, and what a functools.partial sets."""
    given = part.keywords if isinstance(part, functools.partial) else {}
    set_here = ", ".join(f"`{key}={value}`" for key, value in given.items())
    part = part.func if given else part
    text = " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())
    first = re.split(r"(?<=[a-z)\]`\"0-9])\. (?=[A-Z])", text)[0]
    return f"{first} With {set_here}." if set_here else first


def _prose(text):
    """Text as Markdown that shows it as it stands; `code` stays code."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\*<$|]|\b_|_\b)", r"\\\1", part)
        for part in parts
    )


def _code(text):
    return f"`{text}`" if text else ""


def _table(head, rows):
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    found = pages()
    stale = [n for n in sorted(p.name for p in FOLDER.glob("api_*.md")) if n not in found]
    if "--check" in sys.argv[1:]:
        for name, text in found.items():
            path = FOLDER / name
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(name)
        if stale:
            sys.exit(f"out of date: {', '.join(stale)}: run python scripts/update_reference.py")
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (FOLDER / name).unlink()
    for name, text in found.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Parts from outside the package, named `package.module:attribute` wherever a registry's name is.

    --method=my_project.methods:Mine      --attacks=my_project.attacks:Mine[steps=5]

A dot before the colon tells such a name from others with a colon in them (`folder:PATH`); a module
without a dot is written `plugin:module:attribute`. A module is looked for in the working folder
too. It is imported because a flag or an argument names it: no reader of files imports anything.
"""

import importlib
import re
import sys
from collections.abc import Mapping

from tf_robust_transfer.errors import InputError, nearest

_NAME = re.compile(
    r"(?:plugin:(?P<any>[^\W\d]\w*(?:\.\w+)*)|(?P<dotted>[^\W\d]\w*(?:\.\w+)+)):(?P<attribute>\w+)"
)


def is_plugin(name: str) -> bool:
    """Whether a name has the form of one from outside the package."""
    return _NAME.fullmatch(name) is not None


def load(kind: str, name: str):
    """The attribute that a plug-in's name stands for.

    Args:
        kind: what it is to be, for messages: "method".
        name: `package.module:attribute` or `plugin:module:attribute`.

    Raises:
        InputError: no such module or attribute, or a module that fails as it is imported.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise InputError(f"the {kind} {name!r}: expected package.module:NAME")
    module = found["any"] or found["dotted"]
    # `python -m` looks in the working folder; a console command does not.
    if "" not in sys.path:
        sys.path.append("")
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - whatever a user's module raises
        raise InputError(
            f"cannot import the {kind} {name!r}: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(imported, found["attribute"]):
        names = [key for key in vars(imported) if not key.startswith("_")]
        raise InputError(
            f"the {kind} {name!r}: {module} has no {found['attribute']!r}; "
            + nearest(found["attribute"], names)
        )
    return getattr(imported, found["attribute"])


def plugin_or_nothing(text: str) -> str:
    """The text of a flag that takes a plug-in's name or "", checked."""
    if text and not is_plugin(text):
        raise InputError(f"expected package.module:NAME, got {text!r}")
    if text:
        load("plug-in", text)
    return text


def find(kind: str, name: str, registry: Mapping):
    """The entry of a registry, or the plug-in that the name stands for.

    Raises:
        InputError: an unknown name; it names the nearest ones.
    """
    if name in registry:
        return registry[name]
    if is_plugin(name):
        return load(kind, name)
    raise InputError(f"unknown {kind} {name!r}; {nearest(name, registry)}")

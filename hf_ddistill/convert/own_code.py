"""The files of this package that some of its modules need, as files of one folder.

transformers runs code that lies beside weights if all of it is in one folder and imports itself by
`from .file import name`. So each module becomes a file, and each import of the package, also
through an `__init__`, one from the file in which the name is made. Nothing else is imported than
transformers and what that needs itself.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator
from importlib import resources

_PACKAGE = __name__.split(".")[0]
#: What is needed by an install alone, and what a file imports in its place.
_STANDS_IN = {"jaxtyping": "hf_ddistill.convert.plain_shapes"}
_LICENCE = "# SPDX-License-Identifier: Apache-2.0\n"


def file_of(module: str) -> str:
    """The name of a module's file, without its end: of models the last part, else all of them."""
    parts = module.split(".")[1:]
    return parts[-1] if parts[0] == "models" else "_".join(parts)


def carried(modules: Iterable[str]) -> dict[str, str]:
    """The text of each file, by its name, of these modules and all that they import.

    Args:
        modules: by their full names.
    """
    texts: dict[str, str] = {}
    left = list(modules)
    while left:
        module = left.pop()
        name = f"{file_of(module)}.py"
        if name not in texts:
            texts[name], needed = _rewritten(module)
            left += needed
    return dict(sorted(texts.items()))


@functools.cache
def _rewritten(module: str) -> tuple[str, frozenset[str]]:
    """The text of a module with its imports from files, and the modules that they are of."""
    text, _ = _source(module)
    lines = text.splitlines(keepends=True)
    needed: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ImportFrom) or not _is_own(_absolute(node, module)):
            continue
        made = [(*_maker(_absolute(node, module), alias.name), alias) for alias in node.names]
        needed |= {where for where, _, _ in made}
        # On the first of its lines, each after the indentation of the statement.
        lines[node.lineno - 1 : node.end_lineno] = [
            " " * node.col_offset + "".join(_imports(made, node.col_offset)),
            *[""] * ((node.end_lineno or node.lineno) - node.lineno),
        ]
    told = f"# A copy of {module.replace('.', '/')}.py that needs no install.\n"
    return _LICENCE + told + "".join(lines), frozenset(needed)


def _imports(made: list[tuple[str, str, ast.alias]], indent: int) -> Iterator[str]:
    for number, (where, name, alias) in enumerate(made):
        known_as = alias.asname or alias.name
        renamed = "" if known_as == name else f" as {known_as}"
        yield f"{' ' * indent * bool(number)}from .{file_of(where)} import {name}{renamed}\n"


def _maker(module: str, name: str) -> tuple[str, str]:
    """The module in which a name is made that another one has, and its name there."""
    made = _names_of_room(module)
    if made is None:
        return module, name
    if name not in made:
        raise ValueError(f"{module} imports no name {name!r} that could be carried into a file.")
    return _maker(*made[name])


@functools.cache
def _names_of_room(module: str) -> dict[str, tuple[str, str]] | None:
    """What the `__init__` of a folder imports: from where, and its name there; None of a file."""
    text, is_room = _source(module)
    if not is_room:
        return None
    imports = (node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom))
    return {
        alias.asname or alias.name: (_absolute(node, module), alias.name)
        for node in imports
        for alias in node.names
    }


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """The full name of what a module imports from."""
    if not node.level:
        return _STANDS_IN.get(node.module or "", node.module or "")
    parts = module.split(".")[: -node.level]
    return ".".join([*parts, node.module or ""])


def _is_own(module: str) -> bool:
    return module.split(".")[0] == _PACKAGE


def _source(module: str) -> tuple[str, bool]:
    """The text of a module, and whether it is the `__init__` of a folder."""
    *rooms, last = module.split(".")[1:]
    folder = resources.files(_PACKAGE).joinpath(*rooms)
    is_room = folder.joinpath(last).is_dir()
    place = folder.joinpath(last, "__init__.py") if is_room else folder.joinpath(f"{last}.py")
    return place.read_text(encoding="utf-8"), is_room

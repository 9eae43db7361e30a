"""Names of a package that are imported when they are used.

A package says once what it has, as imports under `if TYPE_CHECKING:`, which type checkers read and
Python does not run; `lazy_names` reads the same lines and gives the package its `__getattr__` and
`__dir__` (PEP 562). So `import hf_ddistill` imports neither torch nor transformers.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`.
        file: its `__file__`, with absolute `from module import name` under `if TYPE_CHECKING:`.
    """
    module_of = _names_under_type_checking(Path(file).read_text(encoding="utf-8"))

    def get(name: str) -> Any:
        """A name of the package, or a module in it."""
        module = sys.modules[package]
        if name in module_of:
            value = getattr(importlib.import_module(module_of[name]), name)
            setattr(module, name, value)
            return value
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}"):
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return get, names


def _names_under_type_checking(source: str) -> dict[str, str]:
    """The names that are imported there, each with its module."""
    blocks = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imports = (node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom))
    return {alias.name: str(node.module) for node in imports for alias in node.names}

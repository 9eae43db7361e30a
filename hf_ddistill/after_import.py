"""What is to be done right after a module of another library was imported.

What registers itself with a library has to be there before that library is asked, and should cost
nothing before. So it waits for the library's own module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class AfterImport(MetaPathFinder):
    """Calls a function with a module right after its import, or at once where it is there.

    A function is called while the imports that led to the module are under way: it must import
    nothing that those might be in the midst of.

    Args:
        functions: for the name of each module that is waited for.
    """

    def __init__(self, functions: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self.functions = dict(functions)

    def install(self) -> None:
        """Wait from now on."""
        sys.meta_path.insert(0, self)
        for name, function in self.functions.items():
            module = sys.modules.get(name)
            if module is not None and not _is_being_imported(module):
                function(module)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders have, whose loader calls the function when it is done."""
        if name not in self.functions:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute, function = spec.loader.exec_module, self.functions[name]

        def execute_and_call(module: ModuleType) -> None:
            execute(module)
            function(module)

        spec.loader.exec_module = execute_and_call  # of this one loader, not of its class
        return spec


def _is_being_imported(module: ModuleType) -> bool:
    return bool(getattr(module.__spec__, "_initializing", False))

"""A package, parsed: modules, what they import, which classes they hold. Nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One imported name: the module it comes from, as far as the package knows it."""

    target: str
    name: str
    line: int


@dataclass(frozen=True)
class Module:
    """One parsed file of the package, by its dotted name."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return room_of(self.name)

    def place(self, line: int = 1) -> str:
        return f"{self.path}:{line}"

    def nodes(self, kind: type) -> Iterator[ast.AST]:
        return (node for node in ast.walk(self.tree) if isinstance(node, kind))


@dataclass(frozen=True)
class House:
    """All modules of a package, and what they import."""

    package: str
    modules: dict[str, Module]

    @classmethod
    def read(cls, package: Path) -> House:
        modules = {}
        for path in sorted(package.rglob("*.py")):
            relative = path.relative_to(package.parent)
            parts = relative.with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text()
            modules[name] = Module(name, relative, text, ast.parse(text))
        return cls(package.name, modules)

    def imports(self) -> Iterator[tuple[Module, Import]]:
        """Every import of every module."""
        for module in self.modules.values():
            for imported in self.imports_under(module.tree, module):
                yield module, imported

    def imports_under(self, tree: ast.AST, module: Module) -> Iterator[Import]:
        """Every import under `tree`, a part of `module`; `from package import module` is one."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, "", node.lineno)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    parts = module.path.with_suffix("").parts[: -node.level]
                    base = ".".join([*parts, base] if base else parts)
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    target = inner if inner in self.modules else base
                    yield Import(target, alias.name, node.lineno)

    def classes(self) -> dict[str, set[str]]:
        """The name of every class, with the names of its bases."""
        every = (node for m in self.modules.values() for node in m.nodes(ast.ClassDef))
        return {node.name: bases(node) for node in every}


def room_of(name: str) -> str:
    """The room of a module of the package."""
    return (name.split(".") + [""])[1]


def bases(node: ast.ClassDef) -> set[str]:
    """The names of a class's bases, without their modules and type arguments."""
    return {ast.unparse(base).split("[")[0].rsplit(".")[-1] for base in node.bases}

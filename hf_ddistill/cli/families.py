"""The families of the package and their members, read from their source: no torch is imported.

A family is a class that derives from `Configurable` itself; its members are the concrete classes
beneath it in the same room (a folder, or a file). So the command line knows each id and each
setting before it imports what it runs, and a new member needs no entry here. Members that other
packages have registered in this process are known as well.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A field of a member.

    Args:
        name, annotation: as in its class.
        default: as it stands in the source; None where it has to be given.
        about: what the docstring, or the field's own help, says of it.
    """

    name: str
    annotation: str
    default: str | None
    about: str

    @property
    def accepted(self) -> list[str]:
        """The types that the annotation names."""
        return [part.strip() for part in self.annotation.split("|")]


@dataclasses.dataclass(frozen=True)
class Member:
    """A concrete class: its id, its name, the first sentence of its docstring, its settings."""

    id: str
    name: str
    about: str
    settings: tuple[Setting, ...]

    def setting(self, name: str) -> Setting | None:
        """The one of a name, if there is one."""
        return next((each for each in self.settings if each.name == name), None)


@dataclasses.dataclass(frozen=True)
class _Class:
    node: ast.ClassDef
    constants: dict[str, ast.expr]

    @property
    def bases(self) -> list[str]:
        return [ast.unparse(base).split("[")[0].split(".")[-1] for base in self.node.bases]

    @property
    def is_dataclass(self) -> bool:
        return any("dataclass" in ast.unparse(each) for each in self.node.decorator_list)


@functools.cache
def family_rooms() -> dict[str, tuple[str, Path]]:
    """For the name of each family, its class and the file or folder of its members."""
    rooms = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in re.findall(r"^class (\w+)\(Configurable\b", path.read_text("utf-8"), re.M):
            rooms[name.lower()] = name, path if path.parent == PACKAGE else path.parent
    return rooms


def members(family: str) -> dict[str, Member]:
    """The members of a family by their ids, of this package and of what else is imported."""
    return {**_in_source(family), **_registered(family)}


@functools.cache
def structures(family: str) -> dict[str, Member]:
    """The dataclasses beside the members of a family that are no members, by their names."""
    classes = _classes(family)
    return {name: _member(classes, name) for name, found in classes.items() if found.is_dataclass}


@functools.cache
def _in_source(family: str) -> dict[str, Member]:
    base, _ = family_rooms()[family]
    classes = _classes(family)
    found = (name for name in classes if base in _lineage(classes, name) and name != base)
    concrete = (_member(classes, name) for name in found if _is_concrete(classes, name))
    return {member.id: member for member in concrete}


@functools.cache
def _classes(family: str) -> dict[str, _Class]:
    _, room = family_rooms()[family]
    classes = {}
    for path in [room] if room.is_file() else sorted(room.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        constants = {
            node.targets[0].id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                classes[node.name] = _Class(node, constants)
    return classes


def _lineage(classes: dict[str, _Class], name: str) -> list[str]:
    """A class and those that it derives from, the remotest first: of its bases the last, whose
    methods those before it replace."""
    above = reversed(classes[name].bases) if name in classes else []
    return list(dict.fromkeys([*(n for base in above for n in _lineage(classes, base)), name]))


def _is_concrete(classes: dict[str, _Class], name: str) -> bool:
    abstract: set[str] = set()
    for each in _lineage(classes, name):
        for node in classes[each].node.body if each in classes else []:
            if isinstance(node, ast.FunctionDef):
                marks = {ast.unparse(mark).split(".")[-1] for mark in node.decorator_list}
                abstract = (abstract - {node.name}) | (
                    {node.name} if "abstractmethod" in marks else set()
                )
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                abstract -= {ast.unparse(target) for target in targets}
            elif isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
                abstract -= {ast.unparse(node.target)}  # a field of the dataclass
    return not abstract and not name.startswith("_")


def _member(classes: dict[str, _Class], name: str) -> Member:
    settings: dict[str, Setting] = {}
    own_id = ""
    for each in _lineage(classes, name):
        if each not in classes:
            continue
        is_dataclass = classes[each].is_dataclass
        about = _arguments(ast.get_docstring(classes[each].node) or "")
        for node in classes[each].node.body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            annotation, field = ast.unparse(node.annotation), node.target.id
            if "ClassVar" not in annotation and is_dataclass:
                default, said = _default(node.value, classes[each].constants)
                text = said or about.get(field, "")
                settings[field] = Setting(field, annotation.strip("'\""), default, text)
            elif field == "id" and each == name and isinstance(node.value, ast.Constant):
                own_id = str(node.value.value)
    own_id = own_id or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    first = (ast.get_docstring(classes[name].node) or "").split("\n\n")[0]
    return Member(own_id, name, " ".join(first.split()), tuple(settings.values()))


def _default(node: ast.expr | None, constants: dict[str, ast.expr]) -> tuple[str | None, str]:
    """A field's default and its help."""
    if not isinstance(node, ast.Call) or ast.unparse(node.func).split(".")[-1] != "field":
        node = constants.get(node.id, node) if isinstance(node, ast.Name) else node
        return (None if node is None else ast.unparse(node)), ""
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    said = ""
    if isinstance(given.get("metadata"), ast.Dict):
        pairs = zip(given["metadata"].keys, given["metadata"].values, strict=True)
        said = _text({ast.unparse(key): value for key, value in pairs}.get("'help'"), constants)
    if "default_factory" in given:
        return f"{ast.unparse(given['default_factory'])}()", said
    return _default(given.get("default"), constants)[0], said


def _text(node: ast.expr | None, constants: dict[str, ast.expr]) -> str:
    """A string of the source; of a formatted one, names of constants are filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, constants) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, constants)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "', '.join":
        (joined,) = node.args
        names = constants.get(joined.id) if isinstance(joined, ast.Name) else joined
        return ", ".join(map(str, ast.literal_eval(names))) if names is not None else ""
    if isinstance(node, ast.Name) and node.id in constants:
        return _text(constants[node.id], constants)
    return str(node.value) if isinstance(node, ast.Constant) else ""


def _arguments(docstring: str) -> dict[str, str]:
    """What the "Args:" of a docstring says of each."""
    told: dict[str, str] = {}
    names: list[str] = []
    for line in docstring.partition("\nArgs:\n")[2].splitlines():
        start = re.match(r"    (\w+(?:, \w+)*)(?: \(.*?\))?: (.*)", line)
        if start:
            names = start[1].split(", ")
            told.update(dict.fromkeys(names, start[2]))
        elif line.startswith("        ") and names:
            told.update({name: f"{told[name]} {line.strip()}" for name in names})
        else:
            if line.strip():
                break
            names = []
    return told


def _registered(family: str) -> dict[str, Member]:
    """The members that have been imported and are of no file of this package."""
    configurable = sys.modules.get("hf_ddistill.configurable")
    if configurable is None:
        return {}
    found = {}
    for base in configurable.Configurable.__subclasses__():
        for name, cls in base.registry.items() if base.family == family else ():
            if not cls.__module__.startswith(f"{PACKAGE.name}."):
                found[name] = _live_member(cls)
    return found


def _live_member(cls: type) -> Member:
    about = _arguments(inspect.getdoc(cls) or "")
    settings = []
    for field in dataclasses.fields(cls):
        # A module without `from __future__ import annotations` has types where others have text.
        kind = field.type
        annotation = kind.__name__ if isinstance(kind, type) else str(kind)
        default = None if field.default is dataclasses.MISSING else repr(field.default)
        if field.default_factory is not dataclasses.MISSING:
            default = repr(field.default_factory())
        said = field.metadata.get("help", "") or about.get(field.name, "")
        settings.append(Setting(field.name, annotation, default, said))
    first = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    return Member(cls.id, cls.__name__, first, tuple(settings))

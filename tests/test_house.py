"""The import law and the budgets of the house, held by parsing the package: nothing is imported.

A *room* is a top-level name of the package, `hf_ddistill/ROOM.py` or `hf_ddistill/ROOM/`; the
package's own `__init__` is the room "". A *floor* is a set of rooms; a module imports only from
rooms on floors below its own. A *finding* is one line that names the place and what is wrong.
"""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from parsed_house import House, room_of

ROOT = Path(__file__).parents[1]

FLOORS = (  # lowest first; rooms on one floor never import each other
    {"kinds"},
    {"shapes", "configurable", "lazy", "after_import"},
    {"registration", "places"},
    {"linalg", "schedules", "divergences"},
    {"processes", "unmasking"},
    {"diffusion"},
    {"parameterizations"},
    {"denoisers"},
    {"samplers"},
    {"couplings"},
    {"objectives"},
    {"laboratory"},
    {"outputs", "decoding"},
    {"schedulers", "models"},
    {"convert", "training", "pipelines"},
    {"evaluation", "diagnosis", "sharing"},
    {"hub"},
    {""},
    {"cli"},
)
CORE = set().union(*FLOORS[:11])
HUGGING_FACE = {"accelerate", "datasets", "diffusers", "evaluate", "huggingface_hub", "peft"}
HUGGING_FACE |= {"safetensors", "tokenizers", "transformers", "trl"}
OPTIONAL = {"psutil", "rdkit", "fcd", "torchao"}  # extras: what alone may be imported in a function

MAX_FILE, MAX_FUNCTION, MAX_POSITIONAL, MAX_INHERITANCE, MAX_EXAMPLE = 300, 60, 6, 2, 79
Function = ast.FunctionDef | ast.AsyncFunctionDef


def imports_go_downwards(house: House) -> Iterator[str]:
    level = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    for module in house.modules.values():
        if module.room not in level:
            yield f"{module.place()}: {module.room!r} stands on no floor of the import law"
    for module, imported in house.imports():
        here, there = module.room, room_of(imported.target)
        if imported.target.split(".")[0] != house.package or here == there:
            continue
        if level.get(there, -1) >= level.get(here, len(FLOORS)):
            names = f"{here or '__init__'} imports {there or '__init__'}"
            yield f"{module.place(imported.line)}: {names}, not downwards"


def no_module_imports_itself_in_a_circle(house: House) -> Iterator[str]:
    graph = {name: set() for name in house.modules}
    for module, imported in house.imports():
        graph[module.name] |= {imported.target} & house.modules.keys() - {module.name}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield f"circle: {' <- '.join(error.args[1])}"


def the_core_imports_no_hugging_face_library(house: House) -> Iterator[str]:
    for module, imported in house.imports():
        library = imported.target.split(".")[0]
        if module.room in CORE and library in HUGGING_FACE:
            yield f"{module.place(imported.line)}: the core imports {library}"


def the_trainer_names_no_objective(house: House) -> Iterator[str]:
    classes = house.classes()

    def is_objective(name: str) -> bool:
        return any(base == "Objective" or is_objective(base) for base in classes.get(name, ()))

    for module, imported in house.imports():
        if module.room == "training" and is_objective(imported.name):
            yield f"{module.place(imported.line)}: the Trainer names {imported.name}"


def no_import_stands_inside_a_function(house: House) -> Iterator[str]:
    for module in house.modules.values():
        for function in module.nodes(Function):
            for imported in house.imports_under(function, module):
                if imported.target.split(".")[0] not in OPTIONAL:
                    place = module.place(imported.line)
                    yield f"{place}: {function.name} imports {imported.target} inside itself"


def sizes_are_within_budget(house: House) -> Iterator[str]:
    for module in house.modules.values():
        if (lines := module.text.count("\n")) > MAX_FILE:
            yield f"{module.place()}: {lines} lines, over {MAX_FILE}"
        if module.path.name == "utils.py":
            yield f"{module.place()}: a file is named for what it holds, never utils.py"
        for function in module.nodes(Function):
            documented = ast.get_docstring(function) is not None and len(function.body) > 1
            body = function.end_lineno - function.body[documented].lineno + 1
            place = f"{module.place(function.lineno)}: {function.name}"
            if body > MAX_FUNCTION:
                yield f"{place}: {body} lines of body, over {MAX_FUNCTION}"
            arguments = function.args.posonlyargs + function.args.args
            count = sum(argument.arg not in {"self", "cls"} for argument in arguments)
            if count > MAX_POSITIONAL and function.name != "__init__":  # configurations are wide
                yield f"{place}: {count} positional parameters"


def inheritance_is_shallow(house: House) -> Iterator[str]:
    own = house.classes()

    def depth(name: str) -> int:
        return max((1 + depth(base) for base in own[name] & own.keys() - {name}), default=0)

    for name in own:
        if depth(name) > MAX_INHERITANCE:
            yield f"class {name}: {depth(name)} levels of our own inheritance"


def public_names_are_documented(house: House) -> Iterator[str]:
    for module in house.modules.values():
        if module.tree.body and not ast.get_docstring(module.tree):
            yield f"{module.place()}: a module without a docstring"
        for node in module.tree.body:
            is_public = isinstance(node, Function | ast.ClassDef) and node.name[0] != "_"
            if is_public and not ast.get_docstring(node):
                yield f"{module.place(node.lineno)}: {node.name}: public, no docstring"


CHECKS: tuple[Callable[[House], Iterator[str]], ...] = (
    imports_go_downwards,
    no_module_imports_itself_in_a_circle,
    the_core_imports_no_hugging_face_library,
    the_trainer_names_no_objective,
    no_import_stands_inside_a_function,
    sizes_are_within_budget,
    inheritance_is_shallow,
    public_names_are_documented,
)


@functools.cache
def ours() -> House:
    """The package; parsing it takes seconds."""
    return House.read(ROOT / "hf_ddistill")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_law(check):
    found = list(check(ours()))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("files", ["tests/**/*.py", "examples/**/*.py", "examples/[0-9]*.py"])
def test_a_file_outside_the_package_is_not_too_long(files):
    limit = MAX_EXAMPLE if "[0-9]" in files else MAX_FILE  # these teach
    lines = {path.name: path.read_text().count("\n") for path in ROOT.glob(files)}
    assert not {name: count for name, count in lines.items() if count > limit}


LONG = "def run():\n" + '    """Run."""\n' + "    pass\n" * (MAX_FUNCTION + 1)
VIOLATIONS = {  # files of a toy package, and words of the one finding that they must cause
    "upwards": ({"diffusion.py": "from .samplers import x\n"}, "diffusion imports samplers"),
    "sideways": ({"models/a.py": "import toy.schedulers\n"}, "models imports schedulers"),
    "the face": ({"hub.py": "from toy import x\n"}, "hub imports __init__"),
    "wide face": ({"__init__.py": "from . import cli\n", "cli.py": ""}, "__init__ imports cli"),
    "no floor": ({"helpers.py": ""}, "'helpers' stands on no floor"),
    "circle": (
        {"linalg/a.py": "from .b import x\n", "linalg/b.py": "from toy.linalg import a\n"},
        "toy.linalg.a <-",
    ),
    "core": ({"schedules.py": "import transformers.utils\n"}, "core imports transformers"),
    "objective": (
        {
            "objectives/ecd.py": 'class ECD(Objective[int]):\n    """One."""\n',
            "training/t.py": "from toy.objectives.ecd import ECD\n",
        },
        "the Trainer names ECD",
    ),
    "inside": ({"cli.py": "def _f():\n    import peft\n"}, "_f imports peft inside itself"),
    "long file": ({"shapes.py": "\n" * (MAX_FILE + 1)}, f"lines, over {MAX_FILE}"),
    "long function": ({"shapes.py": LONG}, f"run: {MAX_FUNCTION + 1} lines of body"),
    "utils": ({"linalg/utils.py": ""}, "never utils.py"),
    "parameters": ({"shapes.py": "def _f(a, b, c, d, e, f, g):\n    pass\n"}, "7 positional"),
    "depth": (
        {"shapes.py": "class _A: ...\nclass _B(_A): ...\nclass _C(_B): ...\nclass _D(_C): ...\n"},
        "class _D: 3 levels",
    ),
    "docstring": ({"shapes.py": "class Shape: ...\n"}, "Shape: public, no docstring"),
}


def findings(folder: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('"""A toy."""\n' + text)
    return [finding for check in CHECKS for finding in check(House.read(folder))]


@pytest.mark.parametrize(("files", "expected"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_broken_law_is_reported_once(tmp_path, files, expected):
    found = findings(tmp_path / "toy", files)
    assert len(found) == 1 and expected in found[0], found


def test_what_the_law_allows_is_not_reported(tmp_path):
    allowed = {
        "__init__.py": "from toy.hub import push\n",
        "hub.py": 'import psutil\nfrom . import models\ndef push():\n    """Push."""\n',
        "models/__init__.py": "from .bert import Bert\n",
        "models/bert.py": 'import transformers\nclass Bert:\n    """A model."""\n',
        "training/t.py": "from toy.objectives import Objective\n",
        "objectives/__init__.py": 'class Objective:\n    """One."""\n',
        "cli.py": "import toy\nfrom toy import push\ndef _f():\n    import psutil\n",
    }
    assert findings(tmp_path / "toy", allowed) == []

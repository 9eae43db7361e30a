"""The commands: the options of each, and the module that it imports when it runs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from hf_ddistill.cli.logged import logged
from hf_ddistill.cli.options.card import CardOptions
from hf_ddistill.cli.options.convert import ConvertOptions
from hf_ddistill.cli.options.diagnose import DiagnoseOptions
from hf_ddistill.cli.options.distill import DistillOptions
from hf_ddistill.cli.options.evaluate import EvaluateOptions
from hf_ddistill.cli.options.exact import ExactOptions
from hf_ddistill.cli.options.export import ExportOptions
from hf_ddistill.cli.options.list_families import ListOptions
from hf_ddistill.cli.options.push import PushOptions
from hf_ddistill.cli.options.quickstart import QuickstartOptions
from hf_ddistill.cli.options.sample import SampleOptions
from hf_ddistill.cli.options.teacher import TeacherOptions


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        options: a dataclass; the first line of its docstring is the command's help.
        module: of `hf_ddistill.cli`, with `run(options) -> int`.
        epilog: at the end of its help.
    """

    options: type
    module: str
    epilog: str | None = None

    @property
    def help(self) -> str:
        """What it does, in a few words."""
        return (self.options.__doc__ or "").splitlines()[0]

    def imported(self) -> Any:
        """Its module, with all that it runs."""
        return importlib.import_module(f"hf_ddistill.cli.{self.module}")


COMMANDS = {
    "quickstart": Command(QuickstartOptions, "quickstart"),
    "teacher": Command(TeacherOptions, "teacher", logged()),
    "distill": Command(DistillOptions, "distill", logged(distillation=True)),
    "sample": Command(SampleOptions, "sample"),
    "evaluate": Command(EvaluateOptions, "evaluate"),
    "exact": Command(ExactOptions, "exact"),
    "diagnose": Command(DiagnoseOptions, "diagnose"),
    "list": Command(ListOptions, "list_families"),
    "convert": Command(ConvertOptions, "convert"),
    "export": Command(ExportOptions, "export"),
    "card": Command(CardOptions, "card"),
    "push": Command(PushOptions, "push"),
}

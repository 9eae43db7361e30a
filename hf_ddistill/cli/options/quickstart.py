"""Options of `hf-ddistill quickstart`."""

from __future__ import annotations

from dataclasses import dataclass

from hf_ddistill.cli.options.option import option
from hf_ddistill.cli.options.shared import WritesOptions
from hf_ddistill.cli.values import SEED


@dataclass
class QuickstartOptions(WritesOptions):
    """distil a teacher of handwritten digits, with pictures and figures (no download)"""

    output: str = option("folder", "quickstart")
    fast: bool = option("under two minutes, rougher figures", False)
    from_scratch: bool = option("train the teacher, too (7,000 steps)", False)
    seed: int = option("of all that is drawn", 0, kind=SEED)

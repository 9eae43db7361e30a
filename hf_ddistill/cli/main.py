"""`hf-ddistill`: reads the command line, then imports what the command runs, and runs it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from hf_ddistill.cli.commands import COMMANDS
from hf_ddistill.cli.parser import parsed
from hf_ddistill.cli.terminal import quiet_unless_terminal
from hf_ddistill.cli.written import check_outputs


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 if it worked, 2 for a wrong argument (one sentence on stderr), 130 if interrupted.
    """
    try:
        name, options = parsed(list(sys.argv[1:] if argv is None else argv))
        if name is None:
            return 0
        check_outputs(options)
        importlib.import_module("hf_ddistill.cli.members").check_members(options)
        module = COMMANDS[name].imported()
        quiet_unless_terminal()
        return module.run(options)
    except (ValueError, OSError) as error:
        print(f"hf-ddistill: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hf-ddistill: interrupted; the same command goes on or starts anew.", file=sys.stderr)
        return 130

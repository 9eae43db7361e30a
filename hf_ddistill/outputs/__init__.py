"""What is written, and what is never touched: one rule for every command and saving function.

*Ours* is a file that a folder's record (`.hf_ddistill.json`) lists with the contents that it still
has. Everything else is the user's: it is neither deleted nor replaced, whatever is asked.
"""

from hf_ddistill.outputs.names import is_model_file
from hf_ddistill.outputs.record import Print, Record
from hf_ddistill.outputs.rule import check_file, check_folder
from hf_ddistill.outputs.writing import (
    move_files,
    recover,
    remove_ours,
    set_aside,
    writing,
    writing_file,
)

__all__ = [
    "Print",
    "Record",
    "check_file",
    "check_folder",
    "is_model_file",
    "move_files",
    "recover",
    "remove_ours",
    "set_aside",
    "writing",
    "writing_file",
]

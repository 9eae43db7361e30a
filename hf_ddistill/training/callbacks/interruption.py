"""An interruption from outside, Ctrl-C or a scheduler's SIGTERM, that loses no work."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Interruption(TrainerCallback):
    """Ends training after the step in which SIGINT or SIGTERM came, with a checkpoint.

    Where there are several processes, the signal may come to one of them: they ask each other after
    each step. A second Ctrl-C in a run of one process stops at once (a launcher of several repeats
    the signal by itself).

    Args:
        accelerator: of the training.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        #: Number of the signal that came; 0 for none.
        self.signal = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within it the two signals are noted; only the main thread can have them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for number in before:
                signal.signal(number, self._note)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        alone = self.accelerator.num_processes == 1
        if self.signal == number == signal.SIGINT and alone:
            raise KeyboardInterrupt
        if not self.signal and self.accelerator.is_main_process:
            # print is not safe here: the signal may have come within another one.
            again = "; once more stops at once" if number == signal.SIGINT and alone else ""
            os.write(2, f"\nhf-ddistill: stopping after this step{again}.\n".encode())
        self.signal = self.signal or number

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Ask for a checkpoint and the end of this step, if the signal came to any process.

        So early that whatever looks at the end of a step whether it will be saved knows of it.
        """
        if self.accelerator.num_processes > 1:
            mine = torch.tensor([self.signal], device=self.accelerator.device)
            self.signal = int(self.accelerator.gather(mine).max())
        if self.signal:
            control.should_save = control.should_training_stop = True

"""The part of `hf-ddistill diagnose` that trains: from the model's weights, and from fresh ones."""

from __future__ import annotations

import copy
import tempfile

from torch import nn
from transformers import PreTrainedModel, PrinterCallback

from hf_ddistill.cli.data import load_data, without_labels
from hf_ddistill.cli.options.diagnose import DiagnoseOptions
from hf_ddistill.diagnosis.conditioning import Row, warm_against_random
from hf_ddistill.models.tokenizers import load_tokenizer
from hf_ddistill.training import DiscreteDistillationConfig, DiscreteDistillationTrainer


def start_rows(model: PreTrainedModel, options: DiagnoseOptions) -> list[Row]:
    """The losses of `start_steps` steps of ECD on the data, with the model as the teacher."""
    data = load_data(options)
    if not getattr(model.config, "num_classes", 0):
        data = without_labels(data)
    text = "input_ids" not in next(iter(data))
    tokenizer = load_tokenizer(options.model) if text else None

    def train(student: nn.Module) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            settings = DiscreteDistillationConfig(
                folder,
                max_steps=options.start_steps,
                max_length=options.length,
                per_device_train_batch_size=32,
                learning_rate=3e-4,
                lr_scheduler_type="constant",
                ema_decay=0.0,
                seed=options.seed,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=model.device.type == "cpu",
            )
            trainer = DiscreteDistillationTrainer(
                student.train(),
                copy.deepcopy(model),
                "ecd",
                settings,
                train_dataset=data,
                processing_class=tokenizer,
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    return warm_against_random(train, model, options.seed)

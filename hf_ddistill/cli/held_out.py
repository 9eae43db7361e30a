"""The likelihood bound of a model on data that are held out."""

from __future__ import annotations

import tempfile

from transformers import PrinterCallback

from hf_ddistill.cli.data import check_length, load, without_labels
from hf_ddistill.cli.new_network import bound_of
from hf_ddistill.cli.options.evaluate import EvaluateOptions
from hf_ddistill.models import unwrapped
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.training import DiscreteDiffusionConfig, DiscreteDiffusionTrainer


def held_out_bound(pipe: DiscreteDiffusionPipeline, options: EvaluateOptions) -> float:
    """The bound on -log p(x_0) of the model as it is trained, in nats per token of `options.data`.

    It is of the denoiser, in as many steps as it takes, and not of a few-step sampler's law. Its
    noise is drawn from `options.seed`, the same for all models of one vocabulary.
    """
    model = unwrapped(pipe.model)
    data = load(options.data, options.split)
    if not getattr(model.config, "num_classes", 0):
        data = without_labels(data)
    check_length(data, model, options.max_length)
    with tempfile.TemporaryDirectory() as folder:
        trainer = DiscreteDiffusionTrainer(
            model,
            DiscreteDiffusionConfig(
                folder,
                ema_decay=0.0,
                max_length=options.max_length,
                per_device_eval_batch_size=min(options.batch_size, 64),
                seed=options.seed,
                report_to="none",
                disable_tqdm=True,
                use_cpu=model.device.type == "cpu",
            ),
            bound_of(model, label_dropout=0.0),
            eval_dataset=data,
            processing_class=pipe.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer.evaluate()["eval_loss"]

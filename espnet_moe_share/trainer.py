"""ESPnet's trainer with a picture of the experts' load for TensorBoard."""

from typing import Any

from espnet2.train.trainer import Trainer


class LoadFigureTrainer(Trainer):
    """``espnet2.train.trainer.Trainer`` that adds a heat map to TensorBoard after every epoch.

    The image ``expert_load`` under ``train`` shows, for a model with experts, the share of the
    epoch's choices that each expert of each layer had. Training itself is ESPnet's. Without
    ``use_tensorboard`` there is no image.
    """

    @classmethod
    def train_one_epoch(cls, **kwargs: Any) -> bool:
        """Arguments and result are those of ESPnet's trainer, which names them all."""
        model = getattr(kwargs["model"], "module", kwargs["model"])  # inside DDP
        load = getattr(model, "epoch_load", None)
        if load is not None:
            load.reset()
        all_steps_are_invalid = super().train_one_epoch(**kwargs)
        writer, shares = kwargs["summary_writer"], load.shares() if load is not None else {}
        if writer is not None and shares:
            from espnet_moe_share.usage.figures import load_figure

            epoch = kwargs["reporter"].get_epoch()
            figure = load_figure(shares, f"Load of the experts in training, epoch {epoch}")
            writer.add_figure("expert_load", figure, epoch)
        return all_steps_are_invalid

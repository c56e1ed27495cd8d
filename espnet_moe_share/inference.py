"""ESPnet's beam search for models that use our classes.

from espnet_moe_share.inference import Speech2Text
speech2text = Speech2Text("exp/student/config.yaml", "exp/student/valid.acc.ave.pth")
text, tokens, token_ids, hypothesis = speech2text(waveform)[0]
"""

from pathlib import Path
from typing import Any

from espnet2.bin.asr_inference import Speech2Text as ESPnetSpeech2Text

from espnet_moe_share.checkpoint import check_model_file, require_files
from espnet_moe_share.task import ASRTask


class Speech2Text(ESPnetSpeech2Text):
    """``espnet2.bin.asr_inference.Speech2Text`` with our classes and strict loading.

    Takes every argument of ESPnet's class.

    Raises:
        ConfigurationError: The configuration or the model file is missing.
        CheckpointMismatchError: The model file does not fit the configuration.
    """

    def __init__(
        self,
        asr_train_config: Path | str | None = None,
        asr_model_file: Path | str | None = None,
        **kwargs: Any,
    ) -> None:
        # Missing files are named here; ESPnet's constructor, which builds with its own task, does
        # not look at the keys.
        require_files(asr_train_config, asr_model_file)
        super().__init__(asr_train_config, asr_model_file, **kwargs)
        if asr_model_file is None:
            return
        if kwargs.get("quantize_asr_model", False):
            # Quantised modules have other keys than the checkpoint: compare a plain build.
            ASRTask.build_model_from_file(asr_train_config, asr_model_file)
        else:
            check_model_file(self.asr_model, asr_model_file)

    @staticmethod
    def from_pretrained(model_tag: str | None = None, **kwargs: Any) -> "Speech2Text":
        """Build from a packed model: a zip or folder of ``espnet2.bin.pack``, or a hub's name.

        Args:
            model_tag: Local path or name that espnet_model_zoo understands.
            kwargs: Arguments of the constructor; they win over the packed ones.
        """
        if model_tag is not None:
            from espnet_model_zoo.downloader import ModelDownloader

            kwargs = {**ModelDownloader().download_and_unpack(model_tag), **kwargs}
        return Speech2Text(**kwargs)

"""ESPnet's beam search for models that use our classes.

from espnet_moe_share.inference import Speech2Text
speech2text = Speech2Text("exp/student/config.yaml", "exp/student/valid.acc.ave.pth")
text, tokens, token_ids, hypothesis = speech2text(waveform)[0]
"""

from pathlib import Path
from typing import Any

from espnet2.bin.asr_inference import Speech2Text as ESPnetSpeech2Text
from espnet2.utils.pretrained import download_pretrained

from espnet_moe_share.checkpoint import check_keys, read_weights, require_files
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.other_plug_in import other_plug_in_errors
from espnet_moe_share.task import ASRTask


class Speech2Text(ESPnetSpeech2Text):
    """``espnet2.bin.asr_inference.Speech2Text`` with our classes and strict loading.

    Takes every argument of ESPnet's class. Called with a waveform (T,), it returns the n-best list
    of (text, tokens, token ids, hypothesis); called with a list of waveforms, which are decoded as
    one batch, the list of their n-best lists.

    Raises:
        ConfigurationError: The configuration or a model file is missing, a model file holds more
            than weights, or the configuration needs another plug-in.
        CheckpointMismatchError: The model file does not fit the configuration.
    """

    def __init__(
        self,
        asr_train_config: Path | str | None = None,
        asr_model_file: Path | str | None = None,
        **kwargs: Any,
    ) -> None:
        # ESPnet's constructor builds with its own task, which neither names missing files nor
        # looks at the keys, and which may be told to unpickle anything.
        require_files(asr_train_config, asr_model_file)
        state = None if asr_model_file is None else read_weights(asr_model_file)
        for name in ("lm_file", "word_lm_file"):
            if kwargs.get(name) is not None:
                read_weights(kwargs[name])
        with other_plug_in_errors():
            super().__init__(asr_train_config, asr_model_file, **kwargs)
        if state is None:
            return
        if kwargs.get("quantize_asr_model", False):
            # Quantised modules have other keys than the checkpoint: compare a plain build.
            ASRTask.build_model_from_file(asr_train_config, asr_model_file)
        else:
            check_keys(self.asr_model.state_dict(), state, str(asr_model_file))

    @staticmethod
    def from_pretrained(model_tag: str | None = None, **kwargs: Any) -> "Speech2Text":
        """Build from a packed model: an archive of ``espnet2.bin.pack``, or what it unpacks to.

        Args:
            model_tag: Path of the archive, or of a folder with its contents (such as a clone of a
                Hugging Face repository), or the name of one on the hub.
            kwargs: Arguments of the constructor; they win over the packed ones.

        Raises:
            ConfigurationError: The folder is none of a packed model.
        """
        if model_tag is None:
            return Speech2Text(**kwargs)
        read = _of_folder if Path(model_tag).is_dir() else download_pretrained
        return Speech2Text(**{**read(model_tag), **kwargs})


def _of_folder(folder: str) -> dict[str, Any]:
    """Read the constructor's arguments from a folder, which ESPnet would take for an archive."""
    from espnet_model_zoo.downloader import ModelDownloader

    if not (Path(folder) / "meta.yaml").is_file():
        raise ConfigurationError(
            f"{folder}: no meta.yaml, which espnet2.bin.pack writes; give its archive or what it "
            "unpacks to, or asr_train_config and asr_model_file"
        )
    # What it does with a folder that it got from the hub: paths inside config.yaml are made
    # absolute, in a copy.
    return ModelDownloader._unpack_cache_dir_for_huggingface(str(Path(folder).absolute()))

"""Data directories as ESPnet2's recipes have them: wav.scp and text."""

from pathlib import Path
from typing import Any

import soundfile
from espnet2.fileio.read_text import read_2columns_text
from espnet3.components.data.base_dataset import BaseDataset
from espnet3.contract import Field


class DataDirectory(BaseDataset):
    """The utterances of one data directory, in the order of its wav.scp.

    Args:
        split: Name of the directory, such as ``mini_train``.
        data_dir: Where it lies.
        utterance_ids: Whether items have their ``utt_id``, by which ESPnet3 names its hypotheses;
            in training nothing but arrays can be collated.
    """

    def __init__(self, split: str, data_dir: str = "data", utterance_ids: bool = False) -> None:
        folder = Path(data_dir) / split
        if not (folder / "text").is_file():
            raise FileNotFoundError(f"{folder}/text: no such file; run --stages create_dataset")
        self.wavs = list(read_2columns_text(folder / "wav.scp").items())
        self.texts = read_2columns_text(folder / "text")
        self.utterance_ids = utterance_ids
        ids = (Field("utt_id", "text"),) if utterance_ids else ()
        self.fields = (*ids, Field("speech", "audio"), Field("text", "text"))

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.wavs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the waveform (T,) in -1 .. 1, and the text, of one utterance."""
        utterance, wav = self.wavs[int(index)]
        speech, _ = soundfile.read(wav, dtype="float32")
        item = {"speech": speech, "text": self.texts[utterance]}
        return {"utt_id": utterance, **item} if self.utterance_ids else item


def training_text(data_dir: str, split: str) -> list[str]:
    """Return the texts that the token list is made of, for stage ``train_tokenizer``."""
    return list(read_2columns_text(Path(data_dir) / split / "text").values())

"""The corpus, as ESPnet3 looks for it: ``Dataset``, ``DatasetBuilder`` and the tokens' text."""

from .builder import MiniBuilder as DatasetBuilder
from .dataset import DataDirectory as Dataset
from .dataset import training_text

__all__ = ["Dataset", "DatasetBuilder", "training_text"]

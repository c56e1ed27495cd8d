"""Run a trained model over a data directory and collect what its routers decide."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.usage.data import DataDirectory, read_speech
from espnet_moe_share.usage.greedy_ctc import Token, character_errors, collapse
from espnet_moe_share.usage.labels import ChoicesByLabel
from espnet_moe_share.usage.model import Encoded, UsageModel
from espnet_moe_share.usage.shuffle import draw_derangement, shuffled_experts
from espnet_moe_share.usage.tally import ExpertUsage

NUM_SHUFFLES = 3
SEED = 0


@dataclass(frozen=True)
class Trace:
    """One utterance in full, for a figure."""

    utterance: str
    samples: np.ndarray
    encoded: Encoded
    tokens: list[Token]


@dataclass
class ShuffleErrors:
    """Character errors of greedy CTC under each shuffle, of the same utterances."""

    characters: int = 0
    unshuffled: int = 0
    shuffled: dict[str, list[int]] = field(default_factory=dict)  # layer or "all" -> per draw


@dataclass
class Measured:
    """All that a run over a data directory has collected."""

    usage: ExpertUsage
    by_label: dict[str, ChoicesByLabel]
    shuffles: ShuffleErrors
    trace: Trace | None = None

    def summary(self) -> dict[str, Any]:
        """Figures for JSON: those of :meth:`ExpertUsage.summary` and more."""
        summary = self.usage.summary()
        summary["pairs"] = self.usage.pairs()
        summary["by_label"] = {name: each.summary() for name, each in self.by_label.items()}
        errors = self.shuffles
        if errors.characters:
            summary["shuffle"] = {
                "characters": errors.characters,
                "cer": 100 * errors.unshuffled / errors.characters,
                "shuffled_cer": {
                    layer: [100 * count / errors.characters for count in counts]
                    for layer, counts in errors.shuffled.items()
                },
            }
        return summary


def measure(
    model: UsageModel,
    data: DataDirectory,
    traced: str | None = None,
    shuffle_utterances: int = 0,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Measured:
    """Encode every recording once and, for the shuffling test, some of them again.

    Args:
        model: The model.
        data: What to run it over.
        traced: The utterance to keep in full.
        shuffle_utterances: At most so many, evenly spread, are encoded again with shuffled
            experts; they need a text, and the model a CTC head.
        progress: Wraps the utterances, to show how far it is.

    Raises:
        ConfigurationError: A recording cannot be read, or is too short.
    """
    names = list(data.labels) + (["token"] if model.has_ctc else [])
    measured = Measured(ExpertUsage(), {name: ChoicesByLabel() for name in names}, ShuffleErrors())
    utterances = list(data.recordings)
    count = min(shuffle_utterances, len(utterances)) if data.texts and model.has_ctc else 0
    shuffled = {utterances[n * len(utterances) // count] for n in range(count)}
    conditions = draw_shuffles(model)
    for utterance in progress(utterances):
        samples = read_speech(utterance, data.recordings[utterance], model.sampling_rate)
        try:
            encoded = model.encode(samples)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{data.recordings[utterance]} of {utterance}: {error}"
            ) from None
        measured.usage.add({path: [routing] for path, routing in encoded.routings.items()})
        for name, labels in data.labels.items():
            measured.by_label[name].add(encoded.routings, labels[utterance])
        if encoded.frame_tokens is not None:
            tokens = [model.token_list[number] for number in encoded.frame_tokens]
            measured.by_label["token"].add(encoded.routings, tokens)
        if utterance == traced:
            tokens_of = collapse(encoded.frame_tokens or [])
            measured.trace = Trace(utterance, samples, encoded, tokens_of)
        if utterance in shuffled:
            reference = data.texts[utterance]
            errors = measured.shuffles
            errors.characters += len(reference)
            errors.unshuffled += character_errors(model.text(encoded), reference)
            for name, draws in conditions.items():
                counts = errors.shuffled.setdefault(name, [0] * len(draws))
                for number, permutations in enumerate(draws):
                    with shuffled_experts(model.model.encoder, permutations):
                        text = model.text(model.encode(samples))
                    counts[number] += character_errors(text, reference)
    return measured


def draw_shuffles(model: UsageModel) -> dict[str, list[dict[str, torch.Tensor]]]:
    """Draw the permutations of the shuffling test.

    Returns:
        ``all`` and the path of each expert layer -> ``NUM_SHUFFLES`` draws -> path of a shuffled
        layer -> its permutation. A layer alone is shuffled as it is among all.
    """
    rng = np.random.default_rng(SEED)
    draws = [
        {
            path: draw_derangement(layer.router.weight.size(0), rng)
            for path, layer in model.layers.items()
        }
        for _ in range(NUM_SHUFFLES)
    ]
    alone = {path: [{path: draw[path]} for draw in draws] for path in model.layers}
    return {"all": draws, **alone}

"""Checks of what ``model_conf`` says about our losses."""

from collections.abc import Collection, Mapping
from typing import Any

from espnet_moe_share.checks import is_number
from espnet_moe_share.encoder.embedding_network import EmbeddingNetwork
from espnet_moe_share.errors import ConfigurationError

_OF_EXPERTS = ("balance_weight", "router_z_weight", "sparsity_weight", "importance_weight")


def check_weights(weights: Mapping[str, Any]) -> None:
    """Check that all are numbers of 0 or more.

    Raises:
        ConfigurationError: Names the first that is not.
    """
    for name, weight in weights.items():
        if not is_number(weight) or weight < 0:
            raise ConfigurationError(
                f"model_conf {name} must be a number of 0 or more, not {weight!r}"
                " (YAML reads 1e-3 as text; write 1.0e-3)"
            )


def check_teacher_output_size(size: Any) -> None:
    """Check that the width of the teacher's encoder output is one, or is not given.

    Raises:
        ConfigurationError: It is something else.
    """
    if size is not None and (type(size) is not int or size < 1):
        raise ConfigurationError(
            f"model_conf teacher_output_size must be a whole number from 1, or null, not {size!r}"
        )


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Check that a value is one of those that there are.

    Raises:
        ConfigurationError: It is not.
    """
    if value not in tuple(choices):  # a list or a mapping is in no dictionary
        raise ConfigurationError(f"model_conf {name} must be {' or '.join(choices)}, not {value!r}")


def check_losses_act(
    weights: Mapping[str, float],
    balance_scope: str,
    has_experts: bool,
    has_biases: bool,
    has_embedding_network: bool,
) -> None:
    """Check that every loss with a weight has something to act on, and acts alone where it must.

    Args:
        weights: Of all losses, by their names in ``model_conf``.
        balance_scope: ``layer`` or ``pool``.
        has_experts: Whether the encoder has experts.
        has_biases: Whether these are balanced by biases, too.
        has_embedding_network: Whether the encoder has an embedding network.

    Raises:
        ConfigurationError: Names the weight.
    """
    if weights["balance_weight"] > 0 and balance_scope == "pool" and has_biases:
        raise ConfigurationError(
            "model_conf balance_scope: pool lets each layer prefer some experts, which "
            "encoder_conf experts bias_update_rate does not; use balance_scope: layer, or one "
            "of the two"
        )
    for name in _OF_EXPERTS:
        if weights[name] > 0 and not has_experts:
            raise ConfigurationError(
                f"model_conf {name} is {weights[name]}, but the encoder has no experts: set it "
                "to 0, or encoder_conf experts"
            )
    if weights["embedding_ctc_weight"] > 0 and not has_embedding_network:
        raise ConfigurationError(
            f"model_conf embedding_ctc_weight is {weights['embedding_ctc_weight']}, but the "
            "encoder has no embedding network: set it to 0, or encoder_conf embedding_network"
        )


def check_network_learns(network: EmbeddingNetwork | None, has_ctc: bool) -> None:
    """Check that training has an aim for the embedding network, or leaves it as it is.

    Args:
        network: The encoder's, if it has one.
        has_ctc: Whether it has a CTC loss of its own.

    Raises:
        ConfigurationError: Nothing would train the network, and it is not frozen.
    """
    if network is None or has_ctc or not network.detach:
        return
    if any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigurationError(
            "encoder_conf embedding_network would learn from nothing, as model_conf "
            "embedding_ctc_weight is 0 and its output is detached: set the weight, or "
            "detach: false, or freeze_param: [encoder.embedding_network]"
        )


def check_teacher_files(config: str | None, model_file: str | None) -> None:
    """Check that a teacher is named by both of its files, or not at all.

    Raises:
        ConfigurationError: One of them is missing.
    """
    if (config is None) != (model_file is None):
        raise ConfigurationError(
            "model_conf needs both teacher_config and teacher_model_file, or neither"
        )

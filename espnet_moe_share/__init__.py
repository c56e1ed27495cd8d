"""Small speech encoders for ESPnet: shared layers, sparsely-gated experts, distillation.

Importing this package is light: neither torch nor ESPnet is imported before :func:`register`
(or one of the submodules) is used.
"""

__version__ = "0.1.0"


def register() -> None:
    """Make our encoders and model known to ESPnet; see :mod:`espnet_moe_share.registry`."""
    from espnet_moe_share.registry import register as register_classes

    register_classes()

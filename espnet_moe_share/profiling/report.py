"""A profile as text for people, as a row of a Markdown table, and as JSON."""

from collections.abc import Sequence
from typing import Any

from espnet_moe_share.profiling.profile import Profile
from espnet_moe_share.sharing.layers import layers_label
from espnet_moe_share.sharing.summary import SharedParts

_PARTS = {
    "encoder_layer_params": "encoder layers",
    "encoder_params": "encoder",
    "total_params": "whole model",
}
_COLUMNS = (
    "configuration",
    "encoder layers (M)",
    "the same dense (M)",
    "share",
    "encoder (M)",
    "whole model (M)",
    "active (M)",
    "encoder GMACs per second",
    "checkpoint (MB)",
)


def _sharing_line(parts: SharedParts) -> str:
    labels = [layers_label(group) for group in parts.groups]
    if all(len(group) == 1 for group in parts.groups):
        where = f"individual in layers {layers_label([group[0] for group in parts.groups])}"
    else:
        where = "shared by layers " + ", by layers ".join(labels)
    return f"  {where} ({parts.params:,} stored): {', '.join(parts.modules)}\n"


def as_text(profile: Profile) -> str:
    """Lay out one profile for reading; ends in a newline."""
    text = f"{profile.config}: encoder {profile.encoder}, {profile.num_tokens:,} tokens\n"
    text += f"  {'parameters':<16}{'stored':>14}{'active':>14}{'dense':>14}\n"
    for key, name in _PARTS.items():
        counts = (profile.stored[key], profile.active[key], profile.dense[key])
        text += f"  {name:<16}" + "".join(f"{count:>14,}" for count in counts) + "\n"
    if profile.stored != profile.dense:
        text += f"  stored encoder layers: {profile.share_of_dense:.3f} of the dense encoder's\n"
    text += (
        f"  encoder: {profile.encoder_gmacs_per_second:.3f} G multiply-accumulates per second of "
        f"speech, in {profile.speech_seconds:g} s of it\n"
        f"  checkpoint: {profile.checkpoint_bytes:,} bytes\n"
    )
    if profile.reachable != profile.active:
        text += (
            "  active if all layers that share experts choose different ones: "
            f"{profile.reachable['total_params']:,} of the whole model\n"
        )
    return text + "".join(map(_sharing_line, profile.sharing))


def as_record(profile: Profile) -> dict[str, Any]:
    """Return one profile as JSON has it."""
    return {
        "config": profile.config,
        "encoder_layer_params": profile.stored["encoder_layer_params"],
        "dense_encoder_layer_params": profile.dense["encoder_layer_params"],
        "encoder_params": profile.stored["encoder_params"],
        "total_params": profile.stored["total_params"],
        "active_params": profile.active["total_params"],
        "encoder_gmacs_per_second": profile.encoder_gmacs_per_second,
        "checkpoint_bytes": profile.checkpoint_bytes,
    }


def as_markdown(profiles: Sequence[Profile]) -> str:
    """Lay out profiles as a table, one row each; ends in a newline."""
    rows = [
        _COLUMNS,
        ("---", *("---:" for _ in _COLUMNS[1:])),
        *(
            (
                f"`{profile.config}`",
                f"{profile.stored['encoder_layer_params'] / 1e6:.2f}",
                f"{profile.dense['encoder_layer_params'] / 1e6:.2f}",
                f"{profile.share_of_dense:.3f}",
                f"{profile.stored['encoder_params'] / 1e6:.2f}",
                f"{profile.stored['total_params'] / 1e6:.2f}",
                f"{profile.active['total_params'] / 1e6:.2f}",
                f"{profile.encoder_gmacs_per_second:.3f}",
                f"{profile.checkpoint_bytes / 1e6:.1f}",
            )
            for profile in profiles
        ),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)

"""One utterance: expert of each layer over time, spectrogram, and recognised tokens."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from espnet_moe_share.plotting import OKABE_ITO, category_colors, new_figure
from espnet_moe_share.usage.figures import layer_names
from espnet_moe_share.usage.measure import Trace

_WINDOW, _SHIFT = 0.025, 0.01  # seconds
_RANGE = 80.0  # decibels below the loudest that are shown


def utterance_figure(
    trace: Trace, tokens: list[str], recognised: str, num_experts: int, sampling_rate: int
) -> Figure:
    """Draw an utterance.

    Args:
        trace: The utterance.
        tokens: Letters for each of ``trace.tokens``.
        recognised: The text that they make.
        num_experts: E.
        sampling_rate: Of its samples, in Hz.
    """
    seconds = len(trace.samples) / sampling_rate
    paths = list(trace.encoded.routings)
    height = 0.9 + 0.28 * len(paths)
    figure = new_figure(min(18.0, max(8.0, 2.5 + 2.2 * seconds)), height + 3.6)
    depth, spectrum, text = figure.subplots(3, 1, sharex=True, height_ratios=[height, 1.8, 0.6])
    _draw_experts(depth, trace, paths, seconds, num_experts)
    _draw_spectrogram(spectrum, trace.samples, sampling_rate)
    _draw_tokens(text, trace, tokens, seconds)
    depth.set_title(
        f"Expert chosen in each layer over time: {trace.utterance}\n"
        f"recognised by greedy CTC: {recognised}",
        fontsize="medium",
    )
    text.set_xlabel("time (s)")
    text.set_xlim(0, seconds)
    return figure


def _draw_experts(
    axes: Axes, trace: Trace, paths: list[str], seconds: float, num_experts: int
) -> None:
    first_LN = np.stack(
        [trace.encoded.routings[path].expert_ids_NK[:, 0].cpu().numpy() for path in paths]
    )
    colors = category_colors(num_experts)
    # Frames are spread evenly over the recording.
    image = axes.imshow(
        first_LN,
        aspect="auto",
        cmap=colors,
        vmin=-0.5,
        vmax=num_experts - 0.5,
        origin="lower",
        interpolation="nearest",
        extent=(0, seconds, -0.5, len(paths) - 0.5),
    )
    for edge in range(1, len(paths)):
        axes.axhline(edge - 0.5, color="white", linewidth=1)
    axes.set_yticks(range(len(paths)), layer_names(paths))
    axes.set_ylabel("encoder layer")
    if num_experts <= len(OKABE_ITO):
        patches = [Patch(color=colors(e), label=str(e)) for e in range(num_experts)]
        axes.legend(handles=patches, title="expert", loc="center left", bbox_to_anchor=(1, 0.5),
                    frameon=False)  # fmt: skip
    else:
        axes.figure.colorbar(image, ax=axes, label="expert", pad=0.01)


def _draw_spectrogram(axes: Axes, samples: np.ndarray, sampling_rate: int) -> None:
    size, shift = round(_WINDOW * sampling_rate), round(_SHIFT * sampling_rate)
    power = torch.stft(
        torch.from_numpy(samples),
        n_fft=size,
        hop_length=shift,
        window=torch.hann_window(size),
        return_complex=True,
    ).abs().square()  # fmt: skip
    decibels = 10 * power.clamp(min=1e-10).log10()
    top = float(decibels.max())
    axes.imshow(
        decibels.numpy(),
        aspect="auto",
        cmap="magma",
        vmin=top - _RANGE,
        vmax=top,
        origin="lower",
        extent=(0, len(samples) / sampling_rate, 0, sampling_rate / 2000),
    )
    axes.set_ylabel("frequency (kHz)")


def _draw_tokens(axes: Axes, trace: Trace, tokens: list[str], seconds: float) -> None:
    frames = len(trace.encoded.frame_tokens or []) or 1
    width = seconds / frames
    for number, (token, letters) in enumerate(zip(trace.tokens, tokens)):
        # In two rows, since neighbours may be wider than their frames.
        bottom = 0.5 * (number % 2)
        axes.axvspan(token.begin * width, token.end * width, bottom, bottom + 0.5, color="#cccccc")
        center = (token.begin + token.end) / 2 * width
        axes.text(center, bottom + 0.25, letters, ha="center", va="center")
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel("tokens", rotation=0, ha="right", va="center")

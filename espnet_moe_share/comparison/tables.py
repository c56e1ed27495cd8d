"""Markdown: one table of systems, the differences of two, and ESPnet's own tables."""

import datetime
import math
from collections.abc import Sequence

from espnet_moe_share.comparison.bootstrap import RESAMPLES, SEED, Difference
from espnet_moe_share.comparison.sclite import SCORES, Errors, read_summary
from espnet_moe_share.comparison.system import System

_RATES = {"cer": ("CER", "characters"), "wer": ("WER", "words")}
_COLUMNS = (
    *("system", "set", "encoder layers", "encoder", "total", "model file"),
    *(cell for rate, unit in _RATES.values() for cell in (rate, "Sub", "Del", "Ins", unit)),
    *("RTF", "training"),
)
_ESPNET_HEADER = "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|\n" + "|---" * 9 + "|\n"
LEGEND = """\
Parameters, each shared one counted once, in brackets as a share of the first system's. Error rates
in per cent, then numbers of substitutions, deletions, insertions and of what the references hold
(sclite). RTF: seconds of decoding for a second of speech, from the logs of all jobs, on the machine
and beside the work that there was. Training: hours:minutes:seconds with validation, and epochs.
"""


def comparison_table(systems: Sequence[System]) -> str:
    """One row for each system and set."""
    text = f"|{'|'.join(_COLUMNS)}|\n{'|---' * len(_COLUMNS)}|\n"
    for system in systems:
        for name, decoded in system.sets.items():
            cells = [system.name, name, *_parameter_cells(system, systems[0])]
            cells.append(f"{system.model_bytes / 1e6:.2f} MB")
            for score in _RATES:
                cells += _error_cells(decoded.total(score))
            cells.append("-" if decoded.time is None else f"{decoded.time.factor:.3f}")
            cells.append(_training_cell(system))
            text += f"|{'|'.join(cells)}|\n"
    return text


def _parameter_cells(system: System, first: System) -> list[str]:
    cells = []
    for field in ("encoder_layer_params", "encoder_params", "total_params"):
        number, reference = getattr(system.parameters, field), getattr(first.parameters, field)
        share = f" ({number / reference:.3f})" if system is not first and reference else ""
        cells.append(f"{number:,}{share}")
    return cells


def _error_cells(errors: Errors | None) -> list[str]:
    if errors is None:
        return ["-"] * 5
    rate = "-" if math.isnan(errors.rate) else f"{errors.rate:.1f}"
    counts = (errors.substitutions, errors.deletions, errors.insertions, errors.tokens)
    return [rate, *(f"{count:,}" for count in counts)]


def _training_cell(system: System) -> str:
    if system.training is None:
        return "-"
    length = datetime.timedelta(seconds=round(system.training.seconds))
    return f"{length} ({system.training.epochs} epochs)"


def difference_table(
    first: System, second: System, differences: dict[tuple[str, str], Difference]
) -> str:
    """What of the difference of two systems may be chance.

    Args:
        first, second: The systems.
        differences: (Set, ``cer`` or ``wer``) -> difference.
    """
    text = (
        f"{second.name} minus {first.name}, in percentage points; paired bootstrap over "
        f"utterances, {RESAMPLES:,} resamples, seed {SEED}:\n\n"
        "|set|rate|difference|95 % interval|probability of improvement|reading|\n"
        "|---|---|---|---|---|---|\n"
    )
    for (name, score), difference in differences.items():
        reading = difference.reading.replace("second", second.name)
        text += (
            f"|{name}|{SCORES[score]}|{difference.observed:+.2f}"
            f"|{difference.low:+.2f} ... {difference.high:+.2f}"
            f"|{difference.improvement:.3f}|{reading}|\n"
        )
    return text


def espnet_tables(systems: Sequence[System]) -> str:
    """WER, CER and TER as ESPnet's RESULTS.md has them; several systems' names begin the rows."""
    text = ""
    for score, title in SCORES.items():
        rows = []
        for system in systems:
            for name, decoded in system.sets.items():
                if score not in decoded.results:
                    continue
                summary = read_summary(decoded.results[score])
                dataset = f"{system.name}/{name}" if len(systems) > 1 else name
                cells = [dataset, summary.sentences, summary.words, *summary.rates]
                rows.append(f"|{'|'.join(map(str, cells))}|\n")
        if rows:
            text += f"### {title}\n\n{_ESPNET_HEADER}{''.join(rows)}\n"
    return text

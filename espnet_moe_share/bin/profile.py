"""Say what an ASR configuration costs: parameters, multiply-accumulates, checkpoint bytes.

For the YAML of any ESPnet ASR training (with ESPnet's own encoders, too) and for an experiment's
config.yaml. Nothing is trained or downloaded, and neither data nor a teacher are needed.
"""

import argparse
import contextlib
import io
import json
from pathlib import Path
from typing import NoReturn

from espnet_moe_share.errors import ConfigurationError, exit_in_one_line
from espnet_moe_share.profiling import AISHELL_TOKENS, SPEECH_SECONDS

_PROGRAM = "espnet_moe_share.bin.profile"

_EPILOG = """
stored parameters: each shared one counts once.

active parameters: stored ones without the experts that are not chosen: top_k of every pool of
experts count, however many layers share the pool. (Layers that share it may choose differently;
the text also says what a frame can reach at most over all layers.)

dense parameters: of the same encoder without sharing and experts.

multiply-accumulates: counted while the encoder, subsampling included, runs on one utterance; of
matrix products and convolutions. Those of attention grow with the utterance's length, also per
second.

checkpoint: what torch.save makes of the model's weights, in bytes.
"""


def _tokens(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 4:
        raise argparse.ArgumentTypeError(f"{text}: a number of tokens from 4 is needed")
    return number


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text}: a number of seconds above 0 is needed")


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{_PROGRAM}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog=f"python -m {_PROGRAM}",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="+", help="YAML of a training, or config.yaml")
    parser.add_argument(
        "--vocab_size",
        type=_tokens,
        default=AISHELL_TOKENS,
        metavar="N",
        help="tokens, with blank, unknown and sos/eos, of a configuration without token_list "
        f"[{AISHELL_TOKENS}, the characters of AISHELL-1]",
    )
    parser.add_argument(
        "--speech_seconds",
        type=_seconds,
        default=SPEECH_SECONDS,
        metavar="S",
        help=f"length of the utterance whose multiply-accumulates are counted [{SPEECH_SECONDS:g}]",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="write a list of objects")
    form.add_argument("--markdown", action="store_true", help="write one table")
    return parser


def main() -> None:
    """Profile the configurations of the command line."""
    args = _parser().parse_args()
    with exit_in_one_line(_PROGRAM):
        _profile(args)


def _profile(args: argparse.Namespace) -> None:
    for config in args.config:
        if not Path(config).is_file():  # before seconds of imports and of other configurations
            raise ConfigurationError(f"{config}: no such file")
    # ESPnet says on stderr which optional packages are missing.
    with contextlib.redirect_stderr(io.StringIO()):
        from espnet_moe_share.profiling.profile import profile
        from espnet_moe_share.profiling.report import as_markdown, as_record, as_text

    profiles = []
    for config in args.config:
        profiles.append(profile(config, args.vocab_size, args.speech_seconds))
        if not args.json and not args.markdown:
            print(as_text(profiles[-1]), flush=True)
    if args.json:
        print(json.dumps([as_record(one) for one in profiles], indent=2, ensure_ascii=False))
    elif args.markdown:
        print(as_markdown(profiles), end="")


if __name__ == "__main__":
    main()

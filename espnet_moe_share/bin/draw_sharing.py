"""Draw which layers of an encoder use which weights, for any configuration of an ASR training.

    python -m espnet_moe_share.bin.draw_sharing conf/train.yaml --output sharing

writes sharing.png and sharing.pdf. The weights themselves are not read.
"""

import argparse
import contextlib
import io
from pathlib import Path

from espnet_moe_share.errors import ConfigurationError, exit_in_one_line
from espnet_moe_share.files import check_writable
from espnet_moe_share.profiling import AISHELL_TOKENS

_PROGRAM = "espnet_moe_share.bin.draw_sharing"


def get_parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {_PROGRAM}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="YAML of a training, or config.yaml")
    parser.add_argument(
        "--output", type=Path, required=True, help="figure to write, without .png and .pdf"
    )
    parser.add_argument("--title", help="of the figure [the configuration's path]")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Draw the configuration of the command line."""
    args = get_parser().parse_args(arguments)
    with exit_in_one_line(_PROGRAM):
        _draw(args)


def _draw(args: argparse.Namespace) -> None:
    if not args.config.is_file():  # before seconds of imports
        raise ConfigurationError(f"{args.config}: no such file")
    from espnet_moe_share.plotting import figure_files, save

    for file in figure_files(args.output):
        check_writable(file)
    # ESPnet says on stderr which optional packages are missing.
    with contextlib.redirect_stderr(io.StringIO()):
        from espnet_moe_share.profiling.configuration import build_model, read_complete_arguments
        from espnet_moe_share.sharing.figure import sharing_figure
    model = build_model(args.config, read_complete_arguments(args.config, AISHELL_TOKENS))
    layers = getattr(model.encoder, "encoders", None)
    if layers is None:
        raise ConfigurationError(f"{args.config}: its encoder has no stack of layers")
    for file in save(sharing_figure(list(layers), args.title or str(args.config)), args.output):
        print(f"{file}: written")


if __name__ == "__main__":
    main()

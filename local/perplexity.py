"""Stage 8: perplexity of a text under the language model, in <output>/ppl.

Appends the output directory to the command, which is espnet2.bin.lm_calc_perplexity.
"""

import argparse
import hashlib
from pathlib import Path

from command_line import require_files, run
from data_directory import is_current, read_columns, whole_directory
from jobs import Job, run_jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="text, ids first")
    parser.add_argument("--output", type=Path, required=True, help="<exp>/perplexity_test")
    parser.add_argument("--depends", type=Path, nargs="+", default=[], help="model, configuration")
    parser.add_argument("command", nargs="+", help="lm_calc_perplexity with its arguments")
    args = parser.parse_args()
    output: Path = args.output
    require_files(args.depends, "is the language model trained (stage 7)?")
    read_columns(args.text)
    digests = {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (args.text, *args.depends)
    }
    made_from: dict[str, object] = {"files": digests}
    if not is_current(output, made_from):
        # The log lies beside: a failure removes the temporary directory.
        log = output.parent / f"{output.name}.log"
        with whole_directory(output, made_from) as temporary:
            run_jobs([Job("perplexity", [*args.command, "--output_dir", str(temporary)], log)])
            log.rename(temporary / "lm_calc_perplexity.log")
    perplexity = float((output / "ppl").read_text(encoding="utf-8"))
    print(f"{args.text}: perplexity {perplexity:.2f}")


if __name__ == "__main__":
    run(main)

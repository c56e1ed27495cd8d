"""Stage 13: character, word and (for bpe) token error rate of one decoded set, by NIST sclite.

References and hypotheses are tokenised by ESPnet's own tokenizers and matched by utterance id
before sclite sees them: it silently leaves out references that have no hypothesis.
"""

import argparse
import os
import shlex
import subprocess
from pathlib import Path

from command_line import UserError, run, written_whole
from data_directory import read_columns

from espnet_moe_share.comparison.sclite import read_summary

SCORES = {"cer": "char", "wer": "word", "ter": "bpe"}


def check_utterances(references: dict[str, str], hypotheses: dict[str, str], place: Path) -> None:
    """Raise UserError unless both hold the same utterances."""
    missing = sorted(references.keys() - hypotheses.keys())
    extra = sorted(hypotheses.keys() - references.keys())
    if missing or extra:
        found = [
            f"{len(utts)} {what}, such as {utts[0]}"
            for utts, what in ((missing, "hypotheses missing"), (extra, "hypotheses too many"))
            if utts
        ]
        raise UserError(f"{place}: {'; '.join(found)}; decode again with --stage 12")


def literal(token: str) -> str:
    """A token as sclite counts it; its markup for alternatives, nothing and comments is quoted.

    Unquoted, a hypothesis `{ a / b }` is right whichever was said, and a line `;; ...` is no line.
    """
    if token == "@":
        return "<at>"
    if token[:1] in (";", "*"):
        token = f"<{token[:1]}>{token[1:]}"
    return token.replace("{", "<brace>").replace("}", "</brace>")


def write_trn(path: Path, lines: dict[str, list[str]], speakers: dict[str, str]) -> None:
    """Write sclite's `trn` format: tokens, a tab, (speaker-utterance)."""
    with written_whole(path) as stream:
        for utt in sorted(lines):
            tokens = " ".join(map(literal, lines[utt]))
            stream.write(f"{tokens}\t({speakers[utt]}-{utt})\n")


def run_sclite(sclite: str, options: list[str], directory: Path, count: tuple[int, int]) -> None:
    """Score ref.trn against hyp.trn of `directory` into result.txt.

    Args:
        sclite: the program.
        options: its further options.
        directory: where the files are.
        count: utterances and tokens of the references.

    Raises:
        UserError: sclite fails, or has not scored what the references hold.
    """
    trn = [str(directory / "ref.trn"), "trn", "-h", str(directory / "hyp.trn"), "trn"]
    command = [sclite, *options, "-r", *trn, "-i", "rm", "-o", "all", "stdout"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise UserError(f"{sclite}: {error.strerror}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        raise UserError(f"sclite: {said[-1] if said else done.returncode} ({directory})")
    unchecked = directory / "result.txt.unchecked"
    unchecked.write_bytes(done.stdout)
    summary = read_summary(unchecked)
    # Options such as `-e utf-8 -c NOASCII` divide words differently; utterances stay.
    scored = (summary.sentences, count[1] if options else summary.words)
    if scored != count:
        raise UserError(
            f"{unchecked}: sclite scored {scored[0]} utterances with {scored[1]} tokens; the "
            f"references have {count[0]} with {count[1]}"
        )
    os.replace(unchecked, directory / "result.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="dump/raw/<set>")
    parser.add_argument("--decoded", type=Path, required=True, help="<exp>/<decode tag>/<set>")
    parser.add_argument("--bpemodel", help="score tokens of this model as well; none: no tokens")
    parser.add_argument("--sclite", default="sclite", help="the program")
    parser.add_argument("--score_opts", default="", help="further options of sclite")
    args = parser.parse_args()
    references = read_columns(args.data / "text")
    hypotheses = read_columns(args.decoded / "text")
    speakers = read_columns(args.data / "utt2spk")
    check_utterances(references, hypotheses, args.decoded / "text")

    from espnet2.text.build_tokenizer import build_tokenizer

    for score, token_type in SCORES.items():
        if token_type == "bpe" and args.bpemodel in (None, "none"):
            continue
        tokenizer = build_tokenizer(
            token_type=token_type,
            bpemodel=args.bpemodel if token_type == "bpe" else None,
            remove_non_linguistic_symbols=token_type != "bpe",
        )
        directory = args.decoded / f"score_{score}"
        directory.mkdir(exist_ok=True)
        (directory / "result.txt").unlink(missing_ok=True)
        counted = 0
        for name, texts in (("hyp.trn", hypotheses), ("ref.trn", references)):
            # One space between words, as ESPnet's tokenize_text reads its columns.
            words = {utt: " ".join(text.split()) for utt, text in texts.items()}
            tokens = {utt: tokenizer.text2tokens(text) for utt, text in words.items()}
            write_trn(directory / name, tokens, speakers)
            counted = sum(map(len, tokens.values()))
        count = (len(references), counted)
        run_sclite(args.sclite, shlex.split(args.score_opts), directory, count)
        summary = read_summary(directory / "result.txt")
        print(f"{directory}: {summary.error} % errors, {summary.sentences} utterances")


if __name__ == "__main__":
    run(main)

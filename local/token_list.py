"""Stage 5: the token list, in the same files as ESPnet's asr.sh makes it.

char and word through ESPnet's own tokenize_text; bpe through sentencepiece's trainer, which also
leaves bpe.model and bpe.vocab beside it. Then --check looks for symbols that a text has and the
list has not.
"""

import argparse
import hashlib
from pathlib import Path

from command_line import UserError, run, written_whole
from data_directory import is_current, read_columns, whole_directory

BLANK, UNKNOWN, SOS_EOS = "<blank>", "<unk>", "<sos/eos>"


def write_char_or_word_list(text: Path, token_type: str, output: Path) -> None:
    """`<blank> <unk> tokens by frequency <sos/eos>`, one per line."""
    from espnet2.bin.tokenize_text import tokenize

    tokenize(
        input=str(text),
        output=str(output),
        field="2-",
        delimiter=None,
        token_type=token_type,
        space_symbol="<space>",
        non_linguistic_symbols=None,
        bpemodel=None,
        log_level="WARNING",
        write_vocabulary=True,
        vocabulary_size=0,
        remove_non_linguistic_symbols=False,
        cutoff=0,
        add_symbol=[f"{BLANK}:0", f"{UNKNOWN}:1", f"{SOS_EOS}:-1"],
        cleaner=None,
        g2p=None,
        add_nonsplit_symbol=[],
    )


def write_bpe_list(
    lines: list[str], model_type: str, size: int, coverage: float, directory: Path
) -> None:
    """Train bpe.model in `directory` and write its pieces to tokens.txt.

    Raises:
        UserError: sentencepiece refuses, for example because the text is too small for `size`.
    """
    import sentencepiece

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_prefix=str(directory / "bpe"),
            vocab_size=size,
            model_type=model_type,
            character_coverage=coverage,
            input_sentence_size=100_000_000,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(f"--nbpe {size}: sentencepiece: {str(error).splitlines()[-1]}") from None
    pieces = [
        line.split("\t")[0]
        for line in (directory / "bpe.vocab").read_text(encoding="utf-8").split("\n")
        if line
    ]
    with written_whole(directory / "tokens.txt") as stream:
        # The model's first three pieces are <unk>, <s> and </s>, for which ESPnet has its own.
        stream.writelines(f"{token}\n" for token in [BLANK, UNKNOWN, *pieces[3:], SOS_EOS])


def unknown_symbols(text: Path, token_type: str, directory: Path) -> dict[str, str]:
    """Symbols of `text` that become <unk>, each with the first utterance that has it."""
    tokens = set((directory / "tokens.txt").read_text(encoding="utf-8").split("\n"))
    found: dict[str, str] = {}
    processor = None
    if token_type == "bpe":
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(model_file=str(directory / "bpe.model"))
    for utterance, line in read_columns(text).items():
        words = line.split()
        if processor is not None:
            symbols = processor.encode(line, out_type=str)
        elif token_type == "char":
            symbols = list("".join(words)) + ["<space>"] * (len(words) - 1)
        else:
            symbols = words
        for symbol in symbols:
            if symbol not in tokens:
                found.setdefault(symbol, utterance)
    return found


def check(texts: list[Path], token_type: str, directory: Path, allow_unk: bool) -> None:
    """Refuse texts with unknown characters; unknown words are nothing unusual.

    Raises:
        UserError: a character of a text is not in the list, and `allow_unk` is false.
    """
    for text in texts:
        unknown = unknown_symbols(text, token_type, directory)
        if not unknown:
            continue
        symbol, utterance = next(iter(unknown.items()))
        more = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
        message = (
            f"{text}: utterance {utterance} has '{symbol}'{more}, not in {directory / 'tokens.txt'}"
        )
        if token_type != "word" and not allow_unk:
            raise UserError(
                f"{message}; correct the text, or pass --allow_unk true to read it as {UNKNOWN}"
            )
        print(f"warning: {message}: read as {UNKNOWN}")


def make_list(args: argparse.Namespace) -> None:
    """Write the token list unless it is there and was made from the same."""
    columns = read_columns(args.text)
    made_from: dict[str, object] = {
        "text": hashlib.sha256(args.text.read_bytes()).hexdigest(),
        "token_type": args.token_type,
    }
    if args.token_type == "bpe":
        made_from["bpe"] = [args.bpemode, args.nbpe, args.bpe_char_cover]
    if is_current(args.output, made_from):
        print(f"{args.output}: up to date")
    else:
        with whole_directory(args.output, made_from) as temporary:
            if args.token_type == "bpe":
                lines = [line for line in columns.values() if line]
                write_bpe_list(lines, args.bpemode, args.nbpe, args.bpe_char_cover, temporary)
            else:
                write_char_or_word_list(args.text, args.token_type, temporary / "tokens.txt")
            size = len((temporary / "tokens.txt").read_text(encoding="utf-8").split("\n")) - 1
        print(f"{args.output / 'tokens.txt'}: {size} tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--text", type=Path, help="training text, ids first; without it the list is only checked"
    )
    parser.add_argument("--output", type=Path, required=True, help="directory of tokens.txt")
    parser.add_argument("--token_type", choices=["bpe", "char", "word"], required=True)
    parser.add_argument("--nbpe", type=int, default=30, help="bpe: number of pieces")
    parser.add_argument("--bpemode", default="unigram", help="bpe: sentencepiece's model type")
    parser.add_argument("--bpe_char_cover", type=float, default=1.0, help="bpe: coverage")
    parser.add_argument("--check", type=Path, nargs="*", default=[], help="texts to look through")
    parser.add_argument("--allow_unk", choices=["true", "false"], default="false")
    args = parser.parse_args()
    if args.text is not None:
        make_list(args)
    check(args.check, args.token_type, args.output, args.allow_unk == "true")


if __name__ == "__main__":
    run(main)

"""Stage 4: the text that language model and token list are made from, dump/raw/lm_train.txt.

Joins texts with ids as ESPnet's asr.sh does: utterances without words are left out, and the ids of
a file `text_books` get the suffix `_books`.
"""

import argparse
from pathlib import Path

from command_line import UserError, run, written_whole
from data_directory import read_columns


def join(texts: list[Path]) -> dict[str, str]:
    """Id -> words of all texts, in their order.

    Raises:
        UserError: two files have the same id, or there are no words at all.
    """
    joined: dict[str, str] = {}
    for path in texts:
        suffix = path.name.replace("text", "", 1)
        for utterance, line in read_columns(path).items():
            name = f"{utterance}{suffix}"
            if name in joined:
                raise UserError(
                    f"{path}: id {name} is in an earlier one of the texts as well; name the files "
                    "differently (text_1, text_2), and their ids will differ"
                )
            if words := " ".join(line.split()):
                joined[name] = words
    if not joined:
        raise UserError(f"{' '.join(map(str, texts))}: no utterance has words")
    return joined


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path, nargs="+", help="files of `<id> <words>` lines")
    parser.add_argument("--output", type=Path, required=True, help="dump/raw/lm_train.txt")
    args = parser.parse_args()
    content = "".join(f"{name} {words}\n" for name, words in join(args.texts).items())
    if args.output.is_file() and args.output.read_text(encoding="utf-8") == content:
        print(f"{args.output}: up to date")
        return
    with written_whole(args.output) as stream:
        stream.write(content)
    print(f"{args.output}: {content.count(chr(10))} sentences")


if __name__ == "__main__":
    run(main)

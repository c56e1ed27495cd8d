#!/usr/bin/env bash
# Stage 1 of the espeak corpus: build a corpus of any size in AISHELL-1's layout, read by eSpeak NG, and
# prepare data/espeak_{train,dev,test}. Run from the recipe's directory.
set -euo pipefail

downloads=downloads
data_dir=data
train_sentences=640
dev_sentences=100
test_sentences=150
train_speakers=24
dev_speakers=4
test_speakers=6
untranscribed=3
vocabulary=small
seed=0
# shellcheck disable=SC2034  # read by parse_options.sh
help_message="Usage: local/data_espeak.sh [options]
  --downloads <dir>      where the corpus goes (default: ${downloads})
  --data_dir <dir>       where the data directories go (default: ${data_dir})
  --train_sentences, --dev_sentences, --test_sentences   utterances with transcript (default:
                         ${train_sentences}, ${dev_sentences}, ${test_sentences})
  --train_speakers, --dev_speakers, --test_speakers      (default: ${train_speakers}, ${dev_speakers}, ${test_speakers})
  --untranscribed <n>    recordings without transcript (default: ${untranscribed})
  --vocabulary small|large   a hundred characters, or 4,800 as in a dictionary (default: ${vocabulary})
  --seed <n>             another corpus (default: ${seed})
The speech is synthetic, by eSpeak NG (GPL-3): from PATH, or fetched as Debian's package espeak-ng."

# shellcheck source=local/parse_options.sh
. local/parse_options.sh
# shellcheck source=local/espeak.sh
. local/espeak.sh
if [ $# -ne 0 ]; then
    echo "data_espeak.sh: error: unexpected argument '$1'; --help lists the options" >&2
    exit 2
fi

if ! espeak_ng=$(find_espeak); then
    fetch_espeak "${downloads}/espeak-ng"
    espeak_ng=${downloads}/espeak-ng/espeak-ng
fi
corpus=${downloads}/espeak
python3 local/espeak_aishell.py --espeak_ng "${espeak_ng}" --out "${corpus}" \
    --train_sentences "${train_sentences}" --dev_sentences "${dev_sentences}" \
    --test_sentences "${test_sentences}" --train_speakers "${train_speakers}" \
    --dev_speakers "${dev_speakers}" --test_speakers "${test_speakers}" \
    --untranscribed "${untranscribed}" --vocabulary "${vocabulary}" --seed "${seed}"
python3 local/prepare_aishell.py --aishell "${corpus}" --data_dir "${data_dir}" \
    --set_names espeak_train espeak_dev espeak_test --expect "${corpus}/data_aishell/counts.txt"

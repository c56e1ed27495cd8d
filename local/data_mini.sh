#!/usr/bin/env bash
# Stage 1 of the mini corpora: fetch the recorded syllables, build the miniature of AISHELL-1 and
# prepare data/<name>_{train,dev,test}. Run from the recipe's directory.
set -euo pipefail

name=mini
gcin_voice=
downloads=downloads
data_dir=data
train_sentences=640
dev_sentences=100
test_sentences=150
seed=0
snr_db=
# shellcheck disable=SC2034  # read by parse_options.sh
help_message="Usage: local/data_mini.sh [options]
  --name <name>          of the corpus and its sets (default: mini)
  --gcin_voice <dir>     an unpacked Debian package gcin-voice (or /usr/share/gcin-voice); without it
                         the package is fetched
  --downloads <dir>      where the package and the corpus go (default: downloads)
  --data_dir <dir>       where the data directories go (default: data)
  --train_sentences, --dev_sentences, --test_sentences, --seed: see local/mini_aishell.py
  --snr_db <low>:<high>  signal-to-noise ratio of an utterance, in dB
Licences of the recordings: GPL-3 or LGPL-3 (voice 3), CC-BY-3.0 (voice 5); the README.txt written
next to the corpus names the authors."

# shellcheck source=local/parse_options.sh
. local/parse_options.sh
if [ $# -ne 0 ]; then
    echo "data_mini.sh: error: unexpected argument '$1'; --help lists the options" >&2
    exit 2
fi

if [ -z "${gcin_voice}" ]; then
    gcin_voice=${downloads}/gcin-voice
    local/fetch_deb.sh gcin-voice "${gcin_voice}" \
        "give an unpacked package with local/data.sh --gcin_voice DIR"
fi
python3 local/mini_aishell.py --gcin_voice "${gcin_voice}" --out "${downloads}/${name}" \
    --train_sentences "${train_sentences}" --dev_sentences "${dev_sentences}" \
    --test_sentences "${test_sentences}" --seed "${seed}" ${snr_db:+--snr_db "${snr_db%:*}" "${snr_db#*:}"}
python3 local/prepare_aishell.py --aishell "${downloads}/${name}" --data_dir "${data_dir}" \
    --set_names "${name}_train" "${name}_dev" "${name}_test"

#!/usr/bin/env bash
# Stage 1: prepare the data directories of one corpus. Run from the recipe's directory, as
#   local/data.sh [--corpus mini|mini_noisy|aishell|espeak|fillets] [options of local/data_<corpus>.sh]
set -euo pipefail

corpus=mini
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --corpus)
            if [ $# -lt 2 ]; then
                echo "data.sh: error: --corpus needs a value: mini, mini_noisy, aishell, espeak or fillets" >&2
                exit 2
            fi
            corpus=$2
            shift 2
            ;;
        --corpus=*)
            corpus=${1#*=}
            shift
            ;;
        --help | -h)
            echo "Usage: local/data.sh [--corpus mini|mini_noisy|aishell|espeak|fillets] [options of the corpus]"
            options+=("$1")
            shift
            ;;
        *)
            # The options differ between corpora; the corpus's own script refuses unknown ones.
            options+=("$1")
            shift
            ;;
    esac
done

case "${corpus}" in
    mini | aishell | espeak | fillets) ;;
    mini_noisy)
        # Harder than mini: noise at 0 to 10 dB below the speech, and fewer sentences to learn from.
        corpus=mini
        options=(--name mini_noisy --snr_db 0:10 --train_sentences 400 "${options[@]}")
        ;;
    *)
        echo "data.sh: error: --corpus ${corpus}: expected mini, mini_noisy, aishell, espeak or fillets" >&2
        exit 2
        ;;
esac
exec "local/data_${corpus}.sh" ${options[@]+"${options[@]}"}

#!/usr/bin/env bash
# Stage 1: prepare the data directories of one corpus. Run from the recipe's directory, as
#   local/data.sh [--corpus mini|mini_noisy|aishell|espeak|fillets] [options of local/data_<corpus>.sh]
set -euo pipefail

corpus=mini
own_options=(corpus)
prepare() { # prepare <options of the corpus>; its own script refuses unknown ones
    case "${corpus}" in
        mini | aishell | espeak | fillets) exec "local/data_${corpus}.sh" "$@" ;;
        # Harder than mini: noise at 0 to 10 dB below the speech, and fewer sentences to learn from.
        mini_noisy) exec local/data_mini.sh --name mini_noisy --snr_db 0:10 --train_sentences 400 "$@" ;;
    esac
    echo "data.sh: error: --corpus ${corpus}: expected mini, mini_noisy, aishell, espeak or fillets" >&2
    exit 2
}
usage() {
    echo "Usage: local/data.sh [--corpus mini|mini_noisy|aishell|espeak|fillets] [options of the corpus]"
    prepare --help
}
# shellcheck source=local/parse_options.sh
. local/parse_options.sh
prepare "${other_options[@]}" "$@"

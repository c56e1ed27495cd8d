#!/usr/bin/env bash
# Stage 1 of the fillets recipe: fetch the dialogues of Fish Fillets NG and prepare the sets
# data/{train,dev,test}_<lang>. Run from the recipe's directory.
set -euo pipefail

lang="nl"
fillets=
downloads=downloads
# shellcheck disable=SC2034  # read by parse_options.sh
help_message="Usage: local/data_fillets.sh [--lang nl|cs] [--fillets <dir>] [--downloads <dir>]
  --lang       language of the voices: nl (Dutch, the default) or cs (Czech)
  --fillets    a tree into which the Debian packages fillets-ng-data and fillets-ng-data-<lang>
               are unpacked, or the game's folder with script/ and sound/; without it both
               packages are fetched
  --downloads  where the packages and the 16 kHz wav files go (default: downloads)
The data are under the GNU General Public License, version 2."

# shellcheck source=local/parse_options.sh
. local/parse_options.sh

case "${lang}" in
    nl | cs) ;;
    *)
        echo "data_fillets.sh: error: unknown --lang '${lang}': expected nl or cs" >&2
        exit 2
        ;;
esac

if [ -n "${fillets}" ]; then
    if [ ! -d "${fillets}" ]; then
        echo "data_fillets.sh: error: --fillets '${fillets}' is not a directory: expected an unpacked tree of fillets-ng-data and fillets-ng-data-${lang}" >&2
        exit 1
    fi
    sources=("${fillets}")
else
    sources=()
    for package in fillets-ng-data "fillets-ng-data-${lang}"; do
        local/fetch_deb.sh "${package}" "${downloads}/${package}" \
            "give a tree into which fillets-ng-data and fillets-ng-data-${lang} are unpacked with --fillets DIR"
        sources+=("${downloads}/${package}")
    done
fi

python3 local/prepare_fillets.py --fillets "${sources[@]}" --lang "${lang}" \
    --wav-dir "${downloads}/fillets_${lang}/wav" --data-dir data

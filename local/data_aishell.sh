#!/usr/bin/env bash
# Stage 1 of AISHELL-1: get the corpus and prepare data/{train,dev,test}. Run from the recipe's directory.
set -euo pipefail

aishell=
downloads=downloads
data_url=
checksums=
remove_archive=false
expect=full
data_dir=data
# shellcheck disable=SC2034  # read by parse_options.sh
help_message="Usage: local/data_aishell.sh [options]
AISHELL-1 (openslr.org/33, Apache-2.0), downloaded or from a copy.
  --aishell <dir>      a copy, which is only read: holds data_aishell/ as openslr.org/33 has it, or
                       data_aishell.tgz; what is still packed is unpacked to <downloads>
  --downloads <dir>    where the corpus is downloaded to and unpacked (default: ${downloads})
  --data_url <url>     a mirror of https://www.openslr.org/resources/33
  --checksums <file>   of other archives than those of openslr.org; see local/fetch_aishell.py --help
  --remove_archive true  delete the downloaded archives once they are unpacked (default: ${remove_archive})
  --expect <counts>    full: the counts of AISHELL-1, none, or others; see local/prepare_aishell.py --help
                       (default: ${expect})
  --data_dir <dir>     where the data directories go (default: ${data_dir})"

# shellcheck source=local/parse_options.sh
. local/parse_options.sh
if [ $# -ne 0 ]; then
    echo "data_aishell.sh: error: unexpected argument '$1'; --help lists the options" >&2
    exit 2
fi

# is_packed <dir>: holds the corpus, but not the recordings of all three sets.
is_packed() {
    local name
    for name in train dev test; do
        if [ ! -d "$1/data_aishell/wav/${name}" ]; then
            [ -f "$1/data_aishell.tgz" ] || compgen -G "$1/data_aishell/wav/*.tar.gz" >/dev/null
            return
        fi
    done
    return 1
}

if [ -z "${aishell}" ] || is_packed "${aishell}"; then
    python3 local/fetch_aishell.py --downloads "${downloads}" ${aishell:+--source "${aishell}"} \
        ${data_url:+--data_url "${data_url}"} ${checksums:+--checksums "${checksums}"} \
        --remove_archive "${remove_archive}"
    aishell=${downloads}
fi
python3 local/prepare_aishell.py --aishell "${aishell}" --data_dir "${data_dir}" --expect "${expect}"

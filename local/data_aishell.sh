#!/usr/bin/env bash
# Stage 1 of AISHELL-1: prepare data/{train,dev,test}. Run from the recipe's directory.
set -euo pipefail

aishell=
data_dir=data
# shellcheck disable=SC2034  # read by parse_options.sh
help_message="Usage: local/data_aishell.sh --aishell <dir> [--data_dir <dir>]
  --aishell <dir>   holds data_aishell/wav and data_aishell/transcript of AISHELL-1 (openslr.org/33,
                    Apache-2.0), the archives of the speakers unpacked
  --data_dir <dir>  where the data directories go (default: data)"

# shellcheck source=local/parse_options.sh
. local/parse_options.sh
if [ $# -ne 0 ]; then
    echo "data_aishell.sh: error: unexpected argument '$1'; --help lists the options" >&2
    exit 2
fi
if [ -z "${aishell}" ]; then
    echo "data_aishell.sh: error: no corpus: give --aishell DIR with data_aishell/ of AISHELL-1 (openslr.org/33) in it" >&2
    exit 1
fi
python3 local/prepare_aishell.py --aishell "${aishell}" --data_dir "${data_dir}"

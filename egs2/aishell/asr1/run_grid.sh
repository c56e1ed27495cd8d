#!/usr/bin/env bash
# Experts shared or individual x routers shared or individual, beside dense layers, individual or shared:
# six systems of equal depth, width and active compute, trained alike with several seeds on the mini
# corpus made harder by noise and fewer sentences. Writes exp/GRID.md.
#   ./run_grid.sh                                          all systems with seeds 1, 2 and 3
#   ./run_grid.sh --systems "dense" --seeds "1 2"          some; what is done is skipped
# Further options are those of run.sh.
set -euo pipefail
RECIPE_COMMAND=$(printf '%q ' "$0" "$@")
export RECIPE_COMMAND
cd "$(dirname "${BASH_SOURCE[0]}")"
exec local/grid.sh --corpus mini_noisy "$@"

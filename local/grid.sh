#!/usr/bin/env bash
# Trains, decodes and scores the systems of conf/grid with several seeds, and tabulates them. Run it
# through a recipe's run_grid.sh. What is done is skipped and what was cut off goes on, so that the grid
# can be collected piece by piece: with --systems, --seeds, or by interrupting it.
set -euo pipefail

RECIPE_COMMAND=${RECIPE_COMMAND:-$(printf '%q ' "$0" "$@")}
export RECIPE_COMMAND
systems=
seeds="1 2 3"
asr_args=
expdir=exp
options=()
die() {
    echo "grid.sh: error: $*" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h)
            cat <<MESSAGE
Usage: $0 [--systems "NAME ..."] [--seeds "N ..."] [options of the recipe's run.sh]
  --systems   conf/grid/train_<NAME>.yaml, default: all of them
  --seeds     default: ${seeds}
  --asr_args  further options of asr_train for every system
  --expdir    where the experiments and GRID.md go, default: ${expdir}
MESSAGE
            exit 0
            ;;
        --systems | --seeds | --asr_args | --asr-args | --expdir)
            [ $# -ge 2 ] || die "option $1 needs a value"
            name=${1#--} && name=${name//-/_}
            printf -v "${name}" '%s' "$2"
            shift 2
            ;;
        --teacher_config | --teacher_exp | --asr_config | --asr_tag | --stage | --stop_stage)
            die "$1 is the grid's own; give it to run.sh"
            ;;
        *)
            options+=("$1")
            shift
            ;;
    esac
done
# shellcheck source=/dev/null
. ./path.sh

all_systems=(dense dense_shared
    individual_experts_individual_router individual_experts_shared_router
    shared_experts_individual_router shared_experts_shared_router)
: "${systems:=${all_systems[*]}}"
for system in ${systems}; do
    [ -f "conf/grid/train_${system}.yaml" ] ||
        die "--systems ${system}: no conf/grid/train_${system}.yaml; there are ${all_systems[*]}"
done
for seed in ${seeds}; do
    [[ "${seed}" =~ ^[0-9]+$ ]] || die "--seeds ${seed}: numbers are needed"
done

run() { # run <system> <asr_tag> <asr_args> <options...>
    ./run.sh "${options[@]}" --teacher_config none --asr_config "conf/grid/train_$1.yaml" --asr_tag "$2" \
        --asr_args "$3" --expdir "${expdir}" "${@:4}"
}
run dense grid_data "${asr_args}" --stop_stage 10
for seed in ${seeds}; do
    for system in ${systems}; do
        tag=grid_${system}_seed${seed}
        result=(local/grid_result.py --experiment "${expdir}/asr_${tag}" --system "${system}" --seed "${seed}"
            --config "conf/grid/train_${system}.yaml" --asr_args "${asr_args}")
        if python3 "${result[@]}" --check; then
            echo "grid.sh: ${tag}: done"
            continue
        fi
        echo "$(date '+%Y-%m-%d %H:%M:%S') grid.sh: ${tag}"
        run "${system}" "${tag}" "--seed ${seed}${asr_args:+ ${asr_args}}" --stage 11
        python3 "${result[@]}"
    done
    python3 local/grid_table.py --expdir "${expdir}" --output "${expdir}/GRID.md" --command "${RECIPE_COMMAND}"
done

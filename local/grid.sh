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
dumpdir=dump
inference_asr_model=valid.acc.ave.pth
own_options=(systems seeds asr_args expdir dumpdir inference_asr_model)
# shellcheck disable=SC2034  # read by parse_options.sh
help_message="Usage: $0 [--systems \"NAME ...\"] [--seeds \"N ...\"] [options of the recipe's run.sh]
  --systems   conf/grid/train_<NAME>.yaml, default: all of them
  --seeds     default: ${seeds}
  --asr_args  further options of asr_train for every system
  --expdir    where the experiments and GRID.md go, default: ${expdir}"
# shellcheck source=local/parse_options.sh
. local/parse_options.sh

die() {
    echo "grid.sh: error: $*" >&2
    exit 2
}
[ $# -eq 0 ] || die "unexpected argument '$1'; options start with --"
for ((i = 0; i < ${#other_options[@]}; i += 2)); do
    case "${other_options[i]//-/_}" in
        __teacher_config | __teacher_exp | __asr_config | __asr_tag | __stage | __stop_stage | __skip_eval)
            die "${other_options[i]} is the grid's own; give it to run.sh"
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
    ./run.sh "${other_options[@]}" --teacher_config none --asr_config "conf/grid/train_$1.yaml" --asr_tag "$2" \
        --asr_args "$3" --expdir "${expdir}" --dumpdir "${dumpdir}" \
        --inference_asr_model "${inference_asr_model}" "${@:4}"
}
run dense grid_data "${asr_args}" --stop_stage 10
for seed in ${seeds}; do
    for system in ${systems}; do
        tag=grid_${system}_seed${seed}
        result=(local/grid_result.py --experiment "${expdir}/asr_${tag}" --system "${system}" --seed "${seed}"
            --config "conf/grid/train_${system}.yaml" --asr_args "${asr_args}"
            --dumpdir "${dumpdir}" --model "${inference_asr_model}")
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

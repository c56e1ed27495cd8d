#!/usr/bin/env bash
# Trains a dense teacher and a student that learns from it on the same data, and compares the two.
# Stages 1-10 run once, 11-14 for the teacher, then for the student. Run it through a recipe's run.sh.
set -euo pipefail

teacher_config=
teacher_exp=
teacher_asr_model=
# Options of asr.sh that are needed here as well; everything else is passed on unread.
stage=1
stop_stage=100
skip_eval=false
expdir=exp
asr_config=
asr_args=
asr_tag=
inference_asr_model=valid.acc.ave.pth
# shellcheck disable=SC2034  # these are read by experiment_name.sh
lang=noinfo token_type=char nbpe=30 bpemode=unigram feats_type=raw speed_perturb_factors=
allow_unk=false
python="python3 -m espnet_moe_share.launch"

usage() {
    cat <<MESSAGE
Usage: $0 --teacher_config FILE|none --asr_config FILE [options of asr.sh]
  --teacher_config      configuration of the teacher; none: train --asr_config alone, without a teacher
  --teacher_exp         an experiment directory to use as the teacher instead of training one
  --teacher_asr_model   model file of the teacher in its experiment [as --inference_asr_model]
  --asr_config          configuration of the student
  --asr_args            options of the student's training only
  --asr_tag             name of the student's experiment only
With ESPNET_ROOT set, the asr.sh of that ESPnet checkout runs (docs/espnet_checkout.md) and takes its options, too.
The options of asr.sh (local/asr.sh --help) apply to both models:
MESSAGE
    local/asr.sh --help | tail -n +3
}

die() {
    echo "teacher_student.sh: error: $*" >&2
    exit 2
}

own_command=$(printf '%q ' "$0" "$@")
# A checkout of ESPnet whose asr.sh is to be used (docs/espnet_checkout.md).
export ESPNET_ROOT=${ESPNET_ROOT-}
own_options=(teacher_config teacher_exp teacher_asr_model stage stop_stage asr_config asr_args asr_tag allow_unk)
# shellcheck source=local/parse_options.sh
. local/parse_options.sh
[ $# -eq 0 ] || die "unexpected argument '$1'; options start with --"
shared_options=()
declare -A given=() # their values by name
for ((i = 0; i < ${#other_options[@]}; i += 2)); do
    name=${other_options[i]#--} && name=${name//-/_}
    value=${other_options[i + 1]}
    given[${name}]=${value}
    shared_options+=("--${name}" "${value}")
    case "${name}" in
        skip_eval | expdir | inference_asr_model | lang | token_type | nbpe | bpemode | feats_type | \
            speed_perturb_factors | python)
            printf -v "${name}" '%s' "${value}"
            ;;
        asr_exp) die "--asr_exp would be the same for teacher and student; give --asr_tag or --expdir" ;;
    esac
done

# shellcheck source=local/experiment_name.sh
. local/experiment_name.sh
# shellcheck source=local/sclite.sh
. local/sclite.sh
# shellcheck source=/dev/null
[ ! -f path.sh ] || . ./path.sh
export RECIPE_COMMAND=${RECIPE_COMMAND:-${own_command}}

for name in stage stop_stage; do
    [[ "${!name}" =~ ^[0-9]+$ ]] || die "--${name} ${!name}: a number is needed"
done
[ -n "${asr_config}" ] || die "--asr_config, the student's configuration, is required"
[ -n "${teacher_config}${teacher_exp}" ] || die "--teacher_config FILE or none is required"
for file in "${teacher_config}" "${asr_config}"; do
    [ -z "${file}" ] || [ "${file}" = none ] || [ -f "${file}" ] || die "${file}: no such configuration"
done
: "${teacher_asr_model:=${inference_asr_model}}"
trained_teacher=true
if [ -n "${teacher_exp}" ]; then
    trained_teacher=false
    for file in config.yaml "${teacher_asr_model}"; do
        [ -f "${teacher_exp}/${file}" ] ||
            die "--teacher_exp ${teacher_exp} has no ${file}; an experiment with config.yaml and a model is needed"
    done
elif [ "${teacher_config}" = none ]; then
    trained_teacher=false
    # The model refuses a weight for learning from a teacher that there is not. In asr_args it also
    # becomes part of the experiment's name, which keeps the distilled student's directory apart.
    if grep -qE '^[[:space:]]+distill_weight:' "${asr_config}" && [[ "${asr_args}" != *distill_weight=* ]]; then
        echo "teacher_student.sh: no teacher, so ${asr_config} is trained with distill_weight=0"
        asr_args+="${asr_args:+ }--model_conf distill_weight=0"
    fi
else
    teacher_exp=${expdir}/asr_$(experiment_tag "${teacher_config}" "")
fi
: "${asr_tag:=$(experiment_tag "${asr_config}" "${asr_args}")}"
student_exp=${expdir}/asr_${asr_tag}
[ "${teacher_exp}" != "${student_exp}" ] ||
    die "teacher and student would both be ${student_exp}; give the student another --asr_tag"
if [ -n "${ESPNET_ROOT}" ]; then
    # shellcheck source=local/espnet_checkout.sh
    . local/espnet_checkout.sh
    check_checkout
elif [ "${stage}" -le 13 ] && [ "${stop_stage}" -ge 13 ] && [ "${skip_eval}" = false ]; then
    require_sclite >/dev/null
fi

# run_asr <first stage> <last stage> <further options>: the one place that calls a driver.
run_asr() {
    local first=$(($1 > stage ? $1 : stage)) last=$(($2 < stop_stage ? $2 : stop_stage))
    shift 2
    [ "${first}" -le "${last}" ] || return 0
    if [ -n "${ESPNET_ROOT}" ]; then
        checkout_asr "${first}" "${last}" "$@"
    else
        local/asr.sh "${shared_options[@]}" --allow_unk "${allow_unk}" --stage "${first}" --stop_stage "${last}" "$@"
    fi
}

if [ "${teacher_config}" = none ] && [ -z "${teacher_exp}" ]; then
    run_asr 1 14 --asr_config "${asr_config}" --asr_args "${asr_args}" --asr_tag "${asr_tag}"
    exit 0
fi

data_config=${asr_config}
[ "${trained_teacher}" = false ] || data_config=${teacher_config}
run_asr 1 10 --asr_config "${data_config}"
if [ "${stop_stage}" -ge 11 ]; then
    echo "==== Teacher: ${teacher_exp}"
    if [ "${trained_teacher}" = true ]; then
        run_asr 11 14 --asr_config "${teacher_config}" --asr_exp "${teacher_exp}" --inference_asr_model "${teacher_asr_model}"
    else
        run_asr 12 13 --asr_exp "${teacher_exp}" --inference_asr_model "${teacher_asr_model}"
    fi
    echo "==== Student: ${student_exp}"
    teacher_args="--model_conf teacher_config=${teacher_exp}/config.yaml"
    teacher_args+=" --model_conf teacher_model_file=${teacher_exp}/${teacher_asr_model}"
    run_asr 11 14 --asr_config "${asr_config}" --asr_tag "${asr_tag}" --asr_args "${teacher_args} ${asr_args}"
fi
if [ "${stop_stage}" -ge 13 ] && [ "${stage}" -le 13 ] && [ "${skip_eval}" = false ]; then
    "${python%% *}" local/compare_results.py --teacher "${teacher_exp}" --teacher_model "${teacher_asr_model}" \
        --student "${student_exp}" --student_model "${inference_asr_model}" \
        --output "${expdir}/RESULTS.md" --command "${RECIPE_COMMAND}"
fi

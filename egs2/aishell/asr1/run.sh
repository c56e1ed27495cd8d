#!/usr/bin/env bash
# AISHELL-1, or a miniature of it: teacher, student, beam search and sclite tables.
#   ./run.sh                                      the miniature (default)
#   ./run.sh --corpus mini_noisy                  the miniature with noise and fewer sentences
#   ./run.sh --corpus aishell --aishell DIR       the real corpus
#   ./run.sh --teacher_config none --asr_config conf/FILE.yaml    one configuration alone
# Every option of local/teacher_student.sh and local/asr.sh can follow.
set -euo pipefail
RECIPE_COMMAND=$(printf '%q ' "$0" "$@")
export RECIPE_COMMAND
# A checkout of ESPnet whose asr.sh is to be used; docs/espnet_checkout.md
export ESPNET_ROOT=${ESPNET_ROOT-}
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs2/aishell/asr1/path.sh
. ./path.sh

corpus=mini
corpus_opts=()
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --corpus | --gcin_voice | --gcin-voice | --aishell)
            [ $# -ge 2 ] || { echo "run.sh: error: option $1 needs a value" >&2 && exit 2; }
            set -- "$1=$2" "${@:3}"
            ;;
        --corpus=*)
            corpus=${1#*=}
            shift
            ;;
        --gcin_voice=* | --gcin-voice=* | --aishell=*)
            name=${1%%=*}
            corpus_opts+=("${name//-voice/_voice}" "${1#*=}")
            shift
            ;;
        --help | -h)
            # the comment above is this script's own part
            sed -n '2,/^set /s/^# \{0,1\}//p' run.sh
            exec local/teacher_student.sh --help
            ;;
        *)
            options+=("$1")
            shift
            ;;
    esac
done

case "${corpus}" in
    mini | mini_noisy)
        defaults=(
            --lang "${corpus}_zh"
            --train_set "${corpus}_train" --valid_set "${corpus}_dev" --test_sets "${corpus}_test"
            --teacher_config conf/train_teacher_mini.yaml
            --asr_config conf/train_moe_share_mini.yaml
            --inference_config conf/decode_asr_mini.yaml
            --lm_config conf/train_lm_mini.yaml
            --ngpu 0 --nj 2 --inference_nj 2
        )
        ;;
    aishell)
        defaults=(
            --lang zh --train_set train --valid_set dev --test_sets "dev test" --allow_unk true
            --teacher_config conf/train_teacher_conformer.yaml
            --asr_config conf/train_moe_share_conformer.yaml
            --inference_config conf/decode_asr.yaml
            --lm_config conf/train_lm_aishell.yaml
            --ngpu 1 --nj 16 --inference_nj 16
        )
        ;;
    *)
        echo "run.sh: error: --corpus ${corpus}: mini, mini_noisy or aishell is needed" >&2
        exit 2
        ;;
esac

# data.sh's options are one string, as in ESPnet; a path with spaces cannot be said in it.
exec local/teacher_student.sh "${defaults[@]}" \
    --token_type char --feats_type raw --speed_perturb_factors "0.9 1.0 1.1" \
    --local_data_opts "--corpus ${corpus} ${corpus_opts[*]-}" "${options[@]}"

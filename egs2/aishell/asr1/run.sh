#!/usr/bin/env bash
# AISHELL-1, or a stand-in for it: teacher, student, beam search and sclite tables.
#   ./run.sh                                      a miniature, from recorded syllables (default)
#   ./run.sh --corpus mini_noisy                  the miniature with noise and fewer sentences
#   ./run.sh --corpus aishell --ngpu 4            AISHELL-1 itself, downloaded (16 GB)
#   ./run.sh --corpus aishell --aishell DIR       ... from a copy, unpacked or not, which is only read
#   ./run.sh --corpus espeak                      AISHELL-1's layout in any size, synthetic speech
#   ./run.sh --teacher_config none --asr_config conf/FILE.yaml    one configuration alone
# Options of the corpora: local/data.sh --corpus CORPUS --help
# Every option of local/teacher_student.sh and local/asr.sh can follow.
set -euo pipefail
RECIPE_COMMAND=$(printf '%q ' "$0" "$@")
export RECIPE_COMMAND
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs2/aishell/asr1/path.sh
. ./path.sh

corpus=mini
own_options=(corpus)
usage() {
    # the comment above is this script's own part
    sed -n '2,/^set /s/^# \{0,1\}//p' run.sh
    local/teacher_student.sh --help
}
# shellcheck source=local/parse_options.sh
. local/parse_options.sh

corpus_opts=()
options=()
for ((i = 0; i < ${#other_options[@]}; i += 2)); do
    case "${other_options[i]}" in
        --aishell | --downloads | --data[_-]url | --checksums | --remove[_-]archive | --expect | \
            --gcin[_-]voice | --vocabulary | --untranscribed | --*[_-]sentences | --*[_-]speakers)
            corpus_opts+=("${other_options[@]:i:2}")
            ;;
        *) options+=("${other_options[@]:i:2}") ;;
    esac
done

case "${corpus}" in
    mini | mini_noisy | espeak)
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
        echo "run.sh: error: --corpus ${corpus}: mini, mini_noisy, espeak or aishell is needed" >&2
        exit 2
        ;;
esac

# data.sh's options are one string, as in ESPnet; a path with spaces cannot be said in it.
exec local/teacher_student.sh "${defaults[@]}" \
    --token_type char --feats_type raw --speed_perturb_factors "0.9 1.0 1.1" \
    --local_data_opts "--corpus ${corpus} ${corpus_opts[*]-}" "${options[@]}" "$@"

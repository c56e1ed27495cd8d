#!/usr/bin/env bash
# The dialogues of the game Fish Fillets NG, Dutch or Czech: teacher, student, beam search and sclite.
#   ./run.sh                    Dutch, 1.6 hours (default)
#   ./run.sh --lang cs          Czech, 1.7 hours
#   ./run.sh --fillets DIR      with unpacked Debian packages instead of fetching them
# Every option of local/teacher_student.sh and local/asr.sh can follow.
set -euo pipefail
RECIPE_COMMAND=$(printf '%q ' "$0" "$@")
export RECIPE_COMMAND
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=egs2/fillets/asr1/path.sh
. ./path.sh

lang="nl"
fillets=
own_options=(lang fillets)
usage() {
    # the comment above is this script's own part
    sed -n '2,/^set /s/^# \{0,1\}//p' run.sh
    local/teacher_student.sh --help
}
# shellcheck source=local/parse_options.sh
. local/parse_options.sh
if [ "${lang}" != nl ] && [ "${lang}" != cs ]; then
    echo "run.sh: error: --lang ${lang}: nl or cs is needed" >&2
    exit 2
fi

# data.sh's options are one string, as in ESPnet; a path with spaces cannot be said in it.
exec local/teacher_student.sh \
    --lang "${lang}" --train_set "train_${lang}" --valid_set "dev_${lang}" --test_sets "test_${lang}" \
    --teacher_config conf/train_teacher_fillets.yaml \
    --asr_config conf/train_moe_share_fillets.yaml \
    --inference_config conf/decode_asr_fillets.yaml \
    --token_type char --feats_type raw --speed_perturb_factors "0.9 1.0 1.1" \
    --ngpu 0 --nj 2 --inference_nj 2 \
    --local_data_opts "--corpus fillets --lang ${lang} ${fillets:+--fillets ${fillets}}" "${other_options[@]}" "$@"

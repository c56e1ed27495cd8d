# shellcheck shell=bash
# Sourced: names of experiment directories, the same as ESPnet's asr.sh gives them.

# token_tag: what language and token list add to a name. Reads lang, token_type, nbpe.
token_tag() {
    local tag=
    [ "${lang:?}" = noinfo ] || tag="_${lang}"
    tag+="_${token_type:?}"
    [ "${token_type}" != bpe ] || tag+=${nbpe:?}
    echo "${tag}"
}

# data_tag: what the data add to a name. Reads feats_type as well.
data_tag() {
    echo "${feats_type:?}$(token_tag)"
}

# experiment_tag <config> <asr_args>: tag of a model when --asr_tag does not say it.
experiment_tag() {
    local tag=train
    [ -z "$1" ] || tag=$(basename "$1" .yaml)
    tag+="_$(data_tag)"
    [ -z "$2" ] || tag+=$(echo "$2" | sed -e 's/--/_/g' -e 's/[ |=/]//g')
    [ -z "${speed_perturb_factors-}" ] || tag+=_sp
    echo "${tag}"
}

# token_directory: where tokens.txt lies. Reads lang, token_type, bpemode, nbpe.
token_directory() {
    local directory=data/${lang:?}_token_list
    [ "${lang}" != noinfo ] || directory=data/token_list
    directory+=/${token_type:?}
    [ "${token_type}" != bpe ] || directory+=_${bpemode:?}${nbpe:?}
    echo "${directory}"
}

# language_model_tag <config> <lm_args>: tag of a language model when --lm_tag does not say it.
language_model_tag() {
    local tag=train
    [ -z "$1" ] || tag=$(basename "$1" .yaml)
    tag+=$(token_tag)
    [ -z "$2" ] || tag+=$(echo "$2" | sed -e 's/--/_/g' -e 's/[ |=/]//g')
    echo "${tag}"
}

# decoding_tag <config> <inference_args> <model> <lm_exp or nothing> <inference_lm>: name of a decoding
# when --inference_tag does not say it.
decoding_tag() {
    local tag=inference
    [ -z "$1" ] || tag=$(basename "$1" .yaml)
    [ -z "$2" ] || tag+=$(echo "$2" | sed -e 's/--/_/g' -e 's/[ |=]//g')
    [ -z "${4-}" ] || tag+=_lm_$(basename "$4")_$(model_name "$5")
    echo "${tag}_asr_model_$(model_name "$3")"
}

model_name() {
    echo "$1" | sed -e 's/\//_/g' -e 's/\.[^.]*$//'
}

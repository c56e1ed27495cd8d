# shellcheck shell=bash
# Sourced: names of experiment directories, the same as ESPnet's asr.sh gives them.

# data_tag: what data and token list add to a name. Reads lang, token_type, nbpe, feats_type.
data_tag() {
    local tag=${feats_type:?}
    [ "${lang:?}" = noinfo ] || tag+="_${lang}"
    tag+="_${token_type:?}"
    [ "${token_type}" != bpe ] || tag+=${nbpe:?}
    echo "${tag}"
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

# decoding_tag <config> <inference_args> <model>: name of a decoding when --inference_tag does not say it.
decoding_tag() {
    local tag=inference
    [ -z "$1" ] || tag=$(basename "$1" .yaml)
    [ -z "$2" ] || tag+=$(echo "$2" | sed -e 's/--/_/g' -e 's/[ |=]//g')
    echo "${tag}_asr_model_$(echo "$3" | sed -e 's/\//_/g' -e 's/\.[^.]*$//')"
}

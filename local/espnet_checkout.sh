# shellcheck shell=bash
# Sourced by teacher_student.sh: the asr.sh of the ESPnet checkout that ESPNET_ROOT names, in place of
# local/asr.sh. It runs unmodified, in the recipe's directory, through links like those of ESPnet's own
# recipes. Reads teacher_student.sh's variables, among them `given`, the options that it passes on.
# docs/espnet_checkout.md tells users about it.

: "${stage:?}" "${stop_stage:?}" "${skip_eval:?}" "${expdir:?}" "${token_type:?}" "${allow_unk:?}" "${python:?}"
checkout_links=(asr.sh pyscripts scripts steps utils)

# check_checkout: everything that can be known to fail later, in one line now.
check_checkout() {
    local template=${ESPNET_ROOT:?}/egs2/TEMPLATE/asr1
    [[ "${ESPNET_ROOT}" != *[[:space:]]* ]] ||
        die "ESPNET_ROOT=${ESPNET_ROOT}: ESPnet's scripts split at spaces; move the checkout"
    [[ "${ESPNET_ROOT}" = /* ]] || die "ESPNET_ROOT=${ESPNET_ROOT}: an absolute path is needed"
    [ -f "${template}/asr.sh" ] ||
        die "ESPNET_ROOT=${ESPNET_ROOT} has no egs2/TEMPLATE/asr1/asr.sh; name a checkout of ESPnet, or unset" \
            "it to use local/asr.sh, which needs none"
    link_checkout "${template}"
    check_programs
    check_version
    check_language_model
}

# link_checkout <template>: links to the checkout in the recipe's directory, as ESPnet's setup.sh makes them.
link_checkout() {
    local name found left=
    for name in "${checkout_links[@]}"; do
        [ -e "$1/${name}" ] || die "$1/${name}: no such file; ESPNET_ROOT is not a whole checkout of ESPnet"
        if [ -L "${name}" ]; then
            found=$(readlink "${name}")
            [ "${found}" != "$1/${name}" ] || continue
            [[ "${found}" = /*/egs2/TEMPLATE/asr1/"${name}" ]] ||
                die "${PWD}/${name} is a link to ${found}; remove it: one to $1/${name} is needed"
            left=${found%/egs2/*}
        elif [ -e "${name}" ]; then
            die "${PWD}/${name} is in the way of a link to $1/${name}; move it"
        fi
    done
    [ -z "${left}" ] || echo "teacher_student.sh: ${PWD} used ${left} until now; its links lead to ${ESPNET_ROOT} from here"
    for name in "${checkout_links[@]}"; do
        if [ "$(readlink "${name}")" != "$1/${name}" ]; then
            # In one step: another run of the recipe may be making the same link.
            ln -s "$1/${name}" ".${name}.$$"
            mv -T ".${name}.$$" "${name}"
        fi
    done
}

# runs_stage <stage>: whether asr.sh is to run it.
runs_stage() {
    local skipped=" ${given[skip_stages]-} "
    [ "${given[skip_data_prep]-false}" = false ] || skipped+="1 2 3 4 5 "
    [ "${given[skip_train]-false}" = false ] || skipped+="2 4 5 6 7 8 9 10 11 "
    [ "${skip_eval}" = false ] || skipped+="12 13 "
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ] && [[ "${skipped}" != *" $1 "* ]]
}

# check_programs: those that asr.sh calls in its stages and that neither ESPnet nor pip brings.
check_programs() {
    local program commands submit place
    for program in perl awk; do
        command -v "${program}" >/dev/null || die "${program}, which ESPnet's utils/ need, is not installed"
    done
    [ -f cmd.sh ] || die "${PWD}/cmd.sh: no such file; copy one of egs2/*/asr1/cmd.sh"
    # shellcheck disable=SC2016  # the inner shell's variables
    commands=$(bash -c '. ./cmd.sh && echo "${train_cmd%% *} ${cuda_cmd%% *} ${decode_cmd%% *}"' 2>&1) ||
        die "cmd.sh: ${commands##*Error: }; ${ESPNET_ROOT}/egs2/TEMPLATE/asr1/cmd.sh has the choices"
    for program in ${commands}; do
        command -v "${program}" >/dev/null || die "cmd.sh: ${program}, which cmd_backend stands for, is not on PATH"
        case "${program}" in
            slurm.pl) submit="sbatch" ;;
            queue*.pl | pbs.pl) submit="qsub" ;;
            *) continue ;;
        esac
        command -v "${submit}" >/dev/null || die "cmd.sh: ${program} needs ${submit}, which is not on PATH here"
    done
    if runs_stage 2 && [ -n "${speed_perturb_factors// /}" ] && ! command -v sox >/dev/null; then
        die "sox, which asr.sh perturbs the speed with, is not installed; 'apt-get install sox' as root, or" \
            "--speed_perturb_factors ''"
    fi
    if runs_stage 5 && [ "${token_type}" = bpe ] && ! command -v spm_train >/dev/null; then
        die "spm_train, which asr.sh makes bpe tokens with, is not on PATH; ${ESPNET_ROOT}/tools has it in" \
            "sentencepiece_commands"
    fi
    if runs_stage 13 && ! command -v sclite >/dev/null; then
        place=$(require_sclite)
        # Last: the directory may hold another python3.
        PATH+=:$(dirname "${place}")
    fi
}

# check_version: the Python packages are there, and ESPnet's is the checkout's release.
check_version() {
    local installed wanted
    installed=$("${python%% *}" -c '
import importlib.metadata, importlib.util, sys
missing = [name for name in ("espnet2", "espnet_moe_share") if importlib.util.find_spec(name) is None]
sys.exit(" and ".join(missing)) if missing else print(importlib.metadata.version("espnet"))' 2>&1) ||
        die "$(command -v "${python%% *}" || echo "${python%% *}") has no ${installed##*$'\n'}; make the checkout's environment" \
            "(tools/setup_venv.sh there) or 'bash local/setup_env.sh' in the repository"
    wanted=$(cat "${ESPNET_ROOT}/version.txt" 2>/dev/null) || return 0
    [ "${installed}" = "${wanted}" ] ||
        echo "teacher_student.sh: warning: the checkout is ESPnet ${wanted}, python3 imports ${installed}" >&2
}

# language_model_exp: where asr.sh has the language model, or nothing without --use_lm true.
language_model_exp() {
    [ "${given[use_lm]-false}" = true ] || return 0
    local tag=${given[lm_tag]-}
    [ -n "${tag}" ] || tag=$(language_model_tag "${given[lm_config]-}" "${given[lm_args]-}")
    echo "${given[lm_exp]:-${expdir}/lm_${tag}}"
}

# check_language_model: decoding needs one, training comes before it.
check_language_model() {
    local experiment file
    experiment=$(language_model_exp)
    if [ -n "${experiment}" ] && runs_stage 12 && ! runs_stage 7; then
        for file in "${experiment}/config.yaml" "${experiment}/${given[inference_lm]-valid.loss.ave.pth}"; do
            [ -f "${file}" ] ||
                die "${file}: no such file; train the language model (stages 6 and 7), or --use_lm false"
        done
    fi
}

# checkout_asr <first stage> <last stage> <further options>: one call of the checkout's asr.sh, or two.
checkout_asr() {
    local first=$1 last=$2 text=data/${given[train_set]-}/text experiment='' previous='' argument folder call
    shift 2
    for argument in "$@"; do
        case "${previous}" in
            --asr_exp) experiment=${argument} ;;
            --asr_tag) experiment=${expdir}/asr_${argument} ;;
        esac
        previous=${argument}
    done
    # Where its defaults differ, those of local/asr.sh hold. Its own for the two texts is a file that there
    # is not once the speed has been perturbed.
    call=(./asr.sh --python "${python}" --ngpu 0 --nj 4 --inference_nj 4 --token_type char --use_lm false)
    call+=(--lm_train_text "${text}" --bpe_train_text "${text}")
    # The space: asr.sh appends the stages that other options skip.
    call+=("${shared_options[@]}" --skip_stages "${given[skip_stages]-} " "$@")
    forget_stages "${first}" "${last}" "${experiment}"
    if [ "${last}" -ge 14 ] && [ "${given[skip_packing]-true}" = false ]; then
        # Stage 14 fails without pictures, and a configuration can have none made.
        for folder in ${experiment} $(language_model_exp); do
            mkdir -p "${folder}/images"
        done
    fi
    if [ "${first}" -le 5 ] && [ "${last}" -ge 5 ] && runs_stage 5 && [[ "${token_type}" =~ ^(char|bpe|word)$ ]]; then
        "${call[@]}" --stage "${first}" --stop_stage 5
        check_texts
        first=6
    fi
    [ "${first}" -gt "${last}" ] || "${call[@]}" --stage "${first}" --stop_stage "${last}"
}

# check_texts: what --allow_unk is about; asr.sh itself reads every unknown character as <unk>.
check_texts() {
    local dset sets="${given[train_set]-}${speed_perturb_factors:+_sp} ${given[valid_set]-} ${given[test_sets]-}" texts=()
    for dset in ${sets}; do
        texts+=("${given[dumpdir]-dump}/${feats_type}/${dset}/text")
    done
    "${python%% *}" local/token_list.py --output "$(token_directory)" --token_type "${token_type}" \
        --allow_unk "${allow_unk}" --check "${texts[@]}"
}

# forget_stages <first> <last> <experiment or nothing>: local/asr.sh would take for its own, and for done,
# what asr.sh writes into the directories that it has finished.
forget_stages() {
    local dumped=${given[dumpdir]-dump}/${feats_type}
    if [ "$1" -le 3 ]; then
        # asr.sh reads it where local/asr.sh leaves it, but does not write it there.
        rm -f "${dumped}"/*/audio_format
    fi
    if [ "$1" -le 5 ]; then
        rm -f data/*_sp/.done data/*token_list/*/.done "${dumped}"/{,org/}*/.done
    fi
    if [ "$1" -le 10 ] && [ "$2" -ge 6 ]; then
        rm -f "${expdir}"/{asr,lm}_stats_*/.done "${expdir}"/lm_*/perplexity_test/.done
    fi
    if [ "$2" -ge 12 ] && [ -n "$3" ]; then
        rm -f "$3"/*/{,org/}*/.done
    fi
}

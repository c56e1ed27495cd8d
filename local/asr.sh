#!/usr/bin/env bash
# Trains and evaluates one model with the stages, options and directories of ESPnet's egs2 asr.sh, but
# needs pip packages and sclite only. Run it through a recipe's run.sh, in the recipe's directory.
set -euo pipefail

own_command=$(printf '%q ' "$0" "$@")
# shellcheck source=local/asr_options.sh
. local/asr_options.sh
# shellcheck source=local/experiment_name.sh
. local/experiment_name.sh
# shellcheck source=local/sclite.sh
. local/sclite.sh
# The recipe's environment: PATH, PYTHONPATH, locale.
# shellcheck source=/dev/null
[ ! -f path.sh ] || . ./path.sh

eval_sets=
for dset in ${test_sets}; do
    [ "${dset}" != "${train_set}" ] || die "--test_sets holds the training set ${train_set}"
    if [ "${dset}" = "${valid_set}" ]; then eval_valid_set=true; else eval_sets+="${dset} "; fi
done
test_sets=${eval_sets}
[ "${eval_valid_set}" = false ] || eval_sets="org/${valid_set} ${test_sets}"
[ "${skip_eval}" = true ] || [ -n "${eval_sets}" ] || die "--test_sets is required"

[ "${skip_data_prep}" = false ] || skip_stages+=" 1 2 3 4 5"
[ "${skip_train}" = false ] || skip_stages+=" 2 4 5 6 7 8 10 11"
[ "${use_lm}" = true ] || skip_stages+=" 6 7 8"
[ "${skip_eval}" = false ] || skip_stages+=" 12 13"
[ "${skip_packing}" = false ] || skip_stages+=" 14"

wanted() { # wanted <stage>
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ] && [[ " ${skip_stages} " != *" $1 "* ]]
}
begin() { # begin <stage> <what>
    current_stage=$1 stage_start=${SECONDS}
    echo "$(date '+%Y-%m-%d %H:%M:%S') Stage $1: $2"
}
end() {
    echo "$(date '+%Y-%m-%d %H:%M:%S') Stage ${current_stage} took $((SECONDS - stage_start)) s"
}

if wanted 11 && [ "${num_nodes}" -gt 1 ] && { [ -z "${SLURM_JOB_ID:-}" ] || ! command -v srun >/dev/null; }; then
    die "--num_nodes ${num_nodes} needs a slurm allocation of as many machines (salloc, sbatch); docs/distributed.md has other ways"
fi

# Before hours of training, not after.
sclite=
if wanted 13; then sclite=$(require_sclite); fi
for directory in data "${dumpdir}" "${expdir}"; do
    { mkdir -p "${directory}" && probe=$(mktemp "${directory}/.writable.XXXXXX") && rm -f "${probe}"; } 2>/dev/null ||
        die "${directory}: cannot be written to; free space or give another --dumpdir or --expdir"
done

# Data and statistics are for all that trains here: two runs would write them at the same time.
data_lock=
if [ "${stage}" -le 10 ] && command -v flock >/dev/null; then
    exec {data_lock}<data  # the directory itself is locked
    flock -n "${data_lock}" || {
        echo "waiting for another run in ${PWD}, which prepares the data"
        flock "${data_lock}"
    }
fi

data_feats=${dumpdir}/raw
token_directory=$(token_directory)
token_list=${token_directory}/tokens.txt
bpemodel=none
[ "${token_type}" != bpe ] || bpemodel=${token_directory}/bpe.model
: "${asr_tag:=$(experiment_tag "${asr_config}" "${asr_args}")}"
: "${asr_exp:=${expdir}/asr_${asr_tag}}"
: "${asr_stats_dir:=${expdir}/asr_stats_$(data_tag)${speed_perturb_factors:+_sp}}"
: "${lm_tag:=$(language_model_tag "${lm_config}" "${lm_args}")}"
: "${lm_exp:=${expdir}/lm_${lm_tag}}"
: "${lm_stats_dir:=${expdir}/lm_stats$(token_tag)}"
lm_files=()
[ "${use_lm}" = false ] || lm_files=("${lm_exp}/config.yaml" "${lm_exp}/${inference_lm}")
: "${inference_tag:=$(decoding_tag "${inference_config}" "${inference_args}" "${inference_asr_model}" \
    "${lm_files[0]+${lm_exp}}" "${inference_lm}")}"
if wanted 12 && ! wanted 7; then
    for file in "${lm_files[@]}"; do
        [ -f "${file}" ] || die "${file}: no such file; train the language model (stages 6 and 7), or --use_lm false"
    done
fi
: "${bpe_train_text:=data/${train_set}/text}" "${lm_train_text:=data/${train_set}/text}"
: "${lm_dev_text:=${data_feats}/org/${valid_set}/text}"
read -r first_test _ <<<"${test_sets:-org/${valid_set}}"
: "${lm_test_text:=${data_feats}/${first_test}/text}"
lm_text=${data_feats}/lm_train.txt
# The same interpreter for ESPnet's programs and for our helpers.
py=${python%% *}

if wanted 1; then
    begin 1 "data preparation: local/data.sh ${local_data_opts}"
    # shellcheck disable=SC2086
    local/data.sh ${local_data_opts}
    end
fi

if [ -n "${speed_perturb_factors}" ]; then
    if wanted 2; then
        begin 2 "speed perturbation: data/${train_set} -> data/${train_set}_sp"
        "${py}" local/speed_perturb.py "data/${train_set}" "data/${train_set}_sp" \
            --factors "${speed_perturb_factors}" --nj "${nj}"
        end
    fi
    train_set+=_sp
fi

train_dir=${data_feats}/${train_set}
valid_dir=${data_feats}/${valid_set}

if wanted 3; then
    begin 3 "check and list audio: data -> ${data_feats}"
    dsets=${eval_sets}
    [ "${skip_train}" = true ] || dsets="org/${train_set} org/${valid_set} ${test_sets}"
    for dset in ${dsets}; do
        "${py}" local/format_wav.py "data/${dset#org/}" "${data_feats}/${dset}" --fs "${fs}" --nj "${nj}"
    done
    end
fi

if wanted 4; then
    begin 4 "drop utterances outside ${min_wav_duration} s to ${max_wav_duration} s"
    for dset in "${train_set}" "${valid_set}"; do
        "${py}" local/filter_lengths.py "${data_feats}/org/${dset}" "${data_feats}/${dset}" --fs "${fs}" \
            --min_wav_duration "${min_wav_duration}" --max_wav_duration "${max_wav_duration}"
    done
    # shellcheck disable=SC2086
    "${py}" local/join_texts.py ${lm_train_text} --output "${lm_text}"
    end
fi

if wanted 5; then
    begin 5 "token list (${token_type}): ${token_list}"
    training_text=${lm_text}
    [ "${token_type}" != bpe ] || training_text=${bpe_train_text}
    texts=("${train_dir}/text" "${valid_dir}/text")
    for dset in ${test_sets}; do
        texts+=("${data_feats}/${dset}/text")
    done
    "${py}" local/token_list.py --text "${training_text}" --output "${token_directory}" \
        --token_type "${token_type}" --nbpe "${nbpe}" --bpemode "${bpemode}" \
        --bpe_char_cover "${bpe_char_cover}" --allow_unk "${allow_unk}" --check "${texts[@]}"
    end
fi

# What every training is told about tokens.
token_args=(
    --use_preprocessor true --bpemodel "${bpemodel}" --token_type "${token_type}" --token_list "${token_list}"
)

# Stages 6, 7 and 8. Stage 9, an n-gram model, is not offered.
# shellcheck source=local/language_model.sh
. local/language_model.sh

# Arguments that stages 10 and 11 share. asr_args and inference_args are split at spaces, as in asr.sh.
train_args=(
    "${token_args[@]}"
    --train_data_path_and_name_and_type "${train_dir}/wav.scp,speech,sound"
    --train_data_path_and_name_and_type "${train_dir}/text,text,text"
    --valid_data_path_and_name_and_type "${valid_dir}/wav.scp,speech,sound"
    --valid_data_path_and_name_and_type "${valid_dir}/text,text,text"
    --frontend_conf "fs=${fs}"
)
[ -z "${asr_config}" ] || train_args+=(--config "${asr_config}")

if wanted 10; then
    begin 10 "collect statistics: ${asr_stats_dir}"
    # shellcheck disable=SC2086
    "${py}" local/collect_stats.py --train "${train_dir}" --valid "${valid_dir}" --output "${asr_stats_dir}" \
        --token_list "${token_list}" --token_type "${token_type}" --feats_normalize "${feats_normalize}" \
        ${asr_config:+--config "${asr_config}"} --nj "${nj}" -- \
        ${python} -m espnet2.bin.asr_train --collect_stats true "${train_args[@]}" ${asr_args}
    end
fi

# Training, decoding and scoring hold the directories of their experiment only.
[ -z "${data_lock}" ] || exec {data_lock}>&-

if wanted 11; then
    begin 11 "training: ${asr_exp}"
    if [ "${feats_normalize}" = global_mvn ]; then
        train_args+=(--normalize global_mvn --normalize_conf "stats_file=${asr_stats_dir}/train/feats_stats.npz")
    fi
    launcher=()
    if [ "${num_nodes}" -gt 1 ]; then
        # One program on each machine, which starts a process for each of its GPUs; a new rendezvous file
        # each time, since one that a killed run left would be joined.
        launcher=(srun --nodes "${num_nodes}" --ntasks "${num_nodes}" --ntasks-per-node 1 --export ALL)
        rendezvous=$(mktemp -u "$(realpath "${expdir}")/.dist_init_XXXXXXXX")
        train_args+=(--multiprocessing_distributed true --dist_launcher slurm --dist_init_method "file://${rendezvous}")
        [ "${ngpu}" -gt 0 ] || train_args+=(--dist_backend gloo)
    elif [ "${ngpu}" -gt 1 ]; then
        train_args+=(--multiprocessing_distributed true)
    fi
    # shellcheck disable=SC2086
    "${py}" local/train.py --experiment "${asr_exp}" \
        ${asr_config:+--config "${asr_config}"} -- \
        "${launcher[@]}" ${python} -m espnet2.bin.asr_train --ngpu "${ngpu}" --resume true --output_dir "${asr_exp}" \
        --fold_length "$((asr_speech_fold_length * 100))" --fold_length "${asr_text_fold_length}" \
        --train_shape_file "${asr_stats_dir}/train/speech_shape" \
        --train_shape_file "${asr_stats_dir}/train/text_shape.${token_type}" \
        --valid_shape_file "${asr_stats_dir}/valid/speech_shape" \
        --valid_shape_file "${asr_stats_dir}/valid/text_shape.${token_type}" \
        "${train_args[@]}" ${asr_args}
    end
fi

if wanted 12; then
    begin 12 "decoding: ${asr_exp}/${inference_tag}"
    decode_ngpu=0
    [ "${gpu_inference}" = false ] || decode_ngpu=1
    lm_options=()
    [ "${use_lm}" = false ] || lm_options=(--lm_train_config "${lm_files[0]}" --lm_file "${lm_files[1]}")
    for dset in ${eval_sets}; do
        # shellcheck disable=SC2086
        "${py}" local/decode.py --data "${data_feats}/${dset}" --output "${asr_exp}/${inference_tag}/${dset}" \
            --nj "${inference_nj}" \
            --depends "${asr_exp}/config.yaml" "${asr_exp}/${inference_asr_model}" ${inference_config} "${lm_files[@]}" -- \
            ${python} -m espnet2.bin.asr_inference --ngpu "${decode_ngpu}" \
            --data_path_and_name_and_type "${data_feats}/${dset}/wav.scp,speech,sound" \
            --asr_train_config "${asr_exp}/config.yaml" --asr_model_file "${asr_exp}/${inference_asr_model}" \
            "${lm_options[@]}" ${inference_config:+--config "${inference_config}"} ${inference_args}
    done
    end
fi

if wanted 13; then
    begin 13 "scoring: ${asr_exp}/RESULTS.md"
    for dset in ${eval_sets}; do
        "${py}" local/score.py --data "${data_feats}/${dset}" --decoded "${asr_exp}/${inference_tag}/${dset}" \
            --sclite "${sclite}" --score_opts="${score_opts}" --bpemodel "${bpemodel}"
    done
    "${py}" -m espnet_moe_share.bin.compare "${asr_exp}" --asr_model_file "${inference_asr_model}" \
        --output "${asr_exp}/RESULTS.md" --command "${RECIPE_COMMAND:-${own_command}}"
    end
fi

if wanted 14; then
    packed=${asr_exp}/${asr_exp##*/}_${inference_asr_model%.*}.zip
    begin 14 "packing: ${packed}"
    options=()
    files=("${asr_stats_dir}/train/feats_stats.npz" "${bpemodel}" "${asr_exp}/RESULTS.md" "${asr_exp}/images")
    if [ "${use_lm}" = true ]; then
        options=(--lm_train_config "${lm_files[0]}" --lm_file "${lm_files[1]}")
        files+=("${lm_exp}/perplexity_test/ppl" "${lm_exp}/images")
    fi
    for file in "${files[@]}"; do
        [ ! -e "${file}" ] || options+=(--option "${file}")
    done
    ${python} -m espnet2.bin.pack asr --asr_train_config "${asr_exp}/config.yaml" \
        --asr_model_file "${asr_exp}/${inference_asr_model}" "${options[@]}" --outpath "${packed}.partial.zip"
    mv "${packed}.partial.zip" "${packed}"
    end
fi

# shellcheck shell=bash
# Sourced by asr.sh: stages 6, 7 and 8, the language model that decoding can use. Reads asr.sh's variables.
: "${use_lm:?}" "${nj:?}" "${ngpu:?}" "${py:?}" "${python:?}" "${token_type:?}" "${token_list:?}" "${bpemodel:?}"
: "${lm_exp:?}" "${lm_stats_dir:?}" "${lm_text:?}" "${lm_dev_text:?}" "${lm_test_text:?}" "${lm_fold_length:?}"
: "${inference_lm:?}"

# Arguments that stages 6 and 7 share; lm_args is split at spaces, as in asr.sh of ESPnet.
lm_train_args=(
    "${token_args[@]:?}"
    --train_data_path_and_name_and_type "${lm_text},text,text"
    --valid_data_path_and_name_and_type "${lm_dev_text},text,text"
)
[ -z "${lm_config:=}" ] || lm_train_args+=(--config "${lm_config}")

if wanted 6; then
    begin 6 "language model, text lengths: ${lm_stats_dir}"
    # shellcheck disable=SC2086
    "${py}" local/collect_stats.py --train "${lm_text}" --valid "${lm_dev_text}" --output "${lm_stats_dir}" \
        --token_list "${token_list}" --token_type "${token_type}" --feats_normalize none \
        ${lm_config:+--config "${lm_config}"} --nj "${nj}" -- \
        ${python} -m espnet2.bin.lm_train --collect_stats true "${lm_train_args[@]}" ${lm_args:-}
    end
fi

if wanted 7; then
    begin 7 "language model, training: ${lm_exp}"
    [ "${ngpu}" -le 1 ] || lm_train_args+=(--multiprocessing_distributed true)
    # shellcheck disable=SC2086
    "${py}" local/train.py --experiment "${lm_exp}" ${lm_config:+--config "${lm_config}"} -- \
        ${python} -m espnet2.bin.lm_train --ngpu "${ngpu}" --resume true --output_dir "${lm_exp}" \
        --fold_length "${lm_fold_length}" \
        --train_shape_file "${lm_stats_dir}/train/text_shape.${token_type}" \
        --valid_shape_file "${lm_stats_dir}/valid/text_shape.${token_type}" \
        "${lm_train_args[@]}" ${lm_args:-}
    end
fi

if wanted 8; then
    begin 8 "language model, perplexity: ${lm_test_text}"
    # shellcheck disable=SC2086
    "${py}" local/perplexity.py --text "${lm_test_text}" --output "${lm_exp}/perplexity_test" \
        --depends "${lm_exp}/config.yaml" "${lm_exp}/${inference_lm}" -- \
        ${python} -m espnet2.bin.lm_calc_perplexity --ngpu "$((ngpu > 0))" \
        --data_path_and_name_and_type "${lm_test_text},text,text" \
        --train_config "${lm_exp}/config.yaml" --model_file "${lm_exp}/${inference_lm}"
    end
fi

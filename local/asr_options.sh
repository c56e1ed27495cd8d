# shellcheck shell=bash
# Sourced by asr.sh: its options, which are those of ESPnet's asr.sh, with their defaults; reads them from
# "$@", and refuses what can be seen to be wrong without looking at data.
# shellcheck disable=SC2034  # most are read by asr.sh

stage=1
stop_stage=100
skip_stages=
skip_data_prep=false
skip_train=false
skip_eval=false
skip_packing=true
eval_valid_set=false
ngpu=0
num_nodes=1
nj=4
inference_nj=4
gpu_inference=false
dumpdir=dump
expdir=exp
python="python3 -m espnet_moe_share.launch"
local_data_opts=
speed_perturb_factors=
feats_type=raw
fs=16k
min_wav_duration=0.1
max_wav_duration=20
token_type=char
nbpe=30
bpemode=unigram
bpe_char_cover=1.0
allow_unk=false
use_lm=false
lm_tag=
lm_exp=
lm_stats_dir=
lm_config=
lm_args=
asr_tag=
asr_exp=
asr_stats_dir=
asr_config=
asr_args=
feats_normalize=global_mvn
asr_speech_fold_length=800
asr_text_fold_length=150
inference_tag=
inference_config=
inference_args=
inference_lm=valid.loss.ave.pth
inference_asr_model=valid.acc.ave.pth
train_set=
valid_set=
test_sets=
bpe_train_text=
lm_train_text=
lm_dev_text=
lm_test_text=
lang=noinfo
score_opts=
lm_fold_length=150

help_message="Usage: $0 --train_set NAME --valid_set NAME --test_sets \"NAME ...\" [options]
Options are those of ESPnet's asr.sh; in brackets the default.
  --stage, --stop_stage      first and last stage [${stage}, ${stop_stage}]
  --skip_stages              stages to leave out, such as \"4 5\"
  --skip_data_prep, --skip_train, --skip_eval, --skip_packing [${skip_data_prep}, ${skip_train}, ${skip_eval}, ${skip_packing}]
  --eval_valid_set           decode and score the validation set, too [${eval_valid_set}]
  --ngpu                     GPUs for training, of each machine; 0 trains on the CPU [${ngpu}]
  --num_nodes                machines for training, those of the slurm allocation that this runs in [${num_nodes}]
  --nj, --inference_nj       parallel jobs for data and decoding [${nj}, ${inference_nj}]
  --gpu_inference            decode on a GPU [${gpu_inference}]
  --dumpdir, --expdir        where features and experiments go [${dumpdir}, ${expdir}]
  --python                   how ESPnet's programs are started [${python}]
  --local_data_opts          options of local/data.sh
  --speed_perturb_factors    such as \"0.9 1.0 1.1\"; empty: no speed perturbation
  --feats_type               raw only
  --fs                       sampling rate of all audio [${fs}]
  --min_wav_duration, --max_wav_duration   seconds; others are not trained on [${min_wav_duration}, ${max_wav_duration}]
  --token_type               char, bpe or word [${token_type}]
  --nbpe, --bpemode, --bpe_char_cover, --bpe_train_text   for bpe [${nbpe}, ${bpemode}, ${bpe_char_cover}, training text]
  --allow_unk                read a character that the training text lacks as <unk> instead of stopping [${allow_unk}]
  --use_lm                   train a language model and decode with it [${use_lm}]
  --lm_config, --lm_args     its training configuration, further options of lm_train
  --lm_tag, --lm_exp, --lm_stats_dir   names in place of those derived from the configuration
  --lm_train_text, --lm_dev_text, --lm_test_text   texts, ids first [those of training, validation and first test set]
  --inference_lm             language model that decoding uses [${inference_lm}]
  --lang                     part of directory names [${lang}]
  --asr_config, --asr_args   training configuration, further options of asr_train
  --asr_tag, --asr_exp, --asr_stats_dir    names in place of those derived from the configuration
  --feats_normalize          global_mvn or utterance_mvn [${feats_normalize}]
  --asr_speech_fold_length, --asr_text_fold_length, --lm_fold_length
                             for batch_type folded [${asr_speech_fold_length}, ${asr_text_fold_length}, ${lm_fold_length}]
  --inference_config, --inference_args, --inference_tag   decoding configuration, options, name
  --inference_asr_model      model that is decoded [${inference_asr_model}]
  --score_opts               further options of sclite"

# shellcheck source=local/parse_options.sh
. local/parse_options.sh

die() {
    echo "asr.sh: error: $*" >&2
    exit 2
}

[ $# -eq 0 ] || die "unexpected argument '$1'; options start with --"
[ -n "${train_set}" ] || die "--train_set is required"
[ -n "${valid_set}" ] || die "--valid_set is required"
[ "${train_set}" != "${valid_set}" ] || die "--train_set and --valid_set are both ${train_set}"
[ "${feats_type}" = raw ] || die "--feats_type ${feats_type}: only raw is supported without Kaldi"
[[ "${token_type}" =~ ^(char|bpe|word)$ ]] || die "--token_type ${token_type}: char, bpe or word is needed"
[[ "${feats_normalize}" =~ ^(global_mvn|utterance_mvn)$ ]] ||
    die "--feats_normalize ${feats_normalize}: global_mvn or utterance_mvn is needed"
for name in stage stop_stage ngpu num_nodes nj inference_nj nbpe; do
    [[ "${!name}" =~ ^[0-9]+$ ]] || die "--${name} ${!name}: a number is needed"
done
[[ "${dumpdir}${expdir}${asr_tag}${asr_exp}${lm_tag}${lm_exp}" != *[[:space:]]* ]] ||
    die "directory names and tags must not hold spaces, which ESPnet splits at"
for file in "${asr_config}" "${inference_config}" "${lm_config}"; do
    [ -z "${file}" ] || [ -f "${file}" ] || die "${file}: no such configuration"
done

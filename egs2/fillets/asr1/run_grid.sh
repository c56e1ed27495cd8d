#!/usr/bin/env bash
# Experts shared or individual x routers shared or individual, beside dense layers, individual or shared:
# six systems of equal depth, width and active compute, trained alike on Fish Fillets NG. Writes
# exp/GRID.md.
#   ./run_grid.sh                                          all systems with seed 1
#   ./run_grid.sh --systems "dense" --seeds "1 2"          some; what is done is skipped
# Further options are those of run.sh.
set -euo pipefail
RECIPE_COMMAND=$(printf '%q ' "$0" "$@")
export RECIPE_COMMAND
cd "$(dirname "${BASH_SOURCE[0]}")"
# What conf/train_*_fillets.yaml has otherwise than conf/train_*_mini.yaml.
exec local/grid.sh --seeds 1 --inference_config conf/decode_asr_fillets.yaml --asr_args "\
--encoder_conf input_layer=conv2d --encoder_conf dropout_rate=0.05 --encoder_conf positional_dropout_rate=0.05 \
--decoder_conf linear_units=576 --decoder_conf dropout_rate=0.05 --decoder_conf positional_dropout_rate=0.05 \
--max_epoch 24 --optim_conf lr=0.001 --scheduler_conf max_lr=0.001 --scheduler_conf total_steps=2400 \
--scheduler_conf pct_start=0.3" "$@"

# shellcheck shell=bash
# Sourced by the asr.sh of an ESPnet checkout (docs/espnet_checkout.md): where its jobs run. As in ESPnet's
# recipes: local, stdout, sge, pbs, slurm, ssh or jhu. A cluster's settings go into conf/slurm.conf and so on.
cmd_backend=${cmd_backend:-local}
# shellcheck source=local/cmd_backend.sh
. local/cmd_backend.sh

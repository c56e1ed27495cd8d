# shellcheck shell=bash
# Sourced by the recipes' cmd.sh: sets train_cmd, cuda_cmd and decode_cmd to what the checkout's cmd.sh has for
# ${cmd_backend}. That file names its back-end in its first assignment, which is to be edited in a copy of it.
_template=${ESPNET_ROOT:?is not set; run.sh or the link to asr.sh in this directory sets it}/egs2/TEMPLATE/asr1
# shellcheck source=/dev/null
. <(sed "s|^cmd_backend=.*|cmd_backend='${cmd_backend:?}'|" "${_template}/cmd.sh") || return 1
# conf/slurm.conf of the recipe, where it has one, else the checkout's.
for _name in train_cmd cuda_cmd decode_cmd; do
    _program=${!_name%% *}
    _conf=${_program%.pl}.conf
    if [[ "${!_name}" != *--config* ]] && [ ! -f "conf/${_conf}" ] && [ -f "${_template}/conf/${_conf}" ]; then
        export "${_name}=${!_name} --config ${_template}/conf/${_conf}"
    fi
done
unset _template _name _program _conf

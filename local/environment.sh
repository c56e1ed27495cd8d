# shellcheck shell=bash
# Sourced by the recipes' path.sh, in the recipe's directory. Takes the environment of the ESPnet
# checkout that ESPNET_ROOT names, if any, and the repository's .venv when ESPnet is not there otherwise.
_root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && cd .. && pwd -P)
export ESPNET_ROOT=${ESPNET_ROOT-}
ESPNET_ROOT=${ESPNET_ROOT%/}
if [ -z "${ESPNET_ROOT}" ] && [ -L asr.sh ]; then
    # The jobs of a cluster get little more than PATH, and the run.sh scripts that asr.sh leaves in exp/ are
    # called by hand: both find the checkout by the recipe's link. For others that link means nothing.
    _template=$(dirname "$(readlink asr.sh)")
    if [ "$0" = ./asr.sh ] || [[ ":${PATH}" = *":${_template}/utils/"* ]]; then
        ESPNET_ROOT=${_template%/egs2/TEMPLATE/asr1}
    fi
    unset _template
fi
if [ -n "${ESPNET_ROOT}" ] && [ -f "${ESPNET_ROOT}/egs2/TEMPLATE/asr1/path.sh" ]; then
    _here=${PWD}
    # It finds the checkout's tools by its own place in it. What it prints would get into RESULTS.md.
    cd "${ESPNET_ROOT}/egs2/TEMPLATE/asr1" || return 1
    # shellcheck source=/dev/null
    . ./path.sh >/dev/null
    cd "${_here}" || return 1
    unset _here
fi
if [ -x "${_root}/.venv/bin/python3" ] &&
    ! python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("espnet2") is None)' 2>/dev/null; then
    export VIRTUAL_ENV=${_root}/.venv
    export PATH=${_root}/.venv/bin:${PATH}
fi
case ":${PYTHONPATH-}:" in
    *":${_root}:"*) ;;
    *) export PYTHONPATH=${_root}${PYTHONPATH:+:${PYTHONPATH}} ;;
esac
unset _root
# C order is what sorted lists are compared in; Python prints UTF-8 nevertheless.
export LC_ALL=C
export PYTHONIOENCODING=UTF-8
# Threads that wait must not spin: training on the CPU would be slowed many times over as soon as another
# program wants one of the same cores.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
# glibc must not hand freed memory back: a training step frees its gradients and activations and takes as
# much again, which the system would have to clear and map page by page in every step.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_-4294967296}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_-8589934592}

# shellcheck shell=bash
# Sourced by the recipes' path.sh. Uses the repository's .venv when ESPnet is not there already.
_root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && cd .. && pwd -P)
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

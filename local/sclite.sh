# shellcheck shell=bash
# Sourced: find_sclite prints where NIST's sclite is; Debian's package does not put it on PATH.

find_sclite() {
    local here place
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
    if command -v sclite; then
        return
    fi
    for place in /usr/lib/sctk/bin "${ESPNET_ROOT:+${ESPNET_ROOT}/tools/sctk/bin}" "${here}/../.venv/bin"; do
        if [ -n "${place}" ] && [ -x "${place}/sclite" ]; then
            echo "${place}/sclite"
            return
        fi
    done
    return 1
}

require_sclite() {
    find_sclite && return
    echo "$(basename "$0"): error: sclite, which scores the results, is not installed;" \
        "'apt-get install sctk' as root or 'bash local/setup_env.sh' in the repository installs it" >&2
    return 1
}

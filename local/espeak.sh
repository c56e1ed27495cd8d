# shellcheck shell=bash
# Sourced: find_espeak prints where eSpeak NG is; fetch_espeak gets it without root.

find_espeak() {
    local here
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
    if command -v espeak-ng; then
        return
    fi
    if [ -x "${here}/../.venv/bin/espeak-ng" ]; then
        echo "${here}/../.venv/bin/espeak-ng"
        return
    fi
    return 1
}

# fetch_espeak <dir>: leaves <dir>/espeak-ng, which starts the program with the libraries and voices
# that are unpacked there.
fetch_espeak() {
    local here data
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
    "${here}/fetch_deb.sh" --libraries espeak-ng "$1" "'apt-get install espeak-ng' as root installs it" || return
    data=$(cd "$1" && find usr/lib -type d -name espeak-ng-data -print -quit)
    data=${data%/*}
    cat >"$1/.espeak-ng.$$" <<SCRIPT
#!/bin/sh
here=\$(dirname "\$(readlink -f "\$0")")
export LD_LIBRARY_PATH="\${here}/${data}:\${here}/${data}/pulseaudio:\${here}/${data#usr/}"
export ESPEAK_DATA_PATH="\${here}/${data}"
exec "\${here}/usr/bin/espeak-ng" "\$@"
SCRIPT
    chmod 755 "$1/.espeak-ng.$$"
    mv "$1/.espeak-ng.$$" "$1/espeak-ng"
}

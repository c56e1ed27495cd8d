#!/usr/bin/env bash
# Fetch a Debian package and unpack it without installing it; no root needed.
set -euo pipefail

help_message="Usage: local/fetch_deb.sh [--libraries] <package> <target_dir> [<alternative>]

Leaves the package's files in <target_dir>/usr/... , which appears when complete. Does nothing if the
package is there already. With --libraries, also the files of every package that it depends on, but
for the C library. <alternative> ends the error message when the package cannot be had, e.g. 'give
an unpacked one with --gcin_voice DIR'."

if [ "${1:-}" = "--help" ]; then
    echo "${help_message}"
    exit 0
fi
libraries=false
if [ "${1:-}" = "--libraries" ]; then
    libraries=true
    shift
fi
if [ $# -lt 2 ] || [ $# -gt 3 ] || [ -z "$1" ] || [ -z "$2" ]; then
    echo "fetch_deb.sh: error: expected <package> <target_dir> [<alternative>], got $# arguments" >&2
    exit 2
fi
package=$1
target=${2%/}
alternative=${3:-"unpack the package ${package} to ${target} yourself (dpkg -x)"}

fail() {
    echo "fetch_deb.sh: error: $1; ${alternative}" >&2
    exit 1
}

if [ -d "${target}/usr/share/doc/${package}" ]; then
    exit 0
fi
if [ -e "${target}" ] && ! rmdir "${target}" 2>/dev/null; then
    fail "${target} exists and does not hold the package ${package}"
fi
for program in apt-get dpkg; do
    command -v "${program}" >/dev/null || fail "${program} not found, needed to fetch ${package}"
done
mkdir -p "$(dirname "${target}")" 2>/dev/null || fail "cannot create $(dirname "${target}")"
temporary=$(mktemp -d "${target}.XXXXXX" 2>/dev/null) \
    || fail "cannot write to $(dirname "${target}")"
trap 'rm -rf "${temporary}"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# mktemp's 0700 would keep other users of a shared checkout out.
chmod 755 "${temporary}"
temporary=$(cd "${temporary}" && pwd)
log=${temporary}/apt.log

# Only root can drop privileges to apt's own user, who may not write here.
apt_options=(-q -o APT::Sandbox::User=root)

download() {
    local packages=("${package}")
    if [ "${libraries}" = true ]; then
        # The C library has to be the one that the system's loader belongs to.
        mapfile -t packages < <(LC_ALL=C apt-cache "${apt_options[@]}" depends --recurse --no-recommends \
            --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "${package}" 2>>"${log}" |
            grep '^[a-z0-9]' | grep -vE '^(libc6|libgcc-s1|gcc-[0-9]+-base|libelogind0)$')
        [ "${#packages[@]}" -gt 0 ] || return 1
    fi
    (cd "${temporary}" && LC_ALL=C apt-get "${apt_options[@]}" download "${packages[@]}") \
        >>"${log}" 2>&1 </dev/null
}

echo "fetch_deb.sh: fetching ${package} to ${target}"
if ! download; then
    # The system's lists may be missing (containers), or so old that the server dropped the version
    # that they name; fresh ones for this call alone need no root and change nothing.
    mkdir -p "${temporary}/lists/partial" "${temporary}/cache/archives/partial"
    apt_options+=(-o "Dir::State::Lists=${temporary}/lists" -o "Dir::Cache=${temporary}/cache")
    if ! LC_ALL=C apt-get "${apt_options[@]}" update >>"${log}" 2>&1 </dev/null || ! download; then
        reason=$(grep -m 1 '^[EW]: Failed to fetch' "${log}" || grep -m 1 '^E: ' "${log}" || true)
        fail "apt-get cannot download ${package} (${reason:-no network?})"
    fi
fi
[ -n "$(find "${temporary}" -maxdepth 1 -name "${package}_*.deb" -print -quit)" ] ||
    fail "apt-get downloaded no ${package}_*.deb"
for deb in "${temporary}"/*.deb; do
    dpkg -x "${deb}" "${temporary}/tree" 2>>"${log}" ||
        fail "cannot unpack $(basename "${deb}") ($(tail -n 1 "${log}"))"
done
mv -T "${temporary}/tree" "${target}"

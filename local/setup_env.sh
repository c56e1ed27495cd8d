#!/usr/bin/env bash
# Makes the repository's Python environment, .venv, with this package, ESPnet and sclite in it, and with
# eSpeak NG where the tests are wanted.
# A second call finds it complete and does nothing. From any directory, without root:
#   bash local/setup_env.sh [--with_test true] [--venv DIR]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "${root}"
with_test=false
venv=${root}/.venv
# shellcheck disable=SC2034  # read by parse_options.sh
help_message="Usage: bash local/setup_env.sh [options]
  --with_test   install what the tests need as well [${with_test}]
  --venv        where the environment goes [.venv in the repository]"
# shellcheck source=local/parse_options.sh
. local/parse_options.sh
# shellcheck source=local/sclite.sh
. local/sclite.sh
# shellcheck source=local/espeak.sh
. local/espeak.sh

die() {
    echo "setup_env.sh: error: $*" >&2
    exit 1
}

is_usable() { # is_usable <python>
    "$1" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

# make_venv: an environment with Python 3.12 or 3.13. pyenv's python3 reads .python-version.
make_venv() {
    local candidate
    for candidate in python3 python3.12 python3.13; do
        if command -v "${candidate}" >/dev/null && is_usable "${candidate}" &&
            "${candidate}" -m venv --clear "${venv}" >/dev/null 2>&1; then
            return
        fi
    done
    rm -rf "${venv}"
    if command -v uv >/dev/null && uv venv --quiet --seed --python 3.12 "${venv}"; then
        return
    fi
    die "found no Python 3.12 or 3.13 with venv; install one (Debian: python3-venv with it) or uv"
}

extras=
[ "${with_test}" = false ] || extras="[test]"
# The release that the figures in RESULTS.md were measured with; setup.py itself takes any that ESPnet takes.
torch="torch==2.13.0"
# What is installed depends on these alone: the package itself is installed in editable mode.
wanted="$(sha256sum setup.py | cut -d' ' -f1) ${torch}${extras}"
stamp=${venv}/.setup_done
if [ ! -f "${stamp}" ] || ! grep -qxF -e "${wanted}" -e "${wanted%"[test]"}[test]" "${stamp}"; then
    if ! { [ -x "${venv}/bin/python3" ] && is_usable "${venv}/bin/python3"; }; then
        make_venv
    fi
    # Gone while pip works: an interrupted installation is gone on with at the next call.
    rm -f "${stamp}"
    echo "installing espnet_moe_share${extras} and what it needs into ${venv}; this takes some minutes"
    "${venv}/bin/python3" -m pip install --quiet --disable-pip-version-check "${torch}" --editable ".${extras}" ||
        die "pip could not install the package; see its message above, then run this again"
    echo "${wanted}" >"${stamp}.partial"
    mv "${stamp}.partial" "${stamp}"
fi

if ! PATH=${venv}/bin:${PATH} find_sclite >/dev/null; then
    echo "fetching sclite (Debian package sctk)"
    local/fetch_deb.sh sctk "${venv}/sctk" "install SCTK and put sclite on PATH"
    # sclite without arguments prints its usage; anything else means that it cannot run here.
    { "${venv}/sctk/usr/lib/sctk/bin/sclite" 2>&1 || true; } | grep -q Version ||
        die "${venv}/sctk/usr/lib/sctk/bin/sclite does not run; install SCTK and put sclite on PATH"
    ln -sfn ../sctk/usr/lib/sctk/bin/sclite "${venv}/bin/sclite"
fi
if [ "${with_test}" = true ] && ! PATH=${venv}/bin:${PATH} find_espeak >/dev/null; then
    echo "fetching eSpeak NG (Debian package espeak-ng)"
    fetch_espeak "${venv}/espeak-ng"
    "${venv}/espeak-ng/espeak-ng" --version >/dev/null ||
        die "${venv}/espeak-ng/espeak-ng does not run; install espeak-ng and put it on PATH"
    ln -sfn ../espeak-ng/espeak-ng "${venv}/bin/espeak-ng"
fi
echo "${venv} is complete"

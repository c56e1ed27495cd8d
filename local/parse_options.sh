# shellcheck shell=bash
# Sourced after a script has given its variables their defaults: `. local/parse_options.sh`.
# `--some-name value`, `--some_name value` and `--some_name=value` set the variable some_name, which must
# exist already, so that a misspelt option stops the script. A variable whose default is true or false
# takes only these. `--help` prints the script's help_message, or calls its function usage. Positional
# arguments stay in "$@".
#
# A script that passes options on names those that it reads itself in an array, own_options. The others are
# then in the array other_options, each as two elements: as it was written (--some-name), and its value.

_option_error() {
    echo "$(basename "$0"): error: $*" >&2
    exit 2
}

_positional=()
other_options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h)
            if [ "$(type -t usage)" = function ]; then usage; else printf '%s\n' "${help_message-no help available}"; fi
            exit 0
            ;;
        --)
            shift
            _positional+=("$@")
            break
            ;;
        --*=*)
            _option=${1%%=*} _value=${1#*=}
            shift
            ;;
        --*)
            [ $# -ge 2 ] || _option_error "option $1 needs a value"
            _option=$1 _value=$2
            shift 2
            ;;
        *)
            _positional+=("$1")
            shift
            continue
            ;;
    esac
    _name=${_option#--}
    _name=${_name//-/_}
    [[ "${_name}" =~ ^[a-z][a-z0-9_]*$ && "${_name}" != help_message ]] ||
        _option_error "unknown option ${_option}; --help lists the options"
    if [ -v own_options ] && [[ " ${own_options[*]} " != *" ${_name} "* ]]; then
        other_options+=("${_option}" "${_value}")
        continue
    fi
    [ -v "${_name}" ] || _option_error "unknown option ${_option}; --help lists the options"
    if [[ "${!_name}" = true || "${!_name}" = false ]] && [[ "${_value}" != true && "${_value}" != false ]]; then
        _option_error "option ${_option} takes true or false, not '${_value}'"
    fi
    printf -v "${_name}" '%s' "${_value}"
done
set -- "${_positional[@]}"
unset _positional _option _value _name

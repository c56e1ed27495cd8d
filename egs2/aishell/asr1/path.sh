# shellcheck shell=bash
# Sourced in the recipe's directory, as in ESPnet's recipes.
# shellcheck source=local/environment.sh
. local/environment.sh

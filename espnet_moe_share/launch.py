"""Run one of ESPnet's programs with our encoders and model registered.

    python -m espnet_moe_share.launch -m espnet2.bin.asr_train --config conf/train.yaml ...

takes the place of ``python -m espnet2.bin.asr_train``, so that ESPnet's own ``asr.sh`` needs no
more than ``--python "python3 -m espnet_moe_share.launch"``.
"""

import sys
from importlib import import_module
from importlib.util import find_spec

from espnet_moe_share import register
from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.other_plug_in import other_plug_in_errors

USAGE = "usage: python -m espnet_moe_share.launch -m <module with main()> [argument ...]"

if __name__ == "__mp_main__":
    # A process that multiprocessing spawned (ESPnet's multi-GPU training) imports this module
    # under that name and never calls main(): without this it would know none of our classes.
    register()


def main() -> None:
    """Import the module named after ``-m``, register, and call its ``main()``.

    Registration comes after the import, and only when the program loads ESPnet's ASR task: small
    programs such as ``espnet2.bin.tokenize_text`` start as fast as without us.
    """
    if len(sys.argv) < 3 or sys.argv[1] != "-m":
        sys.exit(USAGE)
    name = sys.argv[2]
    try:
        found = find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        sys.exit(f"espnet_moe_share.launch: no module named '{name}'; {USAGE}")
    module = import_module(name)
    if not callable(getattr(module, "main", None)):
        sys.exit(f"espnet_moe_share.launch: {name} has no main() function; {USAGE}")
    sys.argv = [str(found.origin), *sys.argv[3:]]
    if "espnet2.tasks.asr" in sys.modules:
        register()
    try:
        with other_plug_in_errors():
            module.main()
    except (ConfigurationError, CheckpointMismatchError) as error:
        sys.exit(f"{name}: error: {error}")


if __name__ == "__main__":
    main()

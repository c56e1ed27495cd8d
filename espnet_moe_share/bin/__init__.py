"""Programs of the package, each run as ``python -m espnet_moe_share.bin.<name>``."""

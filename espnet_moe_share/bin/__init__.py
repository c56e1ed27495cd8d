"""Programs: ``python -m espnet_moe_share.bin.<name>``."""

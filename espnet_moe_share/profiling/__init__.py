"""What a configuration costs, told without training it: parameters, operations, bytes."""

AISHELL_TOKENS = 4233
SPEECH_SECONDS = 10.0

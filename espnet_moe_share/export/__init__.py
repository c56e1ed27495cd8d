"""Export of the encoder and its CTC head, from the waveform on, for devices without PyTorch."""

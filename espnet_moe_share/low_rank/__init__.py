"""Linear layers and 1x1 convolutions as products of two thin factors, and where these start."""

"""Parameter sharing across the layers of an encoder, by rules over parameter paths."""

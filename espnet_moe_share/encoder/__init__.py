"""Encoders: ESPnet's own, with experts and sharing in their layers."""

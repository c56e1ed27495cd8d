"""Experiments side by side: size, error rates, speed, and what of a difference may be chance.

Works on the directories that ESPnet's recipes leave. Importing it is light: neither torch nor
ESPnet is needed before parameters are counted.
"""

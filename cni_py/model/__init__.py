"""Frozen values that planners and adapters exchange: no I/O, no clock, no randomness, no logging."""

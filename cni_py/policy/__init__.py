"""Planners of network policy: cluster objects in; verdicts, and the rules that enforce them, out. No I/O."""

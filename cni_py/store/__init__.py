"""Adapter to the disk: leases and attachment records, locked, written whole or not at all."""

"""Adapter that runs a delegated plugin found on CNI_PATH (SPEC section 4)."""

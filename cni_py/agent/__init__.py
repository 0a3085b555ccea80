"""The warm node agent: loops that own state and time. What a call means is decided below, in the planners."""

"""The CNI wire: environment and stdin to a request, a result or an error to stdout. Nothing of our own policy."""

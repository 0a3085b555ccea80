"""Adapter to the kernel: the only room that speaks netlink, enters namespaces and writes sysctls."""

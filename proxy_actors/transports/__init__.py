"""Adapters that touch sockets, pipes and processes."""

"""The operators' side: what the command line does from outside a running proxy."""

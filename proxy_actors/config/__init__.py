"""The configuration file: what can be set, how it is read, and what is said about mistakes."""

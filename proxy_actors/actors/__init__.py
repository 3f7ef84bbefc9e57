"""Imperative shells: one actor a module, each the sole owner of its state."""

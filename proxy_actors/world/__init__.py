"""The interface to time, chance and I/O, with a real and a simulated implementation."""

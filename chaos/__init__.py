"""Breaks everything around a real proxy, by a seed, and judges what becomes of its clients.

`python -m chaos` plays the scorecard of faults (RELIABILITY section 6) on real processes and real
sockets, a scenario each; `python -m chaos.soak` has mixed traffic and faults for as long as it is
told. What only needs other orders of events is the simulator's (`tests/sim`): each row of the
scorecard says which tests play it there.
"""

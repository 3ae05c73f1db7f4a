"""Deliberate faults in the client, which the simulation has to catch."""

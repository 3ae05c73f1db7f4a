"""Many machines, on Temporal."""

"""Journal of a job: one SQLite file with the outcome of each row."""

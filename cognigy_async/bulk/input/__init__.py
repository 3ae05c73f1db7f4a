"""Input of a job: files, pipes and standard input, read row by row."""

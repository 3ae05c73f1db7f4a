"""What the programs of this folder are made of: work, contestants, rounds, summaries, charts."""

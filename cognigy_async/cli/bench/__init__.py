"""The command `cognigy-async bench`. Programs in `benchmarks/` use its load generator too."""

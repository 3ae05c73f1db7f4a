"""Parts of the benchmarks: work, contestants, scenarios, processes, figures, charts, the page."""

"""Integration with web frameworks and observability tools; each module names its extra."""

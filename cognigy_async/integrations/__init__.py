"""The client inside frameworks and observability tools; each module needs the extra it names."""

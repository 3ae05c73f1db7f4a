"""Values that a caller passes in or gets back."""

"""`cognigy-async probe`: measure the behaviour of a tenant."""

"""`cognigy-async doctor`: check everything between this machine and the server."""

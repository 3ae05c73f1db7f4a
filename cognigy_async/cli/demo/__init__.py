"""`cognigy-async demo`: run the client against a failing emulator, and check the result there."""

"""``python -m cognigy_async`` is the command `cognigy-async`."""

from cognigy_async.cli import main

if __name__ == "__main__":
    main()

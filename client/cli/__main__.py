"""``python -m client.cli``: the same as ``dkd``."""

from client.cli.app import main

if __name__ == "__main__":
    main()

"""`python -m estafeta`: the command line."""

from estafeta.cli.main import main

if __name__ == "__main__":
    main()

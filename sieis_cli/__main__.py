"""`python -m sieis_cli`: the same as the console script `sieis`. Nothing else belongs here."""

from sieis_cli.main import main

if __name__ == "__main__":
    main()

"""`python -m netplane`."""

from netplane.cli import main

if __name__ == "__main__":
    main()

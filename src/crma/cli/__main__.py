"""`python -m crma.cli`, as `accelerate launch` starts it."""

from crma.cli import main

if __name__ == "__main__":
    main()

"""``python -m gradcode.cli``: the same as ``gradcode``."""

from gradcode.cli import main

if __name__ == "__main__":
    main()

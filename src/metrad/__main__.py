"""``python -m metrad`` is the command ``metrad``."""

from metrad.app.cli import main

main()
